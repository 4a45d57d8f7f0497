"""PEBBLE: explore, ask which of two clips is better, fit a reward, relabel all memory with it, improve.

Lee, Smith & Abbeel 2021 (arXiv 2106.05091), algorithms 1 and 2; settings of B-Pref (Lee et al. 2021b, arXiv 2111.03026).
A SAC learns from rewards that a small ensemble predicts. The ensemble learns from comparisons of clips. Because the SAC is
off-policy, every old transition can be given its new reward, and few questions go a long way.

Where we depart from the paper
- Nobody waits: queries are submitted, play and learning go on, and a fit follows when enough answers have come in.
- The state-entropy reward of the pre-training is recomputed for all of memory at intervals, not per minibatch.
- Optional, off by default: an error-aware likelihood, standardized inputs, normalized rewards (rewards/learned.py).
- What later papers added are switches, off here, each in a file of its own; family.py has them by name.
Left out: nothing.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.feedback.query import FeedbackError
from tutelage.feedback.samplers import SAMPLERS
from tutelage.games.nested import action_width, flat_width
from tutelage.games.spec import Space
from tutelage.learn.deep.sac import SAC
from tutelage.learn.deep.sac import Config as SACConfig
from tutelage.learn.learner import Progress
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.meta_reward_net import bilevel_step
from tutelage.learn.preference.rime import Config as RimeConfig
from tutelage.learn.preference.rime import Rime
from tutelage.learn.preference.session import answered, ask, learn, session_size
from tutelage.learn.preference.student import Config as StudentConfig
from tutelage.learn.preference.student import Student
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.learn.preference.surf import Surf
from tutelage.nets.recurrent import Carry
from tutelage.rewards import learned
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.entropy import StateEntropy
from tutelage.rewards.learned import RewardEnsemble
from tutelage.rewards.source import RewardSource


@dataclass(frozen=True)
class Config:
    """Settings of PEBBLE."""

    labels: int = 1_000
    """Answers to ask for in all; "can't tell" is paid for too (B-Pref: 500 or 1,000 on walker-walk)."""
    session_labels: int = 100
    """Questions per session (B-Pref: a tenth of the budget)."""
    first_session_labels: int | None = None
    """Questions in the first session. None: as many as in the others."""
    session_every: int = 20_000
    """Steps between sessions (B-Pref: 20,000 on walker-walk)."""
    session_sizes: Literal["constant", "falling", "rising"] = "constant"
    """How the questions per session change over the run: not, with (T - t) / T, or with T / (T - t + 1) (B-Pref's schedules 0 to 2)."""
    pretraining_steps: int = 9_000
    """Steps of state-entropy exploration after the random ones; the first session follows (B-Pref: 9,000)."""
    neighbors: int = 5
    """k of the state-entropy reward (PEBBLE: 5)."""
    entropy_every: int = 100
    """Steps between recomputations of the state-entropy reward of all of memory."""
    segment_length: int = 50
    """Steps of a clip (B-Pref: 50)."""
    recent_episodes: int = 100
    """Clips are cut from this many newest episodes (B-Pref: 100)."""
    candidates: int = 10
    """Candidate pairs per question asked (PEBBLE: 10)."""
    sampler: str = "disagreement"
    """Which candidates are asked, after the first session, which is uniform (B-Pref: disagreement)."""
    reset_critic: bool = True
    """Fresh critics when the learned reward first replaces the state-entropy reward (PEBBLE: yes)."""
    updates_after_reset: int = 100
    """Updates at once after that (B-Pref: 100)."""
    fit_labels: int = 10
    """New answers that start a fit while others are still awaited; when none is awaited, one is enough."""
    poll_every: int = 50
    """Steps between two looks at the rater's answers."""
    sac: SACConfig = field(default_factory=lambda: SACConfig(initial_temperature=0.1, temperature_learning_rate=1e-4, target_every=2))
    """The learner that improves on the learned reward (B-Pref's settings)."""
    reward_model: learned.Config = field(default_factory=learned.Config)
    """The ensemble that predicts the reward."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """What the learner gets beside the learned reward."""
    surf: SurfConfig = field(default_factory=SurfConfig)
    """Pseudo-labels and crops."""
    meta: MetaConfig = field(default_factory=MetaConfig)
    """The critic's opinion of the reward."""
    rime: RimeConfig = field(default_factory=RimeConfig)
    """Labels that are not believed."""

    @property
    def played_by(self) -> tuple[str, str, SACConfig]:
        """Who acts: where a checkpoint keeps it, its name as an algorithm, and its settings."""
        return "sac", "sac", self.sac


class Pebble(RewardSource):
    """R stacked students. Each is rewarded by state entropy until its teacher's first answers, then by what it learned of them."""

    def __init__(
        self,
        config: Config,
        observation_space: Space,
        action_space: Space,
        generators: Sequence[Generator],
        reward_generators: Sequence[Generator],
        lesson: Lesson,
        device: torch.device | str = "cpu",
    ) -> None:
        """generators, reward_generators: one per seed, for the SAC and for the ensemble.

        Raises FeedbackError for an unknown sampler, and for a compiled SAC that shall be pulled.
        """
        if config.student.pull and config.sac.compile:
            raise FeedbackError("student.pull changes what SAC's actor pays, which a compiled update does not follow; leave one away")
        if config.sampler not in SAMPLERS:
            raise FeedbackError(f'sampler "{config.sampler}" is none of {", ".join(SAMPLERS)}')
        self.config, self.lesson = config, lesson
        self.sac = SAC(config.sac, observation_space, action_space, generators, device)
        widths = flat_width(observation_space), action_width(action_space)
        self.ensemble = RewardEnsemble(config.reward_model, *widths, reward_generators, device)
        self.entropy = StateEntropy(config.neighbors)
        self.surf = Surf(config.surf, config.segment_length, self.ensemble.generators)
        self.student = Student(config.student, self.sac, widths, config.recent_episodes)
        self.rime = Rime(config.rime, self.ensemble)
        self.learned = torch.zeros(len(generators), dtype=torch.bool)
        """Which seeds learn from the ensemble already."""
        self.next_session = self._explored

    def experience(self, steps: int, copies: int) -> Replay:
        """As SAC."""
        return self.sac.experience(steps, copies)

    def behave(
        self, observation: Float[Tensor, "R B D"], starts: Bool[Tensor, "R B"], legal: Tensor | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """As SAC."""
        return self.sac.behave(observation, starts, legal, progress)

    def act(
        self, observation: Float[Tensor, "R B D"], deterministic: bool = False, legal: Tensor | None = None, carry: Carry | None = None
    ) -> Float[Tensor, "R B A"]:
        """As SAC."""
        return self.sac.act(observation, deterministic)

    def carry(self, copies: int) -> None:
        """The policy has no memory."""

    def reward(
        self, observation: Float[Tensor, "R N D"], action: Float[Tensor, "R N A"], game_reward: Float[Tensor, "R N"]
    ) -> Float[Tensor, "R N"]:
        """State entropy, or the learned reward; never the game's."""
        if self.learned.all():
            return self.ensemble.reward(observation, action)
        entropy = self.entropy.reward(observation, action, game_reward).to(self.ensemble.device)
        if not self.learned.any():
            return entropy
        return torch.where(self.learned[:, None].to(entropy.device), self.ensemble.reward(observation, action), entropy)

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """Whatever is due after an environment step; metrics `[R]`."""
        replay, step, config = experience, progress.steps, self.config
        explored = step - config.sac.random_steps
        if not self.learned.all() and explored >= 0 and explored % config.entropy_every == 0:
            replay.pay(self.entropy.refresh(replay.observations()), ~self.learned)
        session = step >= self.next_session
        if session:
            self.next_session = step + config.session_every
            if config.rime.warm_start_steps and not self.learned.any():
                self.rime.warm_start(replay, self.entropy.refresh(replay.observations()))
            self._ask(replay, progress)
        if session or step % config.poll_every == 0:
            ready, comparisons = answered(self.lesson, step, config.fit_labels)
            if comparisons is not None:
                self._fit(replay, ready, comparisons, step)
        metrics: dict[str, Tensor] = {}
        if config.meta.every and step % config.meta.every == 0 and self.learned.any() and min(self.lesson.asked) < config.labels:
            newest = self.lesson.comparisons(self.learned, config.meta.labels or config.session_labels)
            if newest is not None:
                metrics["loss/outer"] = bilevel_step(config.meta, self.ensemble, self.sac, replay, newest, self.learned)
        return metrics | (self._improve(replay, step) if step > config.sac.random_steps else {})

    def _ask(self, replay: Replay, progress: Progress) -> None:
        """One session: candidate pairs, a choice among them, questions."""
        config, asked = self.config, self.lesson.asked
        usual = session_size(config.session_labels, config.session_sizes, progress.steps, progress.total)
        first = usual if config.first_session_labels is None else config.first_session_labels
        counts = [max(min(usual if own else first, config.labels - own), 0) for own in asked]
        samplers = [config.sampler if learned else "uniform" for learned in self.learned]
        clips = config.segment_length, config.candidates, config.recent_episodes
        ask(self.lesson, self.ensemble, replay, counts, samplers, *clips, self.surf.margin)
        self.surf.collect(replay, counts, config.recent_episodes)

    def _fit(self, replay: Replay, ready: Bool[Tensor, "R"], comparisons: Comparisons, step: int) -> None:
        """Fit the ensembles of the ready seeds, relabel all memory, and start critics afresh the first time."""
        fresh, sift = ready & ~self.learned, self.rime.sift if self.config.rime.fits else None
        learn(self.lesson, self.ensemble, replay, comparisons, ready, self.learned, self.surf.augment(self.ensemble, replay, ready), sift)
        self.learned = self.learned | ready
        replay.relabel(self.ensemble.reward, chosen=ready)
        if fresh.any() and self.config.reset_critic:
            self.student.reset_critics(fresh)
            for _ in range(self.config.updates_after_reset):
                self._improve(replay, step)

    def _improve(self, replay: Replay, step: int) -> dict[str, Tensor]:
        return self.student.improve(replay, self.ensemble, self.learned, max(step - self._explored, 0))

    @property
    def _explored(self) -> int:
        """Steps before the first session."""
        return self.config.sac.random_steps + self.config.pretraining_steps

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """As the student, and the reward ensemble."""
        return self.student.frozen() | {"reward": self.ensemble.optimizer.frozen}

    def state(self) -> dict[str, Any]:
        """Learner, ensemble, reference states, lesson and schedule."""
        return {
            "sac": self.sac.state(),
            "ensemble": self.ensemble.state(),
            "entropy": self.entropy.state(),
            "lesson": self.lesson.state(),
            "learned": self.learned,
            "next_session": self.next_session,
            "surf": self.surf.state(),
            "conservative": None if self.student.conservative is None else self.student.conservative.train.state(),
            "rime": self.rime.largest,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.sac.load(state["sac"])
        self.ensemble.load(state["ensemble"])
        self.entropy.load(state["entropy"])
        self.lesson.load(state["lesson"])
        self.learned = state["learned"].clone()
        self.next_session = int(state["next_session"])
        self.surf.load(state["surf"])
        if self.student.conservative is not None:
            self.student.conservative.train.load(state["conservative"])
        self.rime.largest = [float(x) for x in state["rime"]]
