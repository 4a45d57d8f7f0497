"""Best of n: draw n answers, keep the one that the reward likes best; and teach the policy to write that one at once.

Stiennon et al. 2020 (arXiv 2009.01325), section 4.3 and appendix G.3, for the choice; Dong et al. 2023 (RAFT, arXiv 2304.06767),
algorithm 1, for the teaching. Choosing needs no gradient and moves the policy by log n - (n - 1) / n nats at most, so that it is the
yardstick of every method that learns from a reward; teaching pays the price of n draws once, at training, and not at every answer.

Where we depart from the papers
- The best answers of an iteration are learned from in one pass, as demonstrations, and then forgotten.
- `generate --best-of N` chooses without teaching.
Left out: a threshold on the reward below which an answer is not kept.
Landscape: model-free, on-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tutelage.equations.optimization_pressure import best_of_n_kl
from tutelage.learn.language.descent import Descent, Optimization, TrainingError, mean_metrics, set_dropout, shared, spawned
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.sft import sft_loss
from tutelage.learn.language.writing import Asked, Sampling, Writer
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import ranks, shard
from tutelage.rewards.text import TextReward


@dataclass(frozen=True)
class Config(Settings):
    """Settings of best-of-n and of what is taught by it."""

    n: int = 4
    """Answers to each prompt, of which one is kept (Stiennon: up to 2,048; RAFT: 4)."""
    iterations: int = 100
    """Times that answers are written, chosen and learned from."""
    prompts: int = 64
    """Prompts per iteration."""
    batch_size: int = 64
    """Best answers per gradient step."""
    microbatch: int | None = None
    """Texts through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 2e-5
    """At its highest (RAFT: 2e-5; a net of 30,000 weights wants 1e-3)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(schedule="linear", final_share=0.0))
    """Schedule, moments, clipping."""
    sampling: Sampling = field(default_factory=Sampling)
    """How texts are written."""


def best_of(score: Float[Tensor, "P n"]) -> Int[Tensor, "P"]:
    """Where the best answer to each prompt stands in the flat order of all answers; of equal ones the first."""
    return torch.arange(len(score), device=score.device) * score.shape[1] + score.argmax(1)


class BestOfN:
    """A policy that learns from the best of its own answers."""

    def __init__(
        self, config: Config, policy: LanguageModel, reward: TextReward, prompts: Sequence[Asked], eos: int, generator: Generator,
        reference: LanguageModel | None = None,
    ) -> None:  # fmt: skip
        """reference: measured against and not held to; None: the policy as it is now (with adapters: without them)."""
        if config.n < 1:
            raise TrainingError(f"n={config.n} was given; at least one answer to each prompt is needed")
        set_dropout(policy, 0.0)
        self.config, self.policy = config, policy
        self.writer = Writer(config.sampling, policy, reference, reward, prompts, eos, generator)
        self.shuffle = spawned(generator)
        shard(policy)
        self.descent = Descent(dict(policy.named_parameters()), config.learning_rate, config.optimizer)
        self.updates, self.total = 0, config.iterations

    def update(self) -> dict[str, float]:
        """One iteration: n answers to each prompt, and one pass over the best."""
        written = self.writer.write(self.config.prompts, self.config.n)
        best = best_of(written.score.view(-1, self.config.n))
        found: list[dict[str, float]] = []
        batches = torch.randperm(len(best), generator=self.shuffle).split(self.config.batch_size)
        for number, rows in enumerate(batches):
            chosen = written.text[best[rows.to(best.device)]]
            tokens, loss = int(chosen.response.sum()), 0.0
            for part, weight in shared(range(len(chosen)), self.config.microbatch):
                own = chosen[list(part)]
                logp = self.policy.log_probs(own.tokens, own.attention, own.response, self.config.sampling.sampling_temperature)
                piece = weight * sft_loss(logp, own.response, tokens)
                piece.backward()
                loss += ranks() * float(piece.detach())
            found.append({"loss": loss} | self.descent.step(self.updates + number / len(batches), self.total))
        self.updates += 1
        best_score = {"score/best": float(written.score[best].mean()), "kl/bound": best_of_n_kl(self.config.n)}
        return mean_metrics(found) | written.metrics() | best_score

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
