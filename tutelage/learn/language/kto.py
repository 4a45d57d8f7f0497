"""KTO: answers with a thumb up or down, one by one and not in pairs, as people weigh gains and losses.

Ethayarajh et al. 2024 (arXiv 2402.01306), eqs. 7 and 8. The implicit reward of an answer, log pi - log pi_ref, is worth what it is above or
below a reference point z_0, an estimate of the policy's KL divergence from answers that belong to other prompts. A good answer is pushed
above it and a bad one below; both saturate, so that what cannot be learned is let go.

Where we depart from the paper
- z_0 comes from the mismatched pairs of the whole batch, also where it goes through the net in microbatches: each prompt of the batch with
  the answer of the row that follows, as in the paper, but passing over rows of the same prompt, whose answers do belong to it.
Left out: z_0 of a whole data set, and the loss without a reference.
Landscape: model-free, off-policy, offline; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations import direct_preferences
from tutelage.experience.text import Encoded, encoded, pad_right
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, set_dropout, shared, spawned
from tutelage.learn.language.reference import text_logp
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import ranks, shard, summed


@dataclass(frozen=True)
class Config(Settings):
    """Settings of KTO."""

    beta: float = 0.1
    """How dear the distance from the reference is (paper: 0.1)."""
    desirable_weight: float = 1.0
    """lambda_D; with n_D good and n_U bad rows, lambda_D n_D / (lambda_U n_U) should lie in [1, 1.33] (paper)."""
    undesirable_weight: float = 1.0
    """lambda_U."""
    epochs: int = 1
    """Passes over the rows (paper: 1)."""
    batch_size: int = 32
    """Rows per update, at least 2 (paper: 32)."""
    microbatch: int | None = None
    """Rows through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 5e-6
    """At its highest (paper: 5e-7 to 5e-6)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(warmup=10, betas=(0.9, 0.999)))
    """Schedule, moments, clipping."""


def kto_loss(
    logp: Float[Tensor, "N"], reference_logp: Float[Tensor, "N"], desirable: Bool[Tensor, "N"], z_0: Float[Tensor, ""], config: Config
) -> Float[Tensor, "N"]:
    """lambda_y - v(x, y) of each row, not reduced. z_0: `kto_reference_point` of the batch."""
    weights = config.desirable_weight, config.undesirable_weight
    return direct_preferences.kto_loss(logp - reference_logp, desirable, z_0, config.beta, *weights)


def mismatched(rows: Sequence[tuple[Encoded, bool]], context: int) -> list[Encoded]:
    """Each prompt with the answer of the next row that has another prompt (of the next row where none has), cut at the context.

    After the last row comes the first.
    """
    split = [text.response.index(True) for text, _ in rows]
    prompts = [text.tokens[:at] for (text, _), at in zip(rows, split, strict=True)]
    answers = [text.tokens[at:] for (text, _), at in zip(rows, split, strict=True)]
    N = len(rows)
    other = lambda i: next((j % N for j in range(i + 1, i + N) if prompts[j % N] != prompts[i]), (i + 1) % N)
    return [encoded(prompt, answers[other(i)][: context - len(prompt)]) for i, prompt in enumerate(prompts)]


class KTO:
    """One policy, its reference, and rows with a thumb up or down."""

    def __init__(
        self, config: Config, model: LanguageModel, rows: Sequence[tuple[Encoded, bool]], generator: Generator,
        reference: LanguageModel | None = None,
    ) -> None:  # fmt: skip
        """rows: (text, whether it is desirable). reference: frozen; None: the model as it is now (with adapters: without them).

        Raises TrainingError for a row without a token to learn from, and for batches of one, which have no mismatched pair.
        """
        for number, (text, _) in enumerate(rows):
            if not any(text.response):
                raise TrainingError(f"row {number}: its answer has no token; it is empty, or was cut off with the end of the text")
        if min(config.batch_size, len(rows)) < 2:
            raise TrainingError(
                f"batches of {min(config.batch_size, len(rows))} were asked for; KTO compares with the answer of another row"
            )
        set_dropout(model, 0.0)
        self.config, self.model, self.rows = config, model, list(rows)
        self.reference = reference if reference is not None or model.adapted is not None else model.copy()
        self.passes = Passes(len(rows), config.batch_size, spawned(generator))
        shard(model, self.reference)
        self.descent = Descent(dict(model.named_parameters()), config.learning_rate, config.optimizer)
        alone = len(rows) % config.batch_size == 1  # the last batch of a pass, which is no step
        self.updates, self.total = 0, config.epochs * (self.passes.per_pass - alone)

    def _reference_logp(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        size = self.config.microbatch or self.config.batch_size
        if self.reference is not None:
            return text_logp(self.reference, texts, size)
        with self.model.reference() as without:
            return text_logp(without, texts, size)

    def update(self) -> dict[str, float]:
        """One step on the next batch; a last batch of one row waits for the next pass."""
        batch = [self.rows[i] for i in self.passes.take()]
        while len(batch) < 2:
            batch = [self.rows[i] for i in self.passes.take()]
        others = mismatched(batch, self.model.context)
        size = self.config.microbatch or self.config.batch_size
        z_0 = direct_preferences.kto_reference_point(text_logp(self.model, others, size) - self._reference_logp(others))
        said, up = self._reference_logp([text for text, _ in batch]), torch.tensor([up for _, up in batch])
        loss, reward = 0.0, torch.zeros(len(batch))
        for part, weight in shared(range(len(batch)), self.config.microbatch):
            rows = list(part)
            tokens = pad_right([batch[i][0] for i in rows], 0).to(self.model.device)
            logp = self.model.log_probs(tokens.tokens, tokens.attention, tokens.response).sum(1)
            reference, desirable = said[rows].to(logp.device), up[rows].to(logp.device)
            piece = weight * kto_loss(logp, reference, desirable, z_0.to(logp.device), self.config).sum() / len(batch)
            piece.backward()
            loss += ranks() * float(piece.detach())
            reward[rows] += weight * self.config.beta * (logp.detach() - reference).float().cpu()
        reward = summed(reward.to(self.model.device)).cpu()
        metrics = {"loss": loss, "z_0": float(z_0)}
        metrics |= {"reward/chosen": float(reward[up].mean()), "reward/rejected": float(reward[~up].mean())}
        metrics |= self.descent.step(self.updates, self.total)
        self.updates += 1
        return metrics

    @torch.no_grad()
    def evaluate(self, rows: Sequence[tuple[Encoded, bool]]) -> dict[str, float]:
        """Loss on rows that were not learned from, and how often the implicit reward of a good one is above that of a bad one."""
        if len(rows) < 2:
            return {}
        texts, others = [text for text, _ in rows], mismatched(rows, self.model.context)
        size = self.config.microbatch or self.config.batch_size
        z_0 = direct_preferences.kto_reference_point(text_logp(self.model, others, size) - self._reference_logp(others))
        logp, reference = text_logp(self.model, texts, size), self._reference_logp(texts)
        desirable = torch.tensor([up for _, up in rows])
        gap = (logp - reference)[desirable][:, None] - (logp - reference)[~desirable][None]
        found = {"loss": float(kto_loss(logp, reference, desirable, z_0, self.config).mean())}
        return found | ({"accuracy": float((gap > 0).float().mean())} if gap.numel() else {})

    def nets(self) -> dict[str, Any]:
        """The policy."""
        return {"model": self.model}

    def state(self) -> dict[str, Any]:
        """Weights, moments, order and the count of updates."""
        return {"descent": self.descent.state(), "passes": self.passes.state(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.passes.load(state["passes"])
        self.updates = int(state["updates"])
