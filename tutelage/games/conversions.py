"""For every POSG there is an equivalent AECG, and for every AECG an equivalent POSG; and the same for programs.

Terry et al. 2021 (arXiv 2009.14471), section 4, has both claims; the lecture (Straka, NPFL139 lecture 14) a sketch of both constructions.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.games.aecg import AECG, AECProgram, RewardLaw, Turn
from tutelage.games.nested import from_leaves, leaf_spaces, leaves, legal_width
from tutelage.games.posg import POSG
from tutelage.games.spec import Game, GameError, MultiDiscrete, Nested, Space, Step

Buffered = tuple[int | None, tuple[int, ...], tuple[int, ...] | None]
"""A state of an AECG made from a POSG: the POSG's state (None: before the first), the actions queued so far, the last joint action."""

OnTurn = tuple[int, int, tuple[float, ...]]
"""A state of a POSG made from an AECG: the AECG's state, who is on turn (0: the environment), what each agent has just been paid."""


def aecg_from_posg(posg: POSG, max_states: int = 4_000) -> tuple[AECG, list[Buffered]]:
    """One transition of the POSG as N + 1 steps: agents 1 to N queue their actions, then the environment moves and pays everybody.

    Returns what each state of the AECG stands for, too. Nobody sees the queue: agents choose as if at once. The last joint action is
    kept because the POSG's O^i(w|s', a^i) depends on it and the AECG's O^i(w|s') on states only; a stochastic observation is to be
    consulted once per cycle, at the agent's own turn. The first state is one more, from which the environment draws s ~ rho_0 and pays
    nothing (everybody sees symbol 0 in it, and nobody is on turn).

    The discount is gamma' = gamma^(1 / (N + 1)). Every agent's return, counted from the first turn of agent 1, is then gamma'^N times
    the POSG's; counted from s_0 it is gamma'^(N + 1) = gamma times.

    Raises GameError for a discount of 0, which would make all returns 0, and for more than `max_states` states: the arrays grow with
    their square.
    """
    if posg.discount == 0.0:
        raise GameError(f"{posg.name} has discount 0; an AECG pays N steps after an action, so that its returns would all be 0")
    N, joint = posg.agents, list(product(*map(range, posg.actions)))
    queues = [queue for k in range(N + 1) for queue in product(*map(range, posg.actions[:k]))]
    if (count := 1 + posg.states * (1 + len(joint)) * len(queues)) > max_states:
        raise GameError(f"{posg.name} in cycles has {count} states, more than {max_states}; its arrays would not be small")
    labels: list[Buffered] = [
        (None, (), None),
        *((s, queue, last) for s in range(posg.states) for last in (None, *joint) for queue in queues),
    ]
    number = {label: index for index, label in enumerate(labels)}
    S = len(labels)
    transition = torch.eye(S, dtype=torch.float64)  # the environment is not on turn in most states
    moves = [torch.arange(S)[:, None].repeat(1, a) for a in posg.actions]
    paid = torch.zeros(N, S, S, dtype=torch.float64)
    seen = [torch.zeros(S, o, dtype=torch.float64) for o in posg.observations]
    fresh = torch.tensor([number[s, (), None] for s in range(posg.states)])
    transition[0] = torch.zeros(S, dtype=torch.float64).index_put((fresh,), posg.start)
    for i in range(N):
        seen[i][0, 0] = 1.0
    for index, (s, queue, last) in enumerate(labels):
        if s is None:
            continue
        for i in range(N):
            seen[i][index] = posg.first_likelihood[i][s] if last is None else posg.likelihood[i][s, last[i]]
        if len(queue) < N:
            for a in range(posg.actions[len(queue)]):
                moves[len(queue)][index, a] = number[s, (*queue, a), last]
        else:
            after = torch.tensor([number[following, (), queue] for following in range(posg.states)])
            transition[index] = torch.zeros(S, dtype=torch.float64).index_put((after,), posg.transition[(s, *queue)])
            paid[:, index, after] = posg.reward[(slice(None), s, *queue)]
    turns = torch.eye(N + 1, dtype=torch.float64).roll(1, 1)  # row j: j + 1 is next, after N comes 0
    unpaid = [torch.zeros(N, S, a, 1, dtype=torch.float64) for a in posg.actions]
    aecg = AECG(
        transition,
        tuple(moves),
        tuple(RewardLaw(value, torch.ones_like(value)) for value in (paid[..., None], *unpaid)),
        tuple(seen),
        tuple(turns[j].expand(S, choices, -1) for j, choices in enumerate((1, *posg.actions))),
        0,
        0,
        posg.discount ** (1.0 / (N + 1)),
        f"{posg.name} in cycles",
    )
    return aecg, labels


def posg_from_aecg(aecg: AECG, only_on_turn: bool = False, max_states: int = 2_000) -> tuple[POSG, list[OnTurn]]:
    """One step of the AECG as one transition, to which everybody submits an action and only that of the agent on turn matters.

    Returns what each state of the POSG stands for, too: (state, agent on turn, rewards just paid), of which those that can be reached
    are kept. The rewards lie in the state since those of an AECG are random and those of a POSG a function R^i(s, a, s') = r'_i. The
    discount is the same, and so are all returns.
    only_on_turn: everybody else sees one more symbol, the last, so that nobody learns more from waiting; without it all agents see O^i
    of every state, as the lecture's AECG has it. Raises GameError when more than `max_states` states can be reached.
    """
    N = aecg.agents
    labels: list[OnTurn] = [(aecg.first_state, aecg.first_agent, (0.0,) * N)]
    number = {labels[0]: 0}
    rows: list[list[tuple[list[int], list[float]]]] = []  # per state and action of the agent on turn: where it leads, how probably
    for s, j, _ in labels:  # which grows meanwhile
        row: list[tuple[list[int], list[float]]] = []
        for a in range(1 if j == 0 else aecg.actions[j - 1]):
            outcomes = _outcomes(aecg, s, j, a)
            for label, _ in outcomes:
                if label not in number:
                    number[label] = len(labels)
                    labels.append(label)
            row.append(([number[label] for label, _ in outcomes], [p for _, p in outcomes]))
        rows.append(row)
        if len(labels) > max_states:
            raise GameError(f"{aecg.name} as a POSG has more than {max_states} states; its arrays would not be small")
    S = len(labels)
    transition = torch.zeros(S, *aecg.actions, S, dtype=torch.float64)
    for index, ((_, j, _), row) in enumerate(zip(labels, rows, strict=True)):
        for a, (reached, probability) in enumerate(row):
            law = torch.zeros(S, dtype=torch.float64).index_add(0, torch.tensor(reached), torch.tensor(probability, dtype=torch.float64))
            transition[index][(slice(None),) * (j - 1) + (a,) if j else ...] = law
    state, turn = torch.tensor([[s, j] for s, j, _ in labels]).unbind(1)
    paid = torch.tensor([r for _, _, r in labels], dtype=torch.float64).T  # [N, S]
    seen = [table[state] for table in aecg.likelihood]
    if only_on_turn:
        seen = [_waiting(table, turn == i + 1) for i, table in enumerate(seen)]
    posg = POSG(
        transition,
        paid.view(N, *(1,) * (N + 1), S).expand(N, *transition.shape),
        tuple(table[:, None].expand(-1, a, -1) for table, a in zip(seen, aecg.actions, strict=True)),
        tuple(seen),
        torch.eye(S, dtype=torch.float64)[0],
        aecg.discount,
        f"{aecg.name} step by step",
    )
    return posg, labels


def _outcomes(aecg: AECG, s: int, j: int, a: int) -> list[tuple[OnTurn, float]]:
    """(s', j', r') and its probability T(s'|s, j, a) nu(j'|s, j, a) prod_i R^i(r'_i|s, j, a, s')."""
    successors = [(int(aecg.moves[j - 1][s, a]), 1.0)] if j else _possible(aecg.transition[s])
    turns = _possible(aecg.next_agent[j][s, a])
    law = aecg.reward[j]
    found: list[tuple[OnTurn, float]] = []
    for following, reached in successors:
        x = a if j else following
        draws = [[(float(law.value[i, s, x, k]), p) for k, p in _possible(law.probability[i, s, x])] for i in range(aecg.agents)]
        for (turn, called), paid in product(turns, product(*draws)):
            label = (following, turn, tuple(reward for reward, _ in paid))
            found.append((label, reached * called * math.prod(p for _, p in paid)))
    return found


def _possible(law: Float[Tensor, "K"]) -> list[tuple[int, float]]:
    """What may be drawn, and how probably."""
    return [(int(k), float(law[k])) for k in law.nonzero()[:, 0]]


def _waiting(table: Float[Tensor, "S O"], on_turn: Bool[Tensor, "S"]) -> Float[Tensor, "S O_and_1"]:
    """One more symbol, seen by who is not on turn."""
    return torch.cat([torch.where(on_turn[:, None], table, 0.0), (~on_turn).to(table)[:, None]], 1)


class GameInTurns(AECProgram):
    """A game of many as an AEC program: agents act one after the other, in their order, into a queue that nobody sees.

    The act of the last agent plays the joint action. Every agent acts in every cycle, also a dead one, whose action the game ignores.
    """

    def __init__(self, game: Game) -> None:
        """Raises GameError for a game of one agent without `players`."""
        if game.players is None:
            raise GameError(f"{type(game).__name__} has no players; only a game of many can be played in turns")
        self.game, self.players, self.copies, self.name = game, game.players, game.copies, f"{type(game).__name__} in turns"
        self._places = {agent: (g, n) for g, group in enumerate(self.players.groups) for n, agent in enumerate(group.agents)}
        self._queue: list[Nested] = []
        self._observation: tuple[Nested, ...] | None = None
        self._since = torch.zeros(self.copies, len(self.players.names))

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> None:
        """As AECProgram.reset. Raises GameError for a reset of some copies within a cycle: they would fall out of step."""
        if self._queue and where is not None and not bool(where.all()):
            raise GameError(f"{self.name}: some copies were reset within a cycle; that is possible between cycles, or for all copies")
        self._observation = self._groups(self.game.reset(seed, where))
        self._queue = []
        since = self._since.to(leaves(self._observation)[0].device)
        self._since = torch.zeros_like(since) if where is None else torch.where(where[:, None], 0.0, since)

    def turn(self) -> int:
        """The agents' own order."""
        return len(self._queue)

    def observe(self, agent: int) -> Nested:
        """Of the last joint step, whatever is queued since."""
        if self._observation is None:
            raise GameError(f"{self.name} was observed before its first reset")
        group, place = self._places[agent]
        return _part(self.players.groups[group].observation_space, self._observation[group], place)

    def act(self, actions: Nested) -> Turn:
        """As AECProgram.act."""
        if self._observation is None:
            raise GameError(f"{self.name} was played before its first reset")
        self._since[:, len(self._queue)] = 0.0
        self._queue.append(actions)
        if len(self._queue) < len(self.players.names):
            nothing = torch.zeros_like(self._since, dtype=torch.bool)
            return Turn(torch.zeros_like(self._since), nothing, nothing.any(1), ~nothing)
        joint = tuple(_together(group.action_space, [self._queue[agent] for agent in group.agents]) for group in self.players.groups)
        self._queue = []
        step = self.game.step(joint)
        self._observation = self._groups(step.observation)
        self._since = self._since + step.reward
        return Turn(step.reward, step.terminated, step.boundary, step.mask)

    def since(self, agent: int) -> Float[Tensor, "B"]:
        """As AECProgram.since."""
        return self._since[:, agent].clone()

    def legal(self, agent: int) -> Bool[Tensor, "B K"] | None:
        """As AECProgram.legal."""
        legal = self.game.legal()
        if legal is None:
            return None
        group, place = self._places[agent]
        widths = [legal_width(group.action_space) for group in self.players.groups]
        before = sum(width * len(other.agents) for width, other in zip(widths[:group], self.players.groups, strict=False))
        return legal[:, before + place * widths[group] :][:, : widths[group]]

    @staticmethod
    def _groups(observation: Nested) -> tuple[Nested, ...]:
        assert isinstance(observation, tuple)  # as games of many give it
        return observation


class GameOfCycles(Game):
    """A cyclic AEC program as a game of joint actions: a step is a cycle, in which every agent acts once, always in one order.

    Only a program whose agents learn nothing of one another within a cycle is equivalent to it; any other can be played one act at
    a time (`posg_from_aecg`), but not so. Snapshots are left out: a program need not have any.
    """

    def __init__(self, program: AECProgram) -> None:
        """The order is that of the first cycle."""
        self.program, self.players, self.copies, self.name = program, program.players, program.copies, program.name
        self._who = program.players
        self.observation_space, self.action_space = self._who.observation_space, self._who.action_space
        self._order: list[int] = []

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset."""
        self.program.reset(seed, where)
        return self._observation()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for a program that is not cyclic, ends within a cycle or shows what others just did."""
        assert isinstance(actions, tuple)  # over groups
        own = {
            agent: _part(group.action_space, joint, place)
            for group, joint in zip(self._who.groups, actions, strict=True)
            for place, agent in enumerate(group.agents)
        }
        before = {agent: self.program.observe(agent) for agent in own}
        taken: list[int] = []
        acts: list[Turn] = []
        for _ in own:
            agent = self.program.turn()
            self._check(agent, taken, before[agent], acts)
            taken.append(agent)
            acts.append(self.program.act(own[agent]))
        self._order = taken
        reward, terminated = torch.stack([act.reward for act in acts]).sum(0), torch.stack([act.terminated for act in acts]).any(0)
        return Step(self._observation(), reward, terminated, acts[-1].boundary, torch.stack([act.mask for act in acts]).all(0))

    def _check(self, agent: int, taken: list[int], before: Nested, acts: list[Turn]) -> None:
        names = self._who.names
        due = self._order[len(taken)] if self._order else None
        if agent in taken or (due is not None and agent != due):
            expected = names[due] if due is not None else "somebody who had not acted yet"
            raise GameError(
                f"{self.name} is not cyclic: it was the turn of {names[agent]} where {expected} was due; joint actions need a program "
                "in which every agent acts once, always in the same order"
            )
        if acts and bool(acts[-1].boundary.any()):
            raise GameError(f"{self.name} ended before {names[agent]} had acted; joint actions need a program that ends between cycles")
        if any(not _same(old, new) for old, new in zip(leaves(before), leaves(self.program.observe(agent)), strict=True)):
            raise GameError(f"{self.name} shows {names[agent]} what others did within the cycle; joint actions would hide it")

    def _observation(self) -> Nested:
        return tuple(
            _together(group.observation_space, [self.program.observe(agent) for agent in group.agents]) for group in self._who.groups
        )

    def legal(self) -> Bool[Tensor, "B K"] | None:
        """As Game.legal."""
        agents = [agent for group in self._who.groups for agent in group.agents]
        legal = {agent: self.program.legal(agent) for agent in agents}
        if all(own is None for own in legal.values()):
            return None
        spaces = {agent: group.action_space for group in self._who.groups for agent in group.agents}
        every = [own if own is not None else torch.ones(self.copies, legal_width(spaces[i]), dtype=torch.bool) for i, own in legal.items()]
        return torch.cat(every, 1)


def _part(space: Space, nested: Nested, place: int) -> Nested:
    """One agent's value out of its group's; those of a MultiDiscrete lie one after the other (`spec.stacked`)."""
    found: list[Tensor] = []
    for kind, leaf in zip(leaf_spaces(space), leaves(nested), strict=True):
        width = len(kind.sizes) if isinstance(kind, MultiDiscrete) else 0
        found.append(leaf[:, place * width : (place + 1) * width] if width else leaf[:, place])
    return from_leaves(space, found)


def _together(space: Space, values: Sequence[Nested]) -> Nested:
    """The inverse of `_part`: a group's value out of its agents'."""
    columns = zip(leaf_spaces(space), *(leaves(value) for value in values), strict=True)
    return from_leaves(space, [torch.cat(own, 1) if isinstance(kind, MultiDiscrete) else torch.stack(own, 1) for kind, *own in columns])


def _same(old: Tensor, new: Tensor) -> bool:
    return bool(((old == new) | ((old != old) & (new != new))).all())  # NaN is nothing new, and not for this game to report
