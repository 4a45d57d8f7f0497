"""PPO on a language model: tokens are time, the prompt is the first observation, and leaving a reference costs at every token.

Ziegler et al. 2019 (arXiv 1909.08593); Stiennon et al. 2020 (arXiv 2009.01325), section 3.4 and appendix G.1; Ouyang et al. 2022
(InstructGPT, arXiv 2203.02155), eq. 2, with PPO-ptx. A policy writes answers; each token costs beta (log pi - log pi_ref), the last one
earns the score of the whole; a separate critic, which starts as the reward model, gives advantages by GAE; then the clipped objective of
`learn/deep/ppo.py`, on minibatches. With ptx, language modeling on other texts is one more term of the same gradient step.

Where we depart from the papers
- The score is paid at the last token that was written (the papers' code: one place later), so one mask serves policy, value and reward.
- A text that reaches the limit of tokens ends there as one with an EOS does: no value is bootstrapped (as in all their code).
- Means run over the tokens of a minibatch, whatever microbatches it goes through the nets in.
Left out: a head for the value on the policy's body (clearly worse: Stiennon, appendix G.1), running normalization of rewards.
Landscape: model-free, on-policy, online; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.divergences import kl_k3
from tutelage.equations.returns import gae
from tutelage.equations.schedules import adaptive_kl_coefficient
from tutelage.equations.statistics import whitened
from tutelage.equations.surrogates import clipped_surrogate
from tutelage.experience.text import Encoded, TextBatch
from tutelage.learn.deep.ppo import ppo_loss
from tutelage.learn.language.descent import Descent, Optimization, TrainingError, mean_metrics, measured, set_dropout, shared, spawned
from tutelage.learn.language.ptx import Ptx
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.writing import Asked, Sampling, Writer, Written
from tutelage.nets.language import LanguageModel, ScoreModel
from tutelage.nets.ranks import like, shard, summed
from tutelage.rewards.text import TextReward, kl_rewards, last_of


@dataclass(frozen=True)
class Config(Settings):
    """Settings of PPO on a language model. InstructGPT: epochs 1, batch_size 64, kl_coefficient 0.02, ema 0.992, ptx_coefficient 27.8."""

    iterations: int = 2_000
    """Times that texts are written and learned from (Stiennon: 1,000,000 texts in all; InstructGPT: 256,000)."""
    episodes: int = 512
    """Texts written per iteration (Stiennon, InstructGPT: 512)."""
    epochs: int = 4
    """Passes over them (Stiennon: 4; InstructGPT: 1)."""
    batch_size: int = 512
    """Texts per gradient step (N+ details: all; InstructGPT: 64)."""
    microbatch: int | None = None
    """Texts through the nets at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 3e-6
    """Of the policy (N+ details: 3e-6; Stiennon: 1.5e-5; a net of 30,000 weights wants 1e-3)."""
    critic_learning_rate: float | None = None
    """Of the critic; None: the policy's (InstructGPT: 9e-6 for critics of 6B)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(schedule="linear", final_share=0.0, betas=(0.9, 0.999)))
    """Schedule, moments, clipping, of both (N+ details: linear to 0; InstructGPT: constant after 10 iterations of warmup)."""
    sampling: Sampling = field(default_factory=Sampling)
    """How texts are written."""
    kl_coefficient: float = 0.05
    """beta, the price of a nat of distance from the reference, or what it adapts from (Stiennon, N+ details: 0.05; InstructGPT: 0.02)."""
    kl_target: float | None = None
    """Nats per answer that the price is adapted to keep (Ziegler: 6). None: it stays as it is."""
    kl_horizon: int = 10_000
    """Texts in which an adapted price can change by a fifth (Ziegler: 10,000)."""
    kl_limit: float | None = None
    """Nats per answer at which training ends, so that a reward is not exploited for long (no source)."""
    clip_range: float = 0.2
    """How far a ratio may move (Ziegler: 0.2)."""
    value_clip_range: float | None = 0.2
    """How far a value may move (Ziegler: 0.2)."""
    value_coefficient: float = 0.1
    """Weight of half the value's squared error (Ziegler: 0.1)."""
    discount: float = 1.0
    """Of the next token (all: 1)."""
    gae_lambda: float = 0.95
    """How far an advantage looks ahead (Ziegler: 0.95)."""
    whiten_reward: bool = False
    """Rewards to deviation 1 with their mean kept (N+ details: off; Ziegler: on)."""
    whiten_advantage: bool = True
    """Advantages to mean 0 and deviation 1 over all that was written (Ziegler: on)."""
    ema: float | None = None
    """Decay per gradient step of an average of the policy's weights, which is then what is saved (InstructGPT: 0.992). None: no average."""
    ptx_coefficient: float = 0.0
    """gamma, how much language modeling on other texts counts (InstructGPT: 27.8); its meaning hangs on `ptx_unit`."""
    ptx_ratio: float = 1.0
    """Such texts per text of a minibatch (InstructGPT: 8)."""
    ptx_unit: Literal["token", "text"] = "token"
    """What gamma multiplies: the mean per token of those texts, or the mean per text of the sum over its tokens (the paper is silent)."""


class Estimated(NamedTuple):
    """What is learned from, `[B, T]` each."""

    old_logp: Tensor
    old_value: Tensor
    advantage: Tensor
    target: Tensor


def advantages(
    reward: Float[Tensor, "B T"], value: Float[Tensor, "B T"], response: Bool[Tensor, "B T"], discount: float, gae_lambda: float
) -> Float[Tensor, "B T"]:
    """GAE along each answer, 0 outside of it. value: of the prefix before each token; after the last token there is none."""
    last = last_of(response)
    held = torch.where(response, value, 0.0)
    ahead = torch.nn.functional.pad(held[:, 1:], (0, 1))
    found = gae(reward.T, held.T, ahead.T, last.T, (last | ~response).T, discount, gae_lambda).T
    return torch.where(response, found, 0.0)


def ppo_lm_loss(
    logp: Float[Tensor, "B T"], value: Float[Tensor, "B T"], old: Estimated, response: Bool[Tensor, "B T"], config: Config, tokens: int
) -> Float[Tensor, ""]:
    """`ppo_loss` over the answers' tokens. tokens: of the whole minibatch, of which this may be a piece."""
    policy = logp[None], old.old_logp[None], old.advantage[None]
    critic, mask = (value[None], old.old_value[None], old.target[None]), response[None].to(logp.dtype)
    loss = ppo_loss(*policy, *critic, None, mask, config.clip_range, config.value_clip_range, config.value_coefficient)
    return loss[0] * (response.sum() / tokens)


class PPOLM:
    """A policy and its critic, with what they write and what they are held to."""

    def __init__(
        self, config: Config, policy: LanguageModel, critic: ScoreModel, reward: TextReward, prompts: Sequence[Asked], eos: int,
        generator: Generator, reference: LanguageModel | None = None, pretraining: Sequence[Encoded] = (),
    ) -> None:  # fmt: skip
        """critic: such as a copy() of the reward model. reference: frozen; None: the policy as it is now, with adapters the one without.

        pretraining: texts for ptx. Raises TrainingError for settings or prompts that cannot work.
        """
        if config.ptx_coefficient and not pretraining:
            raise TrainingError(f"ptx_coefficient={config.ptx_coefficient} was given and no texts for it; ptx needs some")
        set_dropout(policy, 0.0)
        set_dropout(critic, 0.0)
        self.config, self.policy, self.critic = config, policy, critic
        self.writer = Writer(config.sampling, policy, reference, reward, prompts, eos, generator)
        self.shuffle = spawned(generator)
        self.ptx = Ptx(policy, pretraining, config.ptx_coefficient, config.ptx_unit, spawned(generator)) if config.ptx_coefficient else None
        self.average = None if config.ema is None else policy.copy()
        shard(policy, critic, self.average)
        self.descent = Descent(dict(policy.named_parameters()), config.learning_rate, config.optimizer)
        rate = config.critic_learning_rate or config.learning_rate
        self.critic_descent = Descent(dict(critic.named_parameters()), rate, config.optimizer)
        self.kl_coefficient = config.kl_coefficient
        self.updates, self.total, self.steps = 0, config.iterations, 0  # iterations, those planned, gradient steps

    def update(self) -> dict[str, float]:
        """One iteration: write, estimate, and all epochs of minibatches."""
        config = self.config
        written = self.writer.write(config.episodes)
        old, reward = self.estimate(written)
        found: list[dict[str, float]] = []
        for _ in range(config.epochs):
            for rows in torch.randperm(config.episodes, generator=self.shuffle).split(config.batch_size):
                found.append(self._improve(written.text, old, rows))
        metrics = mean_metrics(found) | written.metrics() | {"kl_coefficient": self.kl_coefficient}
        metrics |= {"reward": float(reward.sum(1).mean()), "ratio/first": found[0]["ratio"]}
        if config.kl_target is not None:
            about = self.kl_coefficient, metrics["kl"], config.kl_target, config.episodes, config.kl_horizon
            self.kl_coefficient = adaptive_kl_coefficient(*about)
        self.updates += 1
        if config.kl_limit is not None and metrics["kl"] > config.kl_limit:
            self.total = self.updates
        return metrics

    @torch.no_grad()
    def estimate(self, written: Written) -> tuple[Estimated, Float[Tensor, "B T"]]:
        """Advantages and targets of what was written, and the rewards that they are of."""
        config, text = self.config, written.text
        of = lambda rows: self.critic.values(text.tokens[rows], text.attention[rows])
        value = torch.where(text.response, measured(len(text), config.sampling.microbatch, of), 0.0)
        reward = kl_rewards(written.score, written.logp, written.reference_logp, text.response, self.kl_coefficient)
        paid = whitened(reward, text.response, shift_mean=False) if config.whiten_reward else reward
        advantage = advantages(paid, value, text.response, config.discount, config.gae_lambda)
        target = advantage + value
        if config.whiten_advantage:
            advantage = whitened(advantage, text.response)
        return Estimated(written.logp, value, advantage, target), reward

    def _improve(self, text: TextBatch, old: Estimated, rows: Tensor) -> dict[str, float]:
        """One step of policy and critic on some of the texts."""
        config = self.config
        tokens = int(text.response[rows].sum())
        found = [torch.zeros(len(SUMS), dtype=torch.float64, device=text.tokens.device)]
        for part, weight in shared(rows.tolist(), config.microbatch):
            batch, own = text[part], Estimated(*(x[part] for x in old))
            logp = self.policy.log_probs(batch.tokens, batch.attention, batch.response, config.sampling.sampling_temperature)
            value = torch.where(batch.response, self.critic.values(batch.tokens, batch.attention), 0.0)
            (weight * ppo_lm_loss(logp, value, own, batch.response, config, tokens)).backward()
            if weight:
                found.append(_sums(logp.detach(), value.detach(), own, batch.response, config))
        metrics: dict[str, float] = dict(zip(SUMS, (summed(torch.stack(found).sum(0)) / tokens).tolist(), strict=True))
        if self.ptx is not None:
            metrics["loss/ptx"] = self.ptx.add_gradient(round(config.ptx_ratio * len(rows)), config.microbatch)
        per_iteration = config.epochs * -(-config.episodes // config.batch_size)
        done = self.updates + self.steps % per_iteration / per_iteration
        metrics |= self.descent.step(done, self.config.iterations)
        metrics["critic/gradient_norm"] = self.critic_descent.step(done, self.config.iterations)["gradient_norm"]
        self.steps += 1
        if self.average is not None and config.ema is not None:
            with torch.no_grad():
                for mean, newest in zip(self.average.parameters(), self.policy.parameters(), strict=True):
                    mean.lerp_(newest, 1.0 - config.ema)
        return metrics

    def nets(self) -> dict[str, Any]:
        """The policy, or the average of its weights; and the critic."""
        return {"model": self.policy if self.average is None else self.average, "critic": self.critic}

    def state(self) -> dict[str, Any]:
        """Both nets with their moments, the average, orders, generators, the price and the counts."""
        return {
            "descent": self.descent.state(),
            "critic": self.critic_descent.state(),
            "average": None if self.average is None else self.average.state_dict(),
            "writer": self.writer.state(),
            "shuffle": self.shuffle.get_state(),
            "ptx": None if self.ptx is None else self.ptx.state(),
            "counts": {"kl_coefficient": self.kl_coefficient, "updates": self.updates, "total": self.total, "steps": self.steps},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.critic_descent.load(state["critic"])
        if self.average is not None:
            for name, value in self.average.state_dict().items():
                value.copy_(like(state["average"][name], value))
        self.writer.load(state["writer"])
        self.shuffle.set_state(state["shuffle"])
        if self.ptx is not None:
            self.ptx.load(state["ptx"])
        self.kl_coefficient = float(state["counts"]["kl_coefficient"])
        self.updates, self.total, self.steps = (int(state["counts"][name]) for name in ("updates", "total", "steps"))


SUMS: tuple[str, ...] = ("loss/policy", "loss/value", "ratio", "clipped", "policy_kl")


def _sums(logp: Tensor, value: Tensor, old: Estimated, response: Tensor, config: Config) -> Float[Tensor, "5"]:
    """SUMS over the tokens of a piece: what is divided by the tokens of all pieces is a mean over tokens and nothing else."""
    ratio = (logp - old.old_logp).exp()[response]
    gain, error = old.advantage[response], (value - old.target)[response]
    surrogate = clipped_surrogate(logp[response], old.old_logp[response], gain, config.clip_range)
    each = (-surrogate, 0.5 * error.square(), ratio, (ratio - 1.0).abs() > config.clip_range, kl_k3(old.old_logp[response], logp[response]))
    return torch.stack([x.double().sum() for x in each])
