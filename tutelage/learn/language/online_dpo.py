"""Online DPO: the policy's own answers are the pairs, ranked by a reward as they are written.

Guo et al. 2024 (arXiv 2402.04792), algorithm 1. Two answers to each prompt, the reward says which is better, and one step of DPO follows
against a reference that stays. The pairs are never older than the policy, which is where DPO on old pairs loses its way.

Where we depart from the paper
- With more than two answers the best and the worst make the pair (as open-instruct does); with two it is the paper's.
- Pairs of equal score teach nothing and are left out of the step; the batch is divided by those that are left.
Left out: an AI rater asked in both orders; a reward is anything that scores (`rewards/text.py`).
Landscape: model-free, on-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.experience.text import TextBatch
from tutelage.learn.language import dpo
from tutelage.learn.language.descent import Descent, Optimization, TrainingError, set_dropout, shared
from tutelage.learn.language.dpo import LOSSES, PairLogp
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.writing import Asked, Sampling, Writer, Written
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import ranks, shard
from tutelage.rewards.text import TextReward


@dataclass(frozen=True)
class Config(Settings):
    """Settings of online DPO."""

    iterations: int = 1_000
    """Times that pairs are written and learned from."""
    prompts: int = 64
    """Prompts per iteration, which is one gradient step (paper: 128)."""
    samples: int = 2
    """Answers to each (paper: 2)."""
    microbatch: int | None = None
    """Pairs through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 5e-7
    """At its highest (paper, TRL: 5e-7; a net of 30,000 weights wants 3e-4)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(schedule="constant", warmup=150, betas=(0.9, 0.999)))
    """Schedule, moments, clipping (paper: constant after 150 updates)."""
    sampling: Sampling = field(default_factory=Sampling)
    """How texts are written (paper: temperature 0.9)."""
    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    """Of a pair (paper: all three)."""
    beta: float = 0.1
    """How dear the distance from the reference is (paper: 0.1)."""


def online_dpo_loss(
    logp: Float[Tensor, "B"], reference_logp: Float[Tensor, "B"], lengths: Float[Tensor, "B"], config: Config
) -> Float[Tensor, "N"]:
    """DPO's loss of N pairs, whose chosen answers come first and rejected ones then; not reduced."""
    (chosen, rejected), (reference, other), (long, short) = (x.chunk(2) for x in (logp, reference_logp, lengths))
    pairs = PairLogp(chosen, rejected, reference, other, long, short, logp.new_zeros(len(chosen), 0))
    return LOSSES[config.loss](pairs, dpo.Config(loss=config.loss, beta=config.beta))


def best_and_worst(score: Float[Tensor, "P G"]) -> tuple[Tensor, Tensor]:
    """Where in the flat order the best and the worst answer of each prompt are, for prompts where they differ."""
    differ = (score.amax(1) > score.amin(1)).nonzero().flatten()
    first = differ * score.shape[1]
    return first + score[differ].argmax(1), first + score[differ].argmin(1)


class OnlineDPO:
    """A policy that learns from pairs of its own answers."""

    def __init__(
        self, config: Config, policy: LanguageModel, reward: TextReward, prompts: Sequence[Asked], eos: int, generator: Generator,
        reference: LanguageModel | None = None,
    ) -> None:  # fmt: skip
        """reference: frozen; None: the policy as it is now (with adapters: without them). Raises TrainingError for a single answer."""
        if config.samples < 2:
            raise TrainingError(f"samples={config.samples} was given; a pair needs 2 answers to a prompt")
        set_dropout(policy, 0.0)
        self.config, self.policy = config, policy
        self.writer = Writer(config.sampling, policy, reference, reward, prompts, eos, generator)
        shard(policy)
        self.descent = Descent(dict(policy.named_parameters()), config.learning_rate, config.optimizer)
        self.updates, self.total = 0, config.iterations

    def update(self) -> dict[str, float]:
        """One iteration: pairs, and a step on them."""
        written = self.writer.write(self.config.prompts, self.config.samples)
        score = written.score.view(-1, self.config.samples)
        chosen, rejected = best_and_worst(score)
        metrics = written.metrics() | {"pairs": float(len(chosen)), "margin": float((score.amax(1) - score.amin(1)).mean())}
        if len(chosen):
            metrics |= self._improve(written, chosen, rejected) | self.descent.step(self.updates, self.total)
        self.updates += 1
        return metrics

    def _improve(self, written: Written, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
        config, loss, agrees = self.config, 0.0, 0.0
        for part, weight in shared(range(len(chosen)), config.microbatch):
            rows = torch.cat([chosen[list(part)], rejected[list(part)]])
            batch: TextBatch = written.text[rows]
            logp = self.policy.log_probs(batch.tokens, batch.attention, batch.response, config.sampling.sampling_temperature).sum(1)
            reference = written.reference_logp[rows].sum(1)
            piece = weight * online_dpo_loss(logp, reference, batch.response.sum(1).to(logp.dtype), config).sum() / len(chosen)
            piece.backward()
            loss += ranks() * float(piece.detach())
            better, worse = (logp.detach() - reference).chunk(2)
            agrees += ranks() * weight * float((better > worse).sum()) / len(chosen)
        return {"loss": loss, "accuracy": agrees}

    def nets(self) -> dict[str, Any]:
        """The policy."""
        return {"model": self.policy}

    def state(self) -> dict[str, Any]:
        """Weights, moments, orders, the sampler's generator and the count of iterations."""
        return {"descent": self.descent.state(), "writer": self.writer.state(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.writer.load(state["writer"])
        self.updates = int(state["updates"])
