"""Rounds: PPO goes on, and now and then back to the raters with what the policy writes by then.

Stiennon et al. 2020 (arXiv 2009.01325), sections 3.1 and 3.3: four batches of collection, the reward model fitted anew to all labels after
each. A reward model is right about texts like those that it was fitted to; a policy that has moved on writes others, and finds where the
reward model is wrong. New labels on new texts put it right. What starts a round has a name here, so that it can be compared.

Where we depart from the paper
- The policy and its critic go on across rounds; the paper starts PPO anew. The reference stays the model of the beginning.
- The reward model starts every fit from its first weights, on all labels so far, as in the paper.
Left out: raters who answer days later: such a round is a run of its own on the rows that the rating room exports.
Landscape: model-free, on-policy, online; discrete actions; scale: deep
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tutelage.experience.text import Encoded, TextBatch
from tutelage.learn.language.descent import TrainingError, spawned
from tutelage.learn.language.ppo_lm import PPOLM
from tutelage.learn.language.ppo_lm import Config as PPOConfig
from tutelage.learn.language.reward_model import Config as RewardModelConfig
from tutelage.learn.language.reward_model import Ranking, RewardModel
from tutelage.learn.language.settings import Settings
from tutelage.learn.language.writing import Asked
from tutelage.nets.language import LanguageModel, ScoreModel
from tutelage.rewards.text import Columns, LearnedTextReward, TextReward

Judge = Callable[[TextBatch, Columns, int], Int[Tensor, "P K"]]
"""Ranks of K answers to each of P prompts, which lie one after the other; 1 is best, equal numbers are ties."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of rounds."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    """How the policy learns; its iterations are those of all rounds."""
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """How each fit goes."""
    rounds: int = 4
    """Collections at most, the first of them before anything is learned (Stiennon: 4)."""
    prompts: int = 256
    """Prompts per collection."""
    samples: int = 4
    """Answers to each, to be ranked (InstructGPT: 4 to 9)."""
    trigger: Literal["iterations", "kl", "disagreement"] = "iterations"
    """What starts a round: so many iterations; so many nats from the policy that wrote the last labels; or members of the ensemble that
    differ so much more about new texts than about the labeled ones."""
    every: int = 10
    """Iterations between rounds, with trigger "iterations"."""
    kl: float = 2.0
    """Nats per answer, with trigger "kl" (no source)."""
    disagreement: float = 1.5
    """Ratio of the members' mean deviations, with trigger "disagreement" (no source)."""


def rank_by(reward: TextReward, generator: Generator) -> Judge:
    """A judge who sees a reward through Gumbel noise: every pair is then a Bradley-Terry comparison (Yellott 1977)."""

    def judge(texts: TextBatch, columns: Columns, samples: int) -> Int[Tensor, "P K"]:
        score = reward.scores(texts, columns).view(-1, samples).cpu()
        noise = -(-torch.rand(score.shape, generator=generator).clamp(min=1e-30).log()).log()
        return (score + noise).argsort(1, descending=True).argsort(1) + 1

    return judge


class Rounds:
    """A PPO whose reward model goes back to the raters."""

    def __init__(
        self, config: Config, policy: LanguageModel, models: Sequence[ScoreModel], judge: TextReward | Judge, prompts: Sequence[Asked],
        eos: int, generator: Generator, reference: LanguageModel | None = None, demonstrations: Sequence[Encoded] = (),
    ) -> None:  # fmt: skip
        """models: the members of the reward model before any fit. judge: who ranks, or a reward that is seen through noise.

        demonstrations: what gets the mean score 0 after each fit; none: the best answers.
        """
        if config.trigger == "disagreement" and len(models) < 2:
            raise TrainingError(f'trigger "disagreement" was given with {len(models)} reward model; two members at least can differ')
        self.config, self.models, self.demonstrations = config, list(models), list(demonstrations)
        self.fits, self.noise = spawned(generator), spawned(generator)
        self.judge: Judge = rank_by(judge, self.noise) if isinstance(judge, TextReward) else judge
        self.first = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
        self.ppo = PPOLM(config.ppo, policy, models[0].copy(), LearnedTextReward(self.models), prompts, eos, generator, reference)
        self.labels: list[Ranking] = []
        self.rounds, self.since, self.usual = 0, 0, 0.0
        """Collections so far, iterations since the last, and the members' deviation on what it labeled."""
        self.last: LanguageModel = policy.copy()
        """The policy that wrote the last labels."""

    @property
    def updates(self) -> int:
        """Iterations of PPO."""
        return self.ppo.updates

    @property
    def total(self) -> int:
        """Iterations that are planned."""
        return self.ppo.total

    def update(self) -> dict[str, float]:
        """A round if one is due, and an iteration of PPO."""
        metrics: dict[str, float] = {}
        if self.due():
            metrics = self.collect()
        found = self.ppo.update()
        self.since += 1
        return found | metrics | {"rounds": float(self.rounds), "labels": float(len(self.labels))}

    def due(self) -> bool:
        """Whether a round should begin now."""
        config = self.config
        if self.rounds == 0:
            return True
        if self.rounds >= config.rounds:
            return False
        if config.trigger == "iterations":
            return self.since >= config.every
        texts, logp = self._look()
        if config.trigger == "kl":
            return float((logp - self.ppo.writer.logp(self.last, texts)).sum(1).mean()) > config.kl
        return self._deviation(texts) > config.disagreement * self.usual

    def _look(self) -> tuple[TextBatch, Float[Tensor, "B T"]]:
        """What the policy writes by now."""
        written = self.ppo.writer.write(min(self.config.prompts, 64))
        return written.text, written.logp

    def _deviation(self, texts: TextBatch) -> float:
        return float(LearnedTextReward(self.models).members(texts).std(0, correction=0).mean())

    def collect(self) -> dict[str, float]:
        """Answers of the policy as it is, their ranks, and a fit to all labels so far."""
        config = self.config
        written = self.ppo.writer.write(config.prompts, config.samples)
        ranks = self.judge(written.text, written.columns, config.samples)
        rows = written.text.rows()
        for i, own in enumerate(ranks.tolist()):
            if len(set(own)) > 1:
                self.labels.append(Ranking(tuple(rows[i * config.samples : (i + 1) * config.samples]), tuple(own)))
        if self.models[0].weight.requires_grad is False:
            raise TrainingError("the reward models were frozen; a round fits them")
        for model, first in zip(self.models, self.first, strict=True):
            model.load_state_dict(first)
        fit = RewardModel(config.reward_model, self.models, self.labels, self.fits)
        metrics: dict[str, float] = {}
        while fit.updates < fit.total:
            metrics = fit.update()
        fit.shift_to(self.demonstrations or [ranking.texts[ranking.ranks.index(min(ranking.ranks))] for ranking in self.labels])
        self.last.load_state_dict(self.ppo.policy.state_dict())
        self.rounds, self.since, self.usual = self.rounds + 1, 0, self._deviation(written.text)
        return {f"fit/{name}": metrics[name] for name in ("loss", "accuracy")}

    def nets(self) -> dict[str, Any]:
        """The policy, its critic, and the reward models."""
        return self.ppo.nets() | {f"reward-{number}": model for number, model in enumerate(self.models)}

    def state(self) -> dict[str, Any]:
        """PPO, the reward models, the labels, the last labeled policy, generators and counts."""
        return {
            "ppo": self.ppo.state(),
            "models": [dict(model.state_dict()) for model in self.models],
            "last": dict(self.last.named_parameters()),
            "labels": [[[text.tokens, text.response] for text in own.texts] + [own.ranks] for own in self.labels],
            "generators": [self.fits.get_state(), self.noise.get_state()],
            "counts": {"rounds": self.rounds, "since": self.since, "usual": self.usual},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.ppo.load(state["ppo"])
        for model, saved in zip(self.models, state["models"], strict=True):
            model.load_state_dict(saved)
        with torch.no_grad():
            for name, weight in self.last.named_parameters():
                weight.copy_(state["last"][name])
        self.labels = [
            Ranking(tuple(Encoded(tuple(tokens), tuple(marks)) for tokens, marks in own[:-1]), tuple(own[-1])) for own in state["labels"]
        ]
        for generator, saved in zip((self.fits, self.noise), state["generators"], strict=True):
            generator.set_state(saved)
        counts = state["counts"]
        self.rounds, self.since, self.usual = int(counts["rounds"]), int(counts["since"]), float(counts["usual"])
