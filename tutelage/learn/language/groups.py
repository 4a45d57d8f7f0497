"""RLOO and GRPO: several answers to each prompt, each judged against the others, and no critic.

RLOO: Kool et al. 2019; for language models Ahmadian et al. 2024 (arXiv 2402.14740). An answer is one action: its advantage is its score
less the mean of the others to its prompt, its ratio that of whole answers, and the price of leaving the reference is part of the score.
GRPO: Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), eqs. 3 and 4. Scores are standardized in their group, every token carries the
advantage of its answer, and the distance from the reference is a term of the loss (k3).

Where we depart from the papers
- One learner for both: the advantage, whether tokens or answers have a ratio, and where the distance counts are fields.
- Standard deviations are of a sample (divided by G - 1), as in torch and TRL; the paper does not say.
Left out: scores for steps of an answer, replacement of the reference during training.
Landscape: model-free, on-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.divergences import kl_k3
from tutelage.equations.group_baselines import grpo_advantage, rloo_advantage
from tutelage.equations.surrogates import clipped_surrogate
from tutelage.experience.text import TextBatch
from tutelage.learn.language.descent import Descent, Optimization, TrainingError, mean_metrics, set_dropout, shared, spawned
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.writing import Asked, Sampling, Writer
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import ranks, shard
from tutelage.rewards.text import TextReward


@dataclass(frozen=True)
class Config(Settings):
    """Settings of RLOO."""

    iterations: int = 1_000
    """Times that texts are written and learned from."""
    prompts: int = 64
    """Prompts per iteration."""
    samples: int = 2
    """Answers to each (RLOO in TRL: 2; paper: 2 or 4)."""
    epochs: int = 1
    """Passes over them (both: 1)."""
    batch_size: int = 128
    """Answers per gradient step."""
    microbatch: int | None = None
    """Answers through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 1e-6
    """At its highest (TRL: 1e-6; a net of 30,000 weights wants 1e-3)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(schedule="linear", final_share=0.0, betas=(0.9, 0.999)))
    """Schedule, moments, clipping."""
    sampling: Sampling = field(default_factory=Sampling)
    """How texts are written."""
    baseline: Literal["others", "standardized", "centered"] = "others"
    """An advantage: the score less the mean of the others (RLOO); standardized in its group (GRPO); centered only (Dr. GRPO)."""
    ratio: Literal["text", "token"] = "text"
    """Whether answers or tokens have a ratio that is clipped (RLOO: answers; GRPO: tokens)."""
    clip_range: float = 0.2
    """How far a ratio may move (both: 0.2)."""
    kl_coefficient: float = 0.05
    """Price of a nat per answer, taken off its score (RLOO: 0.05; GRPO: 0)."""
    kl_loss_coefficient: float = 0.0
    """Weight of k3 per token in the loss (GRPO: 0.04; TRL: 0)."""
    normalization: Literal["text", "token", "constant"] = "token"
    """With ratios of tokens, what a sum over them is divided by: each answer's length (GRPO), all tokens of the batch (DAPO, TRL), or
    answers times `max_new_tokens` (Dr. GRPO)."""


@dataclass(frozen=True)
class GRPO(Config):
    """Settings of GRPO."""

    samples: int = 8
    """Answers to each (TRL: 8; paper: 64)."""
    baseline: Literal["others", "standardized", "centered"] = "standardized"
    """As RLOO's."""
    ratio: Literal["text", "token"] = "token"
    """As RLOO's."""
    kl_coefficient: float = 0.0
    """As RLOO's."""
    kl_loss_coefficient: float = 0.04
    """As RLOO's."""
    normalization: Literal["text", "token", "constant"] = "text"
    """As RLOO's."""


def groups_loss(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    reference_logp: Float[Tensor, "B T"],
    advantage: Float[Tensor, "B"],
    response: Bool[Tensor, "B T"],
    config: Config,
    texts: int,
    tokens: int,
) -> Float[Tensor, ""]:
    """-E[min(rho A, clip(rho) A)] + c k3, of answers or tokens. texts, tokens: of the whole minibatch, of which this may be a piece."""
    if config.ratio == "text":
        gain = clipped_surrogate(logp.sum(1), old_logp.sum(1), advantage, config.clip_range)
        divergence = torch.where(response, kl_k3(logp, reference_logp), 0.0).sum(1)
        return (config.kl_loss_coefficient * divergence - gain).sum() / texts
    gain = clipped_surrogate(logp, old_logp, advantage[:, None].expand_as(logp), config.clip_range)
    each = torch.where(response, config.kl_loss_coefficient * kl_k3(logp, reference_logp) - gain, 0.0)
    if config.normalization == "text":
        return (each.sum(1) / response.sum(1).clamp(min=1)).sum() / texts
    return each.sum() / (tokens if config.normalization == "token" else texts * config.sampling.max_new_tokens)


def advantages(score: Float[Tensor, "P G"], config: Config) -> Float[Tensor, "P G"]:
    """Of each answer among those to its prompt."""
    if config.baseline == "others":
        return rloo_advantage(score)
    return grpo_advantage(score) if config.baseline == "standardized" else score - score.mean(1, keepdim=True)


class Groups:
    """A policy that learns from groups of its own answers."""

    def __init__(
        self, config: Config, policy: LanguageModel, reward: TextReward, prompts: Sequence[Asked], eos: int, generator: Generator,
        reference: LanguageModel | None = None,
    ) -> None:  # fmt: skip
        """reference: frozen; None: the policy as it is now (with adapters: without them). Raises TrainingError for a group of one."""
        if config.samples < 2:
            raise TrainingError(f"samples={config.samples} was given; an answer is judged against others to its prompt, so 2 are needed")
        set_dropout(policy, 0.0)
        self.config, self.policy = config, policy
        self.writer = Writer(config.sampling, policy, reference, reward, prompts, eos, generator)
        self.shuffle = spawned(generator)
        shard(policy)
        self.descent = Descent(dict(policy.named_parameters()), config.learning_rate, config.optimizer)
        self.updates, self.total = 0, config.iterations

    def update(self) -> dict[str, float]:
        """One iteration: groups of answers, their advantages, and all epochs of minibatches."""
        config = self.config
        written = self.writer.write(config.prompts, config.samples)
        score = (written.score - config.kl_coefficient * written.kl).view(-1, config.samples)
        advantage = advantages(score, config).flatten()
        found: list[dict[str, float]] = []
        for epoch in range(config.epochs):
            batches = torch.randperm(len(advantage), generator=self.shuffle).split(config.batch_size)
            for number, rows in enumerate(batches):
                metrics = self._improve(written.text, written.logp, written.reference_logp, advantage, rows)
                done = self.updates + (epoch + number / len(batches)) / config.epochs
                found.append(metrics | self.descent.step(done, self.total))
        self.updates += 1
        paid = written.score.view(-1, config.samples)  # what the reward says, before the price of distance
        equal = paid.amax(1) == paid.amin(1)
        return mean_metrics(found) | written.metrics() | {"equal_groups": float(equal.float().mean())}

    def _improve(self, text: TextBatch, old: Tensor, reference: Tensor, advantage: Tensor, rows: Tensor) -> dict[str, float]:
        tokens, loss, moved = int(text.response[rows].sum()), 0.0, 0.0
        for part, weight in shared(rows.tolist(), self.config.microbatch):
            batch = text[part]
            logp = self.policy.log_probs(batch.tokens, batch.attention, batch.response, self.config.sampling.sampling_temperature)
            piece = weight * groups_loss(logp, old[part], reference[part], advantage[part], batch.response, self.config, len(rows), tokens)
            piece.backward()
            loss += ranks() * float(piece.detach())
            moved += ranks() * weight * float(kl_k3(old[part], logp.detach()).sum()) / tokens
        return {"loss": loss, "policy_kl": moved}

    def nets(self) -> dict[str, Any]:
        """The policy."""
        return {"model": self.policy}

    def state(self) -> dict[str, Any]:
        """Weights, moments, orders, generators and the count of iterations."""
        parts = {"descent": self.descent.state(), "writer": self.writer.state()}
        return parts | {"shuffle": self.shuffle.get_state(), "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.writer.load(state["writer"])
        self.shuffle.set_state(state["shuffle"])
        self.updates = int(state["updates"])
