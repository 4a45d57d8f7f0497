"""ODIN: a reward model with two heads, of which one learns how long an answer is, so that the other need not.

Chen et al. 2024 (arXiv 2402.07319). Raters like long answers, and a reward model learns that they do; reinforcement learning then buys
length. Here the ranking loss sees the sum of both heads; the length head is pushed to correlate with the number of tokens, the quality
head away from it, and their directions away from one another. Only the quality head is kept.

Where we depart from the paper
- One body in full precision and one process: the correlations are over the batch, not gathered from several machines.
- The paper's code also holds the correlation of the summed heads down; that works against the length head and is left out.
- Rows are centered and of unit norm, as in its code; a learned scale is added, since scores of unit norm cannot say how sure they are.
Left out: the shift to demonstrations while training (`quality` is an ordinary score model, and `RewardModel.shift_to` shifts it).
Landscape: model-free, off-policy, offline; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from tutelage.equations.length_control import odin_penalty
from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.text import Encoded, pad_right
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, set_dropout, spawned
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import ScoreModel


@dataclass(frozen=True)
class Config(Settings):
    """Settings of ODIN."""

    epochs: int = 3
    """Passes over the pairs (paper: 3)."""
    batch_size: int = 64
    """Pairs per update; the correlations are over their answers (paper: 16 per machine)."""
    learning_rate: float = 2e-5
    """At its highest (paper: 2e-5; a net of 30,000 weights wants 1e-3)."""
    penalty: float = 1.0
    """Of `odin_penalty` beside the ranking loss (paper: 1 for the directions, 1 for the correlations)."""
    optimizer: Optimization = field(default_factory=Optimization)
    """Schedule, moments, clipping."""


def odin_loss(
    quality: Float[Tensor, "2 N"],
    length_score: Float[Tensor, "2 N"],
    length: Float[Tensor, "2 N"],
    quality_row: Float[Tensor, "D"],
    length_row: Float[Tensor, "D"],
    penalty: float,
) -> Float[Tensor, ""]:
    """-log sigma of the gap of both heads' sums, and what keeps the heads apart. First row: preferred answers, second: the others."""
    both = quality + length_score
    ranking = bradley_terry_loss(both[0] - both[1], torch.ones_like(both[0])).mean()
    return ranking + penalty * odin_penalty(quality.flatten(), length_score.flatten(), length.flatten(), quality_row, length_row)


class Odin:
    """A score model for quality, a second row for length, and pairs of answers."""

    def __init__(self, config: Config, quality: ScoreModel, pairs: Sequence[tuple[Encoded, Encoded]], generator: Generator) -> None:
        """quality: with a fresh head. pairs: (chosen, rejected). Raises TrainingError without pairs."""
        if not pairs:
            raise TrainingError("no pairs were given; ODIN needs some to learn from")
        set_dropout(quality, 0.0)
        self.config, self.quality, self.pairs = config, quality, list(pairs)
        row = torch.randn(len(quality.weight), generator=generator) / (len(quality.weight) + 1) ** 0.5
        self.length_row = nn.Parameter(row.to(quality.device))
        self.log_scale = nn.Parameter(torch.zeros(2, device=quality.device))
        self.row = nn.Parameter(quality.weight.detach().clone())
        learned = {name: weight for name, weight in quality.named_parameters() if name not in ("weight", "bias")}
        learned |= {"odin.quality": self.row, "odin.length": self.length_row, "odin.log_scale": self.log_scale}
        self.descent = Descent(learned, config.learning_rate, config.optimizer)
        self.passes = Passes(len(pairs), config.batch_size, spawned(generator))
        self.updates, self.total = 0, config.epochs * self.passes.per_pass
        self._settle()

    def update(self) -> dict[str, float]:
        """One step on the next batch."""
        pairs = [self.pairs[i] for i in self.passes.take()]
        batch = pad_right([pair[side] for side in (0, 1) for pair in pairs], 0).to(self.quality.device)
        places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        last = torch.where(batch.attention, places, 0).amax(1)
        hidden = self.quality.hidden(batch.tokens, batch.attention)[torch.arange(len(batch)), last].float()
        quality_row, length_row = _unit(self.row), _unit(self.length_row)
        scale = self.log_scale.exp()
        quality, length_score = (scale[i] * (hidden @ row).view(2, -1) for i, row in enumerate((quality_row, length_row)))
        length = batch.response.sum(1).float().view(2, -1)
        loss = odin_loss(quality, length_score, length, quality_row, length_row, self.config.penalty)
        loss.backward()
        metrics = {"loss": float(loss.detach()), "accuracy": float((quality[0] > quality[1]).float().mean())}
        metrics |= self.descent.step(self.updates, self.total)
        self.updates += 1
        self._settle()
        return metrics

    @torch.no_grad()
    def _settle(self) -> None:
        """The score model's own head is the quality row at its scale."""
        self.quality.weight.copy_(self.log_scale[0].exp() * _unit(self.row))
        self.quality.bias.zero_()

    def nets(self) -> dict[str, Any]:
        """The score model of quality."""
        return {"model": self.quality}

    def state(self) -> dict[str, Any]:
        """Weights and moments, the order of the pairs and the count of updates."""
        return {"descent": self.descent.state(), "passes": self.passes.state(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.passes.load(state["passes"])
        self.updates = int(state["updates"])
        self._settle()


def _unit(row: Float[Tensor, "D"]) -> Float[Tensor, "D"]:
    """Centered, and of norm one."""
    centered = row - row.mean()
    return centered / centered.norm().clamp(min=1e-12)
