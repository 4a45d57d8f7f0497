"""The chain in a world of words: demonstrations, SFT, ranked answers, a reward model, DPO and PPO, and what each is worth.

What the recipes of language models share. Every stage draws from a generator of its own, which a seed and the stage's name decide, so
that a study can leave stages out and the others stay the same to the bit.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.evaluate.text import Answers, Evaluation, FrontierPoint, Gold, answer, evaluate_model, exact_frontier, reference_draws
from tutelage.experience.text import Encoded, TextBatch, encoded
from tutelage.experience.text_encoding import TextEncoder
from tutelage.experience.tokenizers import word_tokenizer
from tutelage.games.text_worlds import BOS, EOS, TextWorld, text_world
from tutelage.learn.language.descent import Optimization, Stage
from tutelage.learn.language.dpo import DPO
from tutelage.learn.language.dpo import Config as DPOConfig
from tutelage.learn.language.ppo_lm import PPOLM
from tutelage.learn.language.ppo_lm import Config as PPOConfig
from tutelage.learn.language.reward_model import Config as RewardConfig
from tutelage.learn.language.reward_model import Ranking, RewardModel, in_pairs
from tutelage.learn.language.sft import SFT
from tutelage.learn.language.sft import Config as SFTConfig
from tutelage.learn.language.writing import Asked, Sampling
from tutelage.nets.language import LanguageModel, ScoreModel, make_model
from tutelage.rewards.text import LearnedTextReward, TextReward

TINY = "gpt2?layers=2&width=32&heads=4&context=64"
STEADY = Optimization(schedule="linear", final_share=0.0, betas=(0.9, 0.999))


Watch = Callable[[Any, dict[str, float]], None]
"""Told of a stage and its metrics after each update."""


@dataclass(frozen=True)
class Setting:
    """One chain; the numbers were measured in the valence language (a net of 30,000 weights)."""

    world: str = "text:valence"
    model: str = TINY
    demonstrations: int = 8_000
    general_texts: int = 800
    """Texts without a prompt among the demonstrations: the tenth of pretraining text in InstructGPT's own start of PPO."""
    ranked_prompts: int = 1_500
    """Of which `held_out` only judge the reward model."""
    held_out: int = 200
    answers: int = 4
    """Ranked per prompt."""
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(epochs=5, batch_size=64, learning_rate=3e-3))
    reward: RewardConfig = field(default_factory=lambda: RewardConfig(epochs=6, batch_size=32, learning_rate=1e-3))
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(
            beta=0.5, epochs=2, batch_size=64, learning_rate=4e-4, optimizer=Optimization(final_share=0.1, warmup=20, betas=(0.9, 0.999))
        )
    )
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            iterations=40, episodes=128, epochs=4, batch_size=64, learning_rate=1e-3, optimizer=STEADY, kl_coefficient=0.5,
            sampling=Sampling(max_new_tokens=24, missing_eos="replace", missing_eos_score=-3.0),
        )
    )  # fmt: skip
    test_prompts: int = 500

    def scaled(self, scale: float) -> "Setting":
        """The same in miniature, to try a recipe."""
        if scale == 1.0:
            return self
        size = lambda whole, least: max(round(whole * scale), least)
        return replace(
            self, demonstrations=size(self.demonstrations, 64), general_texts=size(self.general_texts, 8),
            ranked_prompts=size(self.ranked_prompts, 24), held_out=size(self.held_out, 8), test_prompts=size(self.test_prompts, 16),
            sft=replace(self.sft, batch_size=16), dpo=replace(self.dpo, epochs=1, batch_size=16),
            ppo=replace(self.ppo, iterations=size(self.ppo.iterations, 2), episodes=16, batch_size=8, epochs=1),
        )  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """Answers to prompts, with the noisy orders that raters gave and the gold that decides them."""

    rankings: tuple[Ranking, ...]
    gold: Float[Tensor, "P K"]


class Chain:
    """One seed of a setting; each stage is made when it is asked for, once."""

    def __init__(self, setting: Setting, seed: int, kept: Path | None = None) -> None:
        """kept: a folder where SFT and reward models of equal settings are found again, since they are the same to the bit."""
        self.setting, self.seed, self.kept = setting, seed, kept
        self.world: TextWorld = text_world(setting.world)
        self.tokenizer = word_tokenizer(self.world.words)
        self._tuned: dict[tuple[str, float], LanguageModel] = {}
        self.encoder = TextEncoder(self.tokenizer, self.world.prompt_tokens + self.world.answer_tokens, "refuse")

    def generator(self, stage: str) -> Generator:
        """Of one stage, the same whichever others run."""
        return Generator().manual_seed(1_000_003 * self.seed + zlib.crc32(stage.encode()))

    def gold(self, texts: TextBatch) -> Float[Tensor, "B"]:
        """What texts are worth."""
        return self.world.gold(texts.tokens, texts.attention, texts.response)

    def prompts(self, count: int, stage: str) -> list[list[int]]:
        """New prompts as tokens."""
        return [self.encoder.prompt(prompt) for prompt in self.world.prompts(count, self.generator(stage))]

    def texts(self, count: int, stage: str) -> list[Encoded]:
        """Demonstrations as tokens."""
        rows = self.world.demonstrations(count, self.generator(stage))
        return [encoded(self.encoder.prompt(prompt), self.encoder.answer(prompt, answer)) for prompt, answer in rows]

    def general(self, count: int, stage: str) -> list[Encoded]:
        """Texts that answer nobody: the language itself, which later stages may forget."""
        rows = self.world.demonstrations(count, self.generator(stage))
        return [encoded([], [BOS, *self.encoder.answer("", answer)]) for _, answer in rows]

    @cached_property
    def fresh(self) -> LanguageModel:
        """The net before it has read anything."""
        return make_model(self.setting.model, self.generator("model"), self.tokenizer)

    def _place(self, name: str, *depends: object) -> Path | None:
        return None if self.kept is None else self.kept / f"{name}-{self.seed}-{zlib.crc32(repr(depends).encode()):08x}"

    @cached_property
    def sft(self) -> LanguageModel:
        """After demonstrations; what all later stages start from and are held to."""
        setting = self.setting
        place = self._place(
            "sft", setting.world.partition("-")[0], setting.model, setting.demonstrations, setting.general_texts, setting.sft
        )
        if place is not None and place.exists():
            return make_model(place, self.generator("model"), self.tokenizer).copy()
        model = self.fresh.copy().requires_grad_(True)
        texts = self.texts(setting.demonstrations, "demonstrations") + self.general(setting.general_texts, "general")
        run(SFT(setting.sft, model, texts, self.generator("sft")))
        if place is not None:
            model.save(place)
        return model.copy()

    def answers(self, model: LanguageModel, prompts: Sequence[Sequence[int]], stage: str, samples: int = 1, **how: Any) -> Answers:
        """What a model writes to prompts."""
        return answer(model, prompts, self.world.answer_tokens, EOS, self.generator(stage), samples=samples, **how)

    @cached_property
    def ranked(self) -> Ranked:
        """Answers of the SFT model in orders that raters gave."""
        return self.rank(self.setting.ranked_prompts, self.setting.answers, "ranked")

    def rank(self, prompts: int, K: int, stage: str, model: LanguageModel | None = None) -> Ranked:
        """Raters order K answers to each prompt by gold and Gumbel noise: a pair comes out by Bradley-Terry, P = sigma(gold gap)."""
        answers = self.answers(self.sft if model is None else model, self.prompts(prompts, stage), f"{stage} answers", K)
        gold = self.gold(answers.text).view(prompts, K)
        uniform = torch.rand(prompts, K, generator=self.generator(f"{stage} raters"), dtype=torch.float64)
        perceived = gold - (-uniform.clamp(min=1e-12).log()).log()
        ranks = perceived.argsort(1, descending=True).argsort(1) + 1
        rows = answers.text.rows()
        rankings = tuple(Ranking(tuple(rows[p * K : (p + 1) * K]), tuple(ranks[p].tolist())) for p in range(prompts))
        return Ranked(rankings, gold)

    @cached_property
    def reward(self) -> ScoreModel:
        """The reward model, its scores of demonstrations shifted to zero."""
        return self.rewards(self.setting.reward)[0]

    def rewards(self, config: RewardConfig, stage: str = "reward", ranked: Ranked | None = None) -> list[ScoreModel]:
        """The members of a reward model, fitted to all rankings but those held out."""
        g, own = self.generator(stage), self.setting
        depends = (own.world, own.model, own.demonstrations, own.sft, own.ranked_prompts, own.held_out, own.answers, config)
        places = [None if ranked else self._place(f"{stage}-{member}", *depends) for member in range(config.members)]
        if all(place is not None and place.exists() for place in places):
            return [ScoreModel.load(place) for place in places if place is not None]
        ranked = ranked or self.ranked
        models = [ScoreModel.of(self.sft, g) for _ in range(config.members)]
        learner = RewardModel(config, models, ranked.rankings[self.setting.held_out :], g)
        run(learner)
        learner.shift_to(self.texts(500, f"{stage} shift"))
        for model, place in zip(models, places, strict=True):
            if place is not None:
                model.save(place)
        return models

    def pairs(self) -> list[tuple[Encoded, Encoded]]:
        """All pairs (better, worse) of the prompts that the reward model learns from."""
        return [(pair.texts[0], pair.texts[1]) for pair in in_pairs(self.ranked.rankings[self.setting.held_out :])]

    def dpo(self, stage: str = "dpo", **changes: Any) -> LanguageModel:
        """The SFT model after DPO on the ranked pairs."""
        model = self.sft.copy().requires_grad_(True)
        run(DPO(replace(self.setting.dpo, **changes), model, self.pairs(), self.generator(stage)))
        return model.copy()

    def ppo(
        self, reward: TextReward | None = None, stage: str = "ppo", pretraining: Sequence[Encoded] = (), critic: ScoreModel | None = None,
        watch: Watch | None = None, start: LanguageModel | None = None, **changes: Any,
    ) -> LanguageModel:  # fmt: skip
        """A model after PPO on a reward (None: the reward model), held to SFT. watch: as of `run`. start: None is the SFT model."""
        policy = (start or self.sft).copy().requires_grad_(True)
        asked = [Asked(tuple(prompt)) for prompt in self.prompts(2_000, f"{stage} prompts")]
        learner = PPOLM(
            replace(self.setting.ppo, **changes), policy, (critic or self.reward).copy(), reward or LearnedTextReward([self.reward]), asked,
            EOS, self.generator(stage), self.sft, pretraining,
        )  # fmt: skip
        run(learner, watch)
        return learner.nets()["model"].copy()

    def tuned(self, name: Literal["dpo", "ppo-lm"], beta: float | None = None) -> LanguageModel:
        """DPO or PPO at a price of a nat (None: the setting's), made once."""
        own = self.setting.dpo.beta if name == "dpo" else self.setting.ppo.kl_coefficient
        key = (name, own if beta is None else beta)
        if key not in self._tuned:
            self._tuned[key] = self.dpo(beta=key[1]) if name == "dpo" else self.ppo(kl_coefficient=key[1])
        return self._tuned[key]

    def score(self, texts: TextBatch) -> Float[Tensor, "B"]:
        """What the reward model says of texts."""
        return LearnedTextReward([self.reward]).scores(texts)

    def written(self, answers: Answers) -> list[str]:
        """Answers as text, with their EOS where they have one."""
        return [
            self.tokenizer.decode(tokens[mask].tolist()) for tokens, mask in zip(answers.text.tokens, answers.text.response, strict=True)
        ]

    @cached_property
    def test_prompts(self) -> list[list[int]]:
        """What models are evaluated on."""
        return self.prompts(self.setting.test_prompts, "test prompts")

    @cached_property
    def opponent(self) -> Answers:
        """The SFT model's answers to the test prompts."""
        return self.answers(self.sft, self.test_prompts, "opponent")

    def evaluate(self, model: LanguageModel, stage: str, temperature: float = 1.0) -> Evaluation:
        """Gold, KL from SFT and the win rate over it."""
        g = self.generator(f"evaluate {stage}")
        return evaluate_model(model, self.sft, self.test_prompts, self.gold, self.opponent, self.world.answer_tokens, EOS, g, temperature)[
            0
        ]

    def draws(self, count: int, scores: Sequence[Gold]) -> tuple[Float[Tensor, "S P count"], Float[Tensor, "P"]]:
        """Scores of many SFT answers to every different test prompt, and how often the prompt is asked."""
        shares: dict[tuple[int, ...], int] = {}
        for prompt in self.test_prompts:
            shares[tuple(prompt)] = shares.get(tuple(prompt), 0) + 1
        drawn = reference_draws(self.sft, list(shares), scores, count, self.world.answer_tokens, EOS, self.generator("draws"))
        return drawn, torch.tensor(list(shares.values()), dtype=torch.float64)

    def frontier(
        self, draws: int = 4096, betas: Sequence[float] = (math.inf, 8.0, 4.0, 2.0, 1.5, 1.0, 0.8, 0.67, 0.57, 0.5)
    ) -> list[FrontierPoint]:
        """The best that is possible from this SFT model."""
        gold, shares = self.draws(draws, [self.gold])
        return exact_frontier(gold[0], betas, shares)


def run(stage: Stage, watch: Watch | None = None) -> dict[str, float]:
    """All updates of a stage; its last metrics. watch: called after each update with the stage and its metrics."""
    metrics: dict[str, float] = {}
    while stage.updates < stage.total:
        metrics = stage.update()
        if watch is not None:
            watch(stage, metrics)
    return metrics
