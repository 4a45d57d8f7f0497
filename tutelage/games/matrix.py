"""Games in normal form as games of many: everybody chooses one action, at once, and a table says what each is paid."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Generator, Tensor

from tutelage.games.options import build, parse, value_of
from tutelage.games.posg import POSG, in_order, one_team
from tutelage.games.spec import CannotSnapshot, Discrete, Game, GameError, Nested, Snapshot, Step


def stag_hunt() -> Float64[Tensor, "2 2 2"]:
    """Actions stag and rabbit (NPFL139 lecture 14): a stag needs both."""
    return torch.tensor([[[2.0, 0.0], [1.0, 1.0]], [[2.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)


def prisoners_dilemma() -> Float64[Tensor, "2 2 2"]:
    """Actions stay silent and testify (NPFL139 lecture 14): years in prison, negative."""
    return torch.tensor([[[-1.0, -3.0], [0.0, -2.0]], [[-1.0, 0.0], [-3.0, -2.0]]], dtype=torch.float64)


def rock_paper_scissors() -> Float64[Tensor, "2 3 3"]:
    """1 for the winner and -1 for the loser."""
    first = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    return torch.stack([first, -first])


def matching_pennies() -> Float64[Tensor, "2 2 2"]:
    """Actions heads and tails: the first wants the same, the second the opposite."""
    first = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    return torch.stack([first, -first])


def random_matrix(actions: int = 3, agents: int = 2, seed: int = 0) -> Float64[Tensor, "N *A"]:
    """Standard normal payoffs. Raises GameError where there would be no action or no agent."""
    if actions < 1 or agents < 1:
        raise GameError(f"matrix:random was asked for with actions={actions} and agents={agents}; at least one of each is needed")
    return torch.randn(agents, *[actions] * agents, generator=Generator().manual_seed(seed), dtype=torch.float64)


MATRICES: dict[str, Callable[..., Tensor]] = {
    "matrix:stag_hunt": stag_hunt,
    "matrix:prisoners_dilemma": prisoners_dilemma,
    "matrix:rock_paper_scissors": rock_paper_scissors,
    "matrix:matching_pennies": matching_pennies,
    "matrix:random": random_matrix,
}
"""Payoff tables [N, A_1, ..., A_N] by address, with their options as parameters."""


def make_payoffs(address: str) -> Float64[Tensor, "N *A"]:
    """The table of `matrix:NAME?option=value`. Raises GameError naming the nearest one where there is none."""
    name, _, query = address.partition("?")
    return build(_maker(name), name, parse(query, address), address)


def make_matrix(address: str, copies: int, options: Mapping[str, Any]) -> "MatrixGame":
    """A table of MATRICES as a game. Besides the table's own options there is rounds, how often it is played in an episode."""
    name, _, query = address.partition("?")
    maker = _maker(name)
    given = {**parse(query, address), **options}
    rounds = value_of(int, given.pop("rounds", 1), "rounds", address)
    return MatrixGame(build(maker, name, given, address, ["rounds"]), copies, rounds, address)


def _maker(name: str) -> Callable[..., Tensor]:
    if name not in MATRICES:
        raise GameError(f"there is no game {name}; did you mean {get_close_matches(name, list(MATRICES), n=1, cutoff=0.0)[0]}?")
    return MATRICES[name]


def matrix_posg(payoffs: Float64[Tensor, "N *A"], discount: float = 0.9, name: str = "a matrix game") -> POSG:
    """The table played forever, as a POSG of one state in which nothing is observed."""
    N, actions = len(payoffs), payoffs.shape[1:]
    one = torch.ones(1, 1, dtype=torch.float64)
    return POSG(
        torch.ones(1, *actions, 1, dtype=torch.float64),
        payoffs[:, None, ..., None],
        tuple(torch.ones(1, a, 1, dtype=torch.float64) for a in actions),
        (one,) * N,
        one[0],
        discount,
        name,
    )


class MatrixGame(Game):
    """A table in B copies, `rounds` times per episode; the last round terminates it. All agents are in one team.

    With several rounds every agent observes the last joint action (0: none yet, then 1 + its number, the last agent's action fastest), but
    not how many rounds remain. With one round there is nothing to observe.
    """

    def __init__(self, payoffs: Float64[Tensor, "N *A"], copies: int, rounds: int = 1, name: str = "a matrix game") -> None:
        """Raises GameError for a table that is not [N, A_1, ..., A_N], and for no copies or rounds."""
        self.payoffs, self.copies, self.rounds, self.name = payoffs, copies, rounds, name
        actions = tuple(payoffs.shape[1:])
        if len(actions) != len(payoffs) or payoffs.numel() == 0 or not bool(torch.isfinite(payoffs).all()):
            raise GameError(f"{name}: payoffs of shape {tuple(payoffs.shape)} were given; finite ones of [N, A_1, ..., A_N] were expected")
        if copies < 1 or rounds < 1:
            raise GameError(f"{name} was asked for with copies={copies} and rounds={rounds}; at least one of each is needed")
        seen = Discrete(1 if rounds == 1 else 1 + payoffs[0].numel())
        self._who = one_team([f"agent_{i + 1}" for i in range(len(actions))], [seen] * len(actions), [Discrete(a) for a in actions])
        self.players, self.observation_space, self.action_space = self._who, self._who.observation_space, self._who.action_space
        strides = [payoffs[0, *[0] * (i + 1)].numel() for i in range(len(actions))]
        self._strides = torch.tensor(strides)
        self._last, self._round = torch.zeros(2, copies, dtype=torch.int64).unbind()
        self._playing = torch.zeros(copies, dtype=torch.bool)

    def reset(self, seed: Sequence[int] | None = None, where: Bool[Tensor, "B"] | None = None) -> Nested:
        """As Game.reset; without chance, seeds change nothing."""
        which = torch.ones(self.copies, dtype=torch.bool) if where is None else where.cpu()
        self._last, self._round = torch.where(which, 0, self._last), torch.where(which, 0, self._round)
        self._playing = self._playing | which
        return self._observation()

    def step(self, actions: Nested) -> Step:
        """As Game.step. Raises GameError for what is no joint action, and for a copy that awaits its reset."""
        if not bool(self._playing.all()):
            copy = int((~self._playing).long().argmax())
            raise GameError(f"copy {copy} of {self.name} was stepped outside an episode; reset it first")
        joint = in_order(self._who, actions, self.copies, self.name)
        number = (joint * self._strides).sum(1)
        reward = self.payoffs.flatten(1)[:, number].T.float()
        self._last, self._round = (number + 1 if self.rounds > 1 else self._last), self._round + 1
        boundary = self._round >= self.rounds
        self._playing = ~boundary
        terminated = boundary[:, None].expand_as(reward).clone()
        return Step(self._observation(), reward, terminated, boundary, torch.ones_like(terminated))

    def _observation(self) -> Nested:
        return tuple(self._last[:, None].repeat(1, len(group.agents)) for group in self._who.groups)

    def snapshot(self, copy: int) -> Snapshot:
        """As Game.snapshot; plain numbers."""
        held = {"last": int(self._last[copy]), "round": int(self._round[copy]), "playing": bool(self._playing[copy])}
        return {"game": self.name, **held}

    def restore(self, copy: int, snapshot: Snapshot) -> Nested:
        """As Game.restore, also into a game that has never been reset."""
        if snapshot["game"] != self.name:
            raise CannotSnapshot(f"a snapshot of {snapshot['game']} was given to {self.name}")
        self._last[copy], self._round[copy], self._playing[copy] = snapshot["last"], snapshot["round"], snapshot["playing"]
        return tuple(seen[copy] for seen in self._observation())
