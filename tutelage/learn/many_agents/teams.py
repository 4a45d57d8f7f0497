"""The teams of a game, each with nets and updates of its own, as one learner: joint observations go in, joint actions come out."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch
from tutelage.games.nested import action_width, flat_width, legal_width
from tutelage.games.spec import Players
from tutelage.learn.learner import Progress
from tutelage.learn.many_agents import fork
from tutelage.learn.many_agents.actions import ESTIMATORS, Choices
from tutelage.learn.many_agents.nets import make_nets
from tutelage.learn.many_agents.schemes import View
from tutelage.nets.adam import StackedAdam
from tutelage.nets.parameters import Parameters
from tutelage.nets.recurrent import Carry
from tutelage.nets.training import Group, TrainState, Update

TeamLoss = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""(nets, weights of each group, weights of each target, batch, noise, bounds, config, whether actors climb) -> losses, metrics `[R]`."""


class Team:
    """R stacked learners of one team: nets, optimizers, updates, and how they play."""

    def __init__(
        self, config: Any, view: View, generators: Sequence[Generator], device: torch.device, loss: TeamLoss, entropy: bool = False
    ) -> None:
        """generators: one per seed. entropy: actors have a temperature each, and no targets (SAC)."""
        self.config, self.view, self.generators, self.device, R = config, view, generators, device, len(generators)
        self._loss_of_team = loss
        self.nets = make_nets(view, R, config.hidden, 1 + config.twin_critics, config.fork)
        groups: dict[str, Group] = {}
        for kind in ("critics", "systems", "rewards", "actors"):
            for i, net in enumerate(getattr(self.nets, kind)):
                own = [g for g in generators for _ in range(net.members[0] // R)]
                groups[f"{kind}_{i}"] = Group.of(net, own, config.learning_rate, device, config.max_grad_norm)
        if entropy:
            for i, net in enumerate(self.nets.actors):
                log_temperature = Parameters({"log_temperature": net.members}, device)
                log_temperature.flat.fill_(math.log(config.initial_temperature))
                groups[f"temperatures_{i}"] = Group(log_temperature, StackedAdam(log_temperature, config.temperature_learning_rate))
        followed = [name for name in groups if name.startswith("critics" if entropy else ("critics", "actors"))]
        self.train = TrainState(groups, followed, generators)
        self.bounds = [x.to(device) for x in fork.no_bounds(self.nets)]
        own, targets = list(groups.values()), list(self.train.targets.values())
        still = [group for name, group in groups.items() if not name.startswith("actors")]
        self._critic_step = Update(partial(self._loss, False), still, targets, follow=False, compile=config.compile)
        self._whole_step = Update(partial(self._loss, True), own, targets, compile=config.compile)

    def _loss(self, climb: bool, groups: Any, *rest: Any) -> Any:
        *targets, batch, noise, bounds = rest
        return self._loss_of_team(self.nets, groups, targets, batch, noise, bounds, self.config, climb)

    def _noise(self, rows: Sequence[int], samples: int = 1) -> list[Tensor]:
        drawn = (u.actions.noise(self.generators, (u.learners, n), samples) for u, n in zip(self.view.units, rows, strict=True))
        return [e.flatten(0, 1).to(self.device) for e in drawn]

    def play(self, observation: Tensor, legal: Tensor | None, joint: Tensor, explore: bool, random: bool = False) -> None:
        """Write the team's actions into the joint ones: noise-free, explored, or uniformly random."""
        seen, allowed = self.view.observations(observation), self.view.legal(legal)
        noise = self._noise([x.shape[1] if explore or random else 0 for x in seen])  # none is drawn for noise-free play
        encoded: list[Tensor] = []
        for i, (unit, actor, x, e, may) in enumerate(zip(self.view.units, self.nets.actors, seen, noise, allowed, strict=True)):
            if may is not None and isinstance(unit.actions, Choices):
                unit.actions.check(may)
            if random:
                encoded.append(unit.actions.uniform(e, may))
                continue
            output = unit.actions.masked(actor(self.train.weights(f"actors_{i}"), x), may)
            std = self.config.exploration_noise
            encoded.append(unit.actions.perturbed(output, e, std, torch.inf) if explore else unit.actions.greedy(output))
        self.view.play(encoded, len(self.generators), joint)

    def update_on(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on a given batch; actors and targets move where it is their turn. Metrics `[R]`."""
        config, rows = self.config, self.view.rows(batch.reward.shape[1])
        self.train.updates += 1
        climb = not self.train.updates % config.policy_delay
        samples = 1 + config.gumbel_samples if ESTIMATORS[config.estimator][1] else 1
        noise = [self._noise(rows)]
        if climb:
            noise.append(self._noise(rows, samples))
            if config.fork:
                wide = [n * (self.view.critics[0][0] if self.view.joint else 1) for n in rows]
                noise += [self._noise(wide, samples), self._noise(wide, samples)]
        if config.fork:
            self.bounds = fork.widened(self.nets, self.bounds, batch)
        step, rate = (self._whole_step, config.target_rate) if climb else (self._critic_step, 0.0)
        return step(rate, batch, noise, self.bounds)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net of some agent that stopped at its last finite weights, by net."""
        return {name: stopped.view(len(self.generators), -1).any(1) for name, stopped in self.train.frozen().items()}

    def state(self) -> dict[str, Any]:
        """Weights, targets, moments, generators, the count of updates and the bounds."""
        return {"train": self.train.state(), "bounds": self.bounds}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.train.load(state["train"])
        self.bounds = [x.to(self.device, copy=True) for x in state["bounds"]]


class Teams:
    """Learns off policy from one replay of joint transitions; every team draws batches of its own from it."""

    def __init__(
        self,
        config: Any,
        players: Players,
        generators: Sequence[Generator],
        device: torch.device | str,
        loss: TeamLoss,
        entropy: bool = False,
    ) -> None:
        """loss: what every team descends. entropy: as Team has it; actors give distributions of reals. Raises what `View` raises."""
        self.config, self.players, self.generators, self.device = config, players, list(generators), torch.device(device)
        self.observation_width, self.action_width = flat_width(players.observation_space), action_width(players.action_space)
        teams = (tuple(range(len(players.names))),) if config.one_team else players.teams
        views = [View(players, team, config.scheme, config.agent_id, config.joint_head, gaussian=entropy) for team in teams]
        self.teams = [Team(config, view, self.generators, self.device, loss, entropy) for view in views]

    def experience(self, steps: int, copies: int) -> Replay:
        """An empty replay for a run of so many steps."""
        capacity, choices = self.config.replay_capacity or steps, legal_width(self.players.action_space)
        shape, members, agents = (self.observation_width,), len(self.generators), len(self.players.names)
        return Replay(capacity, members, copies, shape, self.action_width, choices, device=self.device, agents=agents)

    def behave(
        self, observation: Float[Tensor, "R B D"], starts: Bool[Tensor, "R B"], legal: Bool[Tensor, "R B K"] | None, progress: Progress
    ) -> Float[Tensor, "R B A"]:
        """Uniformly random actions for `random_steps`, then explored ones."""
        return self._play(observation, legal, explore=True, random=progress.steps < self.config.random_steps)

    def act(
        self,
        observation: Float[Tensor, "R B D"],
        deterministic: bool = False,
        legal: Bool[Tensor, "R B K"] | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "R B A"]:
        """Joint actions of the policies as they stand, in the game's units."""
        return self._play(observation, legal, explore=not deterministic)

    @torch.no_grad()
    def _play(self, observation: Tensor, legal: Tensor | None, explore: bool, random: bool = False) -> Tensor:
        joint = torch.empty(*observation.shape[:2], self.action_width, device=self.device)
        legal = None if legal is None else legal.to(self.device)
        for team in self.teams:
            team.play(observation.to(self.device), legal, joint, explore, random)
        return joint.cpu()

    def carry(self, copies: int) -> None:
        """The policies have no memory."""

    def update(self, experience: Replay, progress: Progress) -> dict[str, Tensor]:
        """After the random steps, every `update_every` steps: `updates_at_once` gradient steps of each team; metrics `[R]` of the last."""
        config, metrics = self.config, dict[str, Tensor]()
        if progress.steps > config.random_steps and progress.steps % config.update_every == 0:
            for _ in range(config.updates_at_once):
                for number, team in enumerate(self.teams):
                    told = team.update_on(experience.sample(config.batch_size, self.generators))
                    metrics |= {self._name(number, name): value for name, value in told.items()}
        return metrics

    def _name(self, number: int, name: str) -> str:
        return name if len(self.teams) == 1 else f"{name}/team_{number}"

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return {self._name(i, name): stopped for i, team in enumerate(self.teams) for name, stopped in team.frozen().items()}

    def state(self) -> dict[str, Any]:
        """Of every team."""
        return {"teams": [team.state() for team in self.teams]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        for team, saved in zip(self.teams, state["teams"], strict=True):
            team.load(saved)
