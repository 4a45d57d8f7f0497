"""What the on-policy learners share: they fill a window of T steps by playing, learn from it once, and forget it.

While a window fills nothing changes, neither weights nor normalization. So distributions and values are computed when it is full, in
one pass, and playing costs a pass of the policy alone; and the first gradient step sees exactly the policy that played.
The true successor's value is what a step leads to, also at a time limit and where the window cuts an episode; with memory it is
computed from what was remembered there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from tutelage.equations.statistics import mean_of, variance_of
from tutelage.experience.steps import Steps
from tutelage.experience.window import Window
from tutelage.games.nested import action_width, observation_shape
from tutelage.games.spec import GameError, Space
from tutelage.learn.learner import Progress
from tutelage.nets.actor_critic import make_actor_critic
from tutelage.nets.adam import StackedAdam
from tutelage.nets.normalization import ObservationNormalizer, RewardScaler
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `estimate` reads: a window by time, with the values of its states."""

    reward: Float[Tensor, "T R B"]
    value: Float[Tensor, "T R B"]
    next_value: Float[Tensor, "T R B"]
    """Of the true successor."""
    terminated: Bool[Tensor, "T R B"]
    boundary: Bool[Tensor, "T R B"]


class OnPolicy(ABC):
    """R stacked learners; what is left to each algorithm is how it weighs a step (`estimate`) and what it learns from it (`improve`)."""

    def __init__(
        self, config: Any, observation_space: Space, action_space: Space, generators: Sequence[Generator],
        device: torch.device | str = "cpu", shared: bool = False,
    ) -> None:  # fmt: skip
        """config: as PPO's, as far as it is read here. generators: one per seed. shared: one body for policy and value.

        Raises GameError for actions that no head knows, and for images that are to be normalized.
        """
        self.generators, self.device, self._settings = list(generators), torch.device(device), config
        self.observation_shape, self.action_width = observation_shape(observation_space), action_width(action_space)
        if config.normalize_observation and len(self.observation_shape) == 3:
            raise GameError(f"normalize_observation is for vectors; this game's observations are images of {self.observation_shape}")
        self.nets = make_actor_critic(
            self.observation_shape, action_space, config.hidden, len(self.generators), shared, config.memory, config.activation
        )
        self.parameters = Parameters(self.nets.shapes(), device)
        self.nets.initialize(self.parameters, self.generators)
        self._half = self.nets.halves(self.parameters.weights)[0]
        self.normalizer = None
        if config.normalize_observation:
            self.normalizer = ObservationNormalizer(len(self.generators), self.observation_shape, device=device)
        self.scaler: RewardScaler | None = None
        self.optimizers: dict[str, StackedAdam] = {}
        """By what they move; each algorithm enters its own."""
        self._playing: Carry | None = None
        self._before: Carry | None = None
        """Memory of both nets before the first step of the window."""

    def experience(self, steps: int, copies: int) -> Window:
        """An empty window, and empty memories; a run that is shorter than a window has one of its own length."""
        config, members = self._settings, len(self.generators)
        self.scaler = RewardScaler(members, copies, config.discount, device=self.device) if config.normalize_reward else None
        self._playing, self._before = self.carry(copies), self.nets.body.carry(copies, self.device)
        return Window(min(config.window, steps), members, copies, self.observation_shape, self.action_width, self.device)

    def carry(self, copies: int) -> Carry | None:
        """Fresh memory for playing so many copies per seed; None where the policy has no memory."""
        return self.nets.half.carry(copies, self.device)

    def behave(
        self, observation: Shaped[Tensor, "R B *O"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B K"] | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Actions drawn from the policy. A Gaussian's may lie outside the bounds of the game, which whoever steps it puts right."""
        if self._playing is not None:
            self._playing.restart(starts.to(self.device))
        return self.act(observation, False, legal, self._playing)

    def act(
        self, observation: Shaped[Tensor, "R B *O"], deterministic: bool = False, legal: Bool[Tensor, "R B K"] | None = None,
        carry: Any = None,
    ) -> Float[Tensor, "R B A"]:  # fmt: skip
        """Actions of the policy as it stands; the likeliest when deterministic. With memory: reads and writes `carry`."""
        with torch.no_grad():
            x = self._normalized(observation.to(self.device))
            legal = None if legal is None else legal.to(self.device)
            if self.nets.remembers:
                going_on = torch.zeros(x.shape[0], 1, x.shape[1], dtype=torch.bool, device=self.device)
                parameters, carries = self.nets.policy(self.parameters.weights, x[:, None], going_on, carry, self._half)
                assert carries is not None  # of nets that remember
                parameters, carry.state = parameters[:, 0], carries[:, 0]
            else:
                parameters, _ = self.nets.policy(self.parameters.weights, x, half=self._half)
            head = self.nets.head
            return (head.mode(parameters, legal) if deterministic else head.sample(parameters, self.generators, legal)).cpu()

    def _normalized(self, observation: Tensor) -> Tensor:
        return observation if self.normalizer is None else self.normalizer(observation)

    def read(self, weights: Mapping[str, Tensor], steps: Steps) -> tuple[Float[Tensor, "R *n W"], Float[Tensor, "R *n"]]:
        """Parameters of the policy's distribution, and values."""
        return self.nets.both(weights, steps.observation, steps.starts, None if steps.carry is None else Carry(steps.carry))[:2]

    def policy(self, weights: Mapping[str, Tensor], steps: Steps) -> Float[Tensor, "R *n W"]:
        """Parameters of the policy's distribution."""
        carry = None if steps.carry is None else self.nets.policy_carry(Carry(steps.carry))
        return self.nets.policy(weights, steps.observation, steps.starts, carry)[0]

    def value(self, weights: Mapping[str, Tensor], steps: Steps) -> Float[Tensor, "R *n"]:
        """Values."""
        carry = None if steps.carry is None else self.nets.value_carry(Carry(steps.carry))
        return self.nets.value(weights, steps.observation, steps.starts, carry)

    @abstractmethod
    def estimate(self, recorded: Recorded) -> tuple[Float[Tensor, "T R B"], Float[Tensor, "T R B"]]:
        """How much better than expected each action was, and the target of each value."""

    @abstractmethod
    def improve(self, steps: Steps, progress: Progress) -> dict[str, Tensor]:
        """Take gradient steps; metrics `[R]` over and above `metrics`. progress: when the first of the steps was taken."""

    def update(self, experience: Window, progress: Progress) -> dict[str, Tensor]:
        """Learn from a full window and empty it; nothing before it is full."""
        window = experience
        if not window.full:
            return {}
        with torch.no_grad():
            steps = self._steps(window)
        extra = self.improve(steps, Progress(max(progress.steps - window.length, 0), progress.total))
        metrics = self.metrics(steps) | extra
        if self.normalizer is not None:
            self.normalizer.update(window.observation[:, :-1].flatten(1, 2), window.mask.flatten(1))
        window.clear()
        return metrics

    def skip(self, window: Window) -> None:
        """Empty a full window without learning from it; what is remembered goes on."""
        if self.nets.remembers:
            with torch.no_grad():
                self._read_recording(window, self._normalized(window.observation), self._normalized(window.final_observations()))
        window.clear()

    def _steps(self, window: Window) -> Steps:
        observation, finals = self._normalized(window.observation), self._normalized(window.final_observations())
        remembers, carry, T = self.nets.remembers, self._before, window.length
        parameters, slots, at_ends = (
            self._read_recording(window, observation, finals) if remembers else self._read_rows(observation, finals)
        )
        value, next_value, reward = slots[:, :-1], window.of_successors(slots, at_ends), window.reward.transpose(0, 1)
        terminated, boundary, mask = (flag.transpose(0, 1) for flag in (window.terminated, window.boundary, window.mask))
        if self.scaler is not None:
            self.scaler.update(reward, boundary, mask)
            reward = self.scaler(reward)
        recorded = Recorded(reward, value.transpose(0, 1), next_value.transpose(0, 1), terminated, boundary)
        advantage, target = (x.transpose(0, 1) for x in self.estimate(recorded))
        mask = None if window.mask.all() else window.mask.float()
        logp = self.nets.head.log_prob(parameters, window.action, window.legal)
        steps = Steps(
            observation[:, :T], window.action, parameters, logp, value, advantage, target, mask, window.legal, window.starts,
            None if carry is None else carry.state,
        )  # fmt: skip
        return steps if self.nets.remembers else steps.as_rows()

    def _read_rows(self, observation: Tensor, finals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of all steps, values of all slots and of the final observations, in one pass."""
        R, slots, copies = observation.shape[:3]
        rows = torch.cat([observation.flatten(1, 2), finals], 1)
        parameters, value, _ = self.nets.both(self.parameters.weights, rows)
        value, at_ends = value.split([slots * copies, finals.shape[1]], 1)
        return parameters[:, : (slots - 1) * copies].unflatten(1, (slots - 1, copies)), value.view(R, slots, copies), at_ends

    def _read_recording(self, window: Window, observation: Tensor, finals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with memory; a final observation is read with what was remembered before it."""
        weights, nets, T, ends = self.parameters.weights, self.nets, window.length, finals.shape[1]
        parameters, value, carries = nets.both(weights, observation[:, :T], window.starts, self._before)
        assert carries is not None  # of nets that remember
        after = Carry(carries[..., -1, :, :].clone())
        last = nets.both(weights, observation[:, T:], window.boundary[:, -1:], after)[1]
        seed, slot, copy = window.boundary.nonzero(as_tuple=True)
        remembered = carries.new_zeros(*carries.shape[:-3], ends, carries.shape[-1])
        remembered[seed, ..., window.final_index[seed, slot, copy], :] = carries[seed, ..., slot, copy, :]
        going_on = torch.zeros(len(finals), 1, ends, dtype=torch.bool, device=finals.device)
        at_ends = nets.both(weights, finals[:, None], going_on, Carry(remembered))[1][:, 0] if ends else value.new_zeros(len(value), 0)
        self._before = after
        return parameters, torch.cat([value, last], 1), at_ends

    def descend(self, name: str, loss: Float[Tensor, "R"], active: Bool[Tensor, "R"] | None = None) -> None:
        """One step of an optimizer down a loss. active: the seeds that move (None: all)."""
        optimizer = self.optimizers[name]
        leaves = list(optimizer.parameters.leaves.values())
        optimizer.step(optimizer.parameters.gather(torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)), active)

    @torch.no_grad()
    def metrics(self, steps: Steps) -> dict[str, Tensor]:
        """`[R]` each, by the nets as they are now: where the policy and the values have come to."""
        parameters, value = self.read(self.parameters.weights, steps)
        mask, unexplained = steps.mask, variance_of(steps.target - steps.value, steps.mask)
        return {
            "loss/value": mean_of(0.5 * (value - steps.target).square(), mask),
            "entropy": mean_of(self.nets.head.entropy(parameters, steps.legal), mask),
            "kl": mean_of(self.nets.head.kl(steps.parameters, parameters, steps.legal), mask),
            "explained_variance": 1.0 - unexplained / variance_of(steps.target, mask),
        }

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return {name: optimizer.frozen for name, optimizer in self.optimizers.items()}

    def state(self) -> dict[str, Any]:
        """Weights, moments, memories, normalization and generators."""
        return {
            "weights": {name: optimizer.parameters.flat for name, optimizer in self.optimizers.items()},
            "optimizers": {name: optimizer.state() for name, optimizer in self.optimizers.items()},
            "normalizer": None if self.normalizer is None else self.normalizer.state(),
            "scaler": None if self.scaler is None else self.scaler.state(),
            "memories": [None if carry is None else carry.state for carry in (self._playing, self._before)],
            "generators": [g.get_state() for g in self.generators],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        for name, optimizer in self.optimizers.items():
            optimizer.parameters.flat.copy_(state["weights"][name])
            optimizer.load(state["optimizers"][name])
        for own, saved in ((self.normalizer, state["normalizer"]), (self.scaler, state["scaler"])):
            if own is not None:
                own.load(saved)
        memories = (None if saved is None else Carry(saved.to(self.device, copy=True)) for saved in state["memories"])
        self._playing, self._before = memories
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
