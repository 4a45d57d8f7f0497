"""Deep reinforcement learning from human preferences: an on-policy learner, paid by a reward model that is learned from comparisons.

Christiano et al. 2017 (arXiv 1706.03741), section 2.2 and appendix A. A policy plays; pairs of its newest clips on which the members of
an ensemble differ most are compared by a person; the ensemble is fitted to all comparisons so far, each member to a bootstrap of its own
with a penalty that its held-out labels set, and with the rater's errors inside the likelihood; what it says of each step, every member
first brought to mean 0 and a set deviation, is the reward. Questions come at a rate that falls hyperbolically.

Where we depart from the paper
- One process, in which nobody waits for the teacher either; with --asynchronous the paper's three (experiment/apart.py).
- No policy learns before the first fit of every stacked seed: a reward of random nets would teach it their noise.
- The reward model sees actions as the game plays them, inside their bounds: beyond, it would be extrapolated, and the policy go there.
- A reward of states alone where actions are choices, as for Atari; there without batch normalization.
Left out: dropout beside the penalty of MuJoCo's nets. The six ablations of section 3.3 are settings: sampler="uniform";
reward_model.members=1; online=False; reward_model.penalty=0 and penalty_band=(); segment_length=1; reward_model.regress_returns=True.
Landscape: model-free, on-policy, online; continuous and discrete actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from tutelage.equations.schedules import hyperbolic_labels
from tutelage.experience.replay import Replay
from tutelage.experience.segments import cut
from tutelage.experience.taped import Taped
from tutelage.feedback.query import FeedbackError
from tutelage.feedback.samplers import SAMPLERS
from tutelage.games.nested import action_bounds, action_width, observation_shape
from tutelage.games.spec import Box, Space
from tutelage.learn.deep.a2c import A2C
from tutelage.learn.deep.a2c import Config as A2CConfig
from tutelage.learn.deep.on_policy import OnPolicy
from tutelage.learn.deep.ppo import PPO
from tutelage.learn.deep.ppo import Config as PPOConfig
from tutelage.learn.deep.trpo import TRPO
from tutelage.learn.deep.trpo import Config as TRPOConfig
from tutelage.learn.learner import Progress
from tutelage.learn.preference.lesson import Lesson
from tutelage.learn.preference.meeting import Meeting
from tutelage.learn.preference.session import answered, ask, learn
from tutelage.nets.recurrent import Carry
from tutelage.rewards import learned
from tutelage.rewards.entropy import StateEntropy
from tutelage.rewards.learned import RewardEnsemble, reward_inputs
from tutelage.rewards.source import RewardSource

LEARNERS = {"trpo": TRPO, "ppo": PPO, "a2c": A2C}


@dataclass(frozen=True)
class Config:
    """Settings of Christiano et al. 2017."""

    labels: int = 700
    """Answers to ask for in all; "can't tell" is paid for too (paper: 350, 700 or 1,400 for MuJoCo, 5,500 for Atari)."""
    initial_share: float = 0.25
    """Of the labels, about clips of the untrained policy (paper: 25 % for MuJoCo, 500 of 5,500 for Atari)."""
    initial_steps: int = 5_000
    """Steps of every copy that the untrained policy plays before the first questions (not in the paper)."""
    schedule_steps: float | None = 2e6
    """tau of the hyperbolic rate, in steps of all copies (paper: 2e6 for MuJoCo, 5e6 for Atari). None: a constant rate."""
    session_labels: int = 1
    """Questions that are asked together once so many are due (paper: 1)."""
    online: bool = True
    """Ask while the policy learns; else everything is asked at the first session (paper's ablation "no online queries")."""
    segment_length: int = 30
    """Steps of a clip (paper: 1.5 seconds, 15 to 60 steps by world; Atari 25)."""
    recent_episodes: int = 20
    """Clips are cut from this many newest episodes (not in the paper)."""
    tape_steps: int = 50_000
    """Steps of every copy that clips can be cut from, and that the reward is normalized over (not in the paper)."""
    candidates: int = 10
    """Candidate pairs per question asked (paper: 10)."""
    sampler: str = "disagreement"
    """Which candidates are asked, after the first session, which is uniform (paper: variance over the members)."""
    labels_kept: int | None = None
    """Newest labels that the reward model is fitted to (paper: all for MuJoCo, 3,000 for Atari). None: all."""
    fit_labels: int = 10
    """New answers that start a fit while others are awaited; when none is awaited, one is enough."""
    poll_every: int = 1_000
    """Steps of every copy between two looks at what is due and what was answered."""
    neighbors: int = 0
    """k of the state-entropy reward before the first fit (PEBBLE's PrefPPO: 5). 0: the untrained policy waits for a teacher."""
    learner: Literal["trpo", "ppo", "a2c"] = "trpo"
    """Who learns (paper: TRPO for MuJoCo, A2C for Atari)."""
    trpo: TRPOConfig = field(default_factory=lambda: TRPOConfig(discount=0.995, gae_lambda=0.97, normalize_observation=True))
    """TRPO's settings (paper: discount 0.995, lambda 0.97)."""
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(discount=0.995, gae_lambda=0.97, normalize_observation=True))
    """PPO's settings."""
    a2c: A2CConfig = field(default_factory=lambda: A2CConfig(temperature=0.01, anneal=True))
    """A2C's settings (paper: discount 0.99, 5 steps, entropy 0.01, 16 copies)."""
    reward_model: learned.Config = field(default_factory=lambda: learned.CHRISTIANO)
    """The ensemble that predicts the reward."""

    @property
    def played_by(self) -> tuple[str, str, Any]:
        """Who acts: where a checkpoint keeps it, its name as an algorithm, and its settings."""
        return "learner", self.learner, getattr(self, self.learner)


def labels_due(config: Config, since: int, total_steps: int, copies: int) -> int:
    """Questions that should have been asked so many steps of every copy after the first session; all of them at the last look."""
    first = max(round(config.initial_share * config.labels), 1) if config.online else config.labels
    last = (total_steps - config.initial_steps) // config.poll_every * config.poll_every
    return int(hyperbolic_labels(since * copies, last * copies, first, config.labels, config.schedule_steps))


class Christiano(RewardSource):
    """R stacked students and their reward models."""

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
        """generators, reward_generators: one per seed, for the learner and for the ensemble.

        Raises FeedbackError for an unknown sampler and for state entropy of images, GameError for actions that the learner cannot take.
        """
        if config.sampler not in SAMPLERS:
            raise FeedbackError(f'sampler "{config.sampler}" is none of {", ".join(SAMPLERS)}')
        self.config, self.lesson = config, lesson
        _, name, settings = config.played_by
        self.learner: OnPolicy = LEARNERS[name](settings, observation_space, action_space, generators, device)
        self.bounds = action_bounds(action_space, config.learner) if isinstance(action_space, Box) else None
        self.observation_shape, self.action_width = observation_shape(observation_space), action_width(action_space)
        if config.neighbors and len(self.observation_shape) == 3:
            raise FeedbackError("state entropy was asked for (neighbors), but distances between images say nothing of novelty")
        self.ensemble = RewardEnsemble(config.reward_model, *reward_inputs(observation_space, action_space), reward_generators, device)
        self.entropy = StateEntropy(config.neighbors) if config.neighbors else None
        self.learned = torch.zeros(len(generators), dtype=torch.bool)
        """Which seeds are paid by the ensemble already."""
        self.meeting: Meeting | None = None
        """Where rater and reward model are met, if they are processes of their own."""
        self.version = -1
        """Of the published model that pays now."""

    def experience(self, steps: int, copies: int) -> Taped:
        """The learner's window, and the tape."""
        members = len(self.learned)
        tape = Replay(min(self.config.tape_steps, steps), members, copies, self.observation_shape, self.action_width)
        return Taped(self.learner.experience(steps, copies), tape, self.bounds)

    def behave(
        self, observation: Shaped[Tensor, "R B *O"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B K"] | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """As the learner."""
        return self.learner.behave(observation, starts, legal, progress)

    def act(
        self, observation: Shaped[Tensor, "R B *O"], deterministic: bool = False, legal: Bool[Tensor, "R B K"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B A"]:  # fmt: skip
        """As the learner."""
        return self.learner.act(observation, deterministic, legal, carry)

    def carry(self, copies: int) -> Carry | None:
        """As the learner."""
        return self.learner.carry(copies)

    def reward(
        self, observation: Shaped[Tensor, "R N *O"], action: Float[Tensor, "R N A"], game_reward: Float[Tensor, "R N"]
    ) -> Float[Tensor, "R N"]:
        """The learned reward; before the first fit state entropy where it is asked for, else 0; never the game's."""
        before = torch.zeros_like(game_reward) if self.entropy is None else self.entropy.reward(observation, action, game_reward)
        if not self.learned.any():
            return before
        played = action if self.bounds is None else action.clamp(*self.bounds)
        return torch.where(self.learned[:, None], self.ensemble.reward(observation, played).cpu(), before)

    def update(self, experience: Taped, progress: Progress) -> dict[str, Tensor]:
        """Whatever is due after an environment step; metrics `[R]`."""
        config, step, tape = self.config, progress.steps, experience.tape
        since = step - config.initial_steps
        if since >= 0 and since % config.poll_every == 0 and self.meeting is not None:
            self._meet(self.meeting, tape)
        elif since >= 0 and since % config.poll_every == 0:
            self._ask(tape, since, progress.total)
            ready, comparisons = answered(self.lesson, step, config.fit_labels, config.labels_kept)
            if comparisons is not None:
                learn(self.lesson, self.ensemble, tape, comparisons, ready, self.learned)
                self.learned = self.learned | ready
        if self.entropy is None and not self.learned.all():
            if experience.window.full:
                self.learner.skip(experience.window)
            return {}
        if self.entropy is not None and not self.learned.all() and experience.window.full:
            self.entropy.refresh(tape.observations())
        return self.learner.update(experience.window, progress)

    def _ask(self, tape: Replay, since: int, total_steps: int) -> None:
        """What is due so many steps of every copy after the first session."""
        config, asked = self.config, self.lesson.asked
        due = labels_due(config, since, total_steps, tape.copies)
        counts = [due - own if due - own >= config.session_labels or due == config.labels or not own else 0 for own in asked]
        samplers = [config.sampler if learned else "uniform" for learned in self.learned]
        ask(self.lesson, self.ensemble, tape, counts, samplers, config.segment_length, config.candidates, config.recent_episodes)

    def _meet(self, meeting: Meeting, tape: Replay) -> None:
        """Offer clips to the rater, and be paid by the newest model from now on."""
        config, lesson = self.config, self.lesson
        # At first as many as the first questions need: from few clips they would all be about the same.
        count = 2 * config.candidates if meeting.step >= 0 else max(2 * config.candidates, 4 * labels_due(config, 0, 2**62, tape.copies))
        left, right = lesson.candidates(tape, count // 2, config.segment_length, config.recent_episodes)
        clips = [
            [cut(tape, lesson.anchors, side, s, i) for side in (left, right) for i in range(count // 2)] for s in range(len(self.learned))
        ]
        meeting.offer(tape.steps, clips)
        newest = meeting.published(self.version)
        if newest is not None:
            self.version, model = newest
            self.ensemble.load(model)
            self.learned = self.ensemble.fits > 0
            self.ensemble.measure_outputs(tape.observations(), tape.actions(), self.learned)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """As the learner, and the reward ensemble."""
        return self.learner.frozen() | {"reward": self.ensemble.optimizer.frozen}

    def state(self) -> dict[str, Any]:
        """Learner, ensemble, reference states and lesson."""
        return {
            "learner": self.learner.state(),
            "ensemble": self.ensemble.state(),
            "entropy": None if self.entropy is None else self.entropy.state(),
            "lesson": self.lesson.state(),
            "learned": self.learned,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.learner.load(state["learner"])
        self.ensemble.load(state["ensemble"])
        if self.entropy is not None:
            self.entropy.load(state["entropy"])
        self.lesson.load(state["lesson"])
        self.learned = state["learned"].clone()
