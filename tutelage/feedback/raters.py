"""Who answers: scripted teachers at once, people through the store whenever they get round to it.

Training never waits: `submit` hands queries over, `poll` takes whatever has been answered since. Every query handed over is
paid for, also one that is answered "unknown".
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.feedback.query import FeedbackError, Judgement, Query, from_row, to_row

if TYPE_CHECKING:  # a scripted teacher needs no database
    from tutelage.feedback.store import Store


class Rater(ABC):
    """Answers to queries, now or later."""

    @abstractmethod
    def submit(self, queries: Sequence[Query]) -> list[str]:
        """Hand over one session's queries; returns their ids."""

    @abstractmethod
    def poll(self) -> list[Judgement]:
        """What has been answered since the last poll. A judgement that supersedes takes the place of the one it names."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to hear the same answers: JSON values and tensors."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""


@dataclass(frozen=True)
class Teacher:
    """A scripted teacher of B-Pref (Lee et al. 2021b, arXiv 2111.03026, section 3.1), by its imperfections."""

    beta: float = math.inf
    """Rationality: P(left) = sigmoid(beta (sum w r_left - sum w r_right)). Infinite: always the better one; 0: a coin."""
    discount: float = 1.0
    """Myopia: step t of H weighs discount^(H - t), so the last steps count most."""
    mistake: float = 0.0
    """Probability that the answer is flipped."""
    skip: float = 0.0
    """Answers "unknown" if neither segment earns this share of the mean return, for its length."""
    equal: float = 0.0
    """Answers "tie" if the segments differ by less than this share of the mean return, for their length."""
    repository_thresholds: bool = False
    """As B-Pref's code, not its paper: after the first session the shares are skip^2 and equal^2."""

    def __post_init__(self) -> None:
        for name in ("mistake", "skip", "equal"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise FeedbackError(f"{name} is {getattr(self, name)}; a teacher expects a number from 0 to 1")
        if not self.beta >= 0.0:
            raise FeedbackError(f"beta is {self.beta}; a teacher expects 0 or more (infinity: always the better one)")
        if not 0.0 < self.discount <= 1.0:
            raise FeedbackError(f"discount is {self.discount}; a teacher expects a number above 0 and at most 1")


TEACHERS: Mapping[str, Teacher] = MappingProxyType(
    {
        "oracle": Teacher(),
        "mistake": Teacher(mistake=0.1),
        "stoc": Teacher(beta=1.0),
        "skip": Teacher(skip=0.1),
        "equal": Teacher(equal=0.1),
        "myopic": Teacher(discount=0.9),
        "coin": Teacher(beta=0.0),
    }
)
"""The six of B-Pref, table 1, and one who knows nothing: the control of any experiment with labels."""


def teacher_thresholds(teacher: Teacher, mean_return: float, length: int, episode_length: int, session: int) -> tuple[float, float]:
    """(delta_skip, delta_equal) in units of a segment's return.

    delta = epsilon R H / T,   R: mean return of recent training episodes of T steps, H: steps of a segment. B-Pref, section 3.1.
    session: how many sessions came before (`repository_thresholds` squares epsilon after the first).
    """
    power = 2 if teacher.repository_thresholds and session > 0 else 1
    share = mean_return * length / episode_length
    return teacher.skip**power * share, teacher.equal**power * share


def teacher_answers(
    teacher: Teacher,
    reward_left: Float[Tensor, "N H"],
    reward_right: Float[Tensor, "N H"],
    thresholds: tuple[float, float],
    generator: torch.Generator,
) -> list[str]:
    """What the teacher says to N pairs of segments whose true rewards are given. B-Pref, algorithm 1.

    1. "unknown" where max(sum r_left, sum r_right) < delta_skip; 2. else "tie" where |sum r_left - sum r_right| < delta_equal;
    3. else the Bernoulli draw of `beta` on the myopic sums, flipped with probability `mistake`. A tie is never flipped.
    Both thresholds measure undiscounted sums. A threshold of zero or less (a negative mean return) never applies, as in
    B-Pref's code: a share of a negative return is no bar. Equal sums leave an infinitely rational teacher with a coin, the limit.
    Two numbers are drawn per pair whatever the teacher, so that teachers with the same seed err on the same pairs.
    """
    left, right = reward_left.to("cpu", torch.float64), reward_right.to("cpu", torch.float64)
    H = left.shape[-1]
    total_left, total_right = left.sum(-1), right.sum(-1)
    weight = teacher.discount ** torch.arange(H - 1, -1, -1, dtype=torch.float64)
    gap = (weight * left).sum(-1) - (weight * right).sum(-1)
    if math.isinf(teacher.beta):
        probability = torch.heaviside(gap, torch.tensor(0.5, dtype=torch.float64))  # infinity times a gap of 0 would be NaN
    else:
        probability = (teacher.beta * gap).sigmoid()
    draw, slip = torch.rand(len(gap), 2, generator=generator, dtype=torch.float64).unbind(-1)
    prefers_left = (draw < probability) ^ (slip < teacher.mistake)
    skip_below, equal_below = thresholds
    skipped = (torch.maximum(total_left, total_right) < skip_below) & (skip_below > 0.0)
    tied = (total_left - total_right).abs() < equal_below
    return [
        "unknown" if skip else "tie" if tie else "left" if first else "right"
        for skip, tie, first in zip(skipped.tolist(), tied.tolist(), prefers_left.tolist(), strict=True)
    ]


class OracleRater(Rater):
    """A scripted teacher that looks at the true reward and answers at once; one `submit` is one session."""

    def __init__(
        self,
        teacher: Teacher,
        rewards: Callable[[str], Tensor],
        generator: torch.Generator,
        mean_return: Callable[[], float],
        episode_length: int,
        name: str = "oracle",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """rewards: from an item's hash to its true rewards [H]. mean_return: of the last 10 training episodes, asked once per
        session and only for a teacher that needs it. episode_length: steps T of a full episode."""
        if episode_length < 1:
            raise FeedbackError(f"episode_length is {episode_length}; the steps of a full episode were expected")
        self.teacher, self.rewards, self.generator = teacher, rewards, generator
        self.mean_return, self.episode_length, self.name, self.clock = mean_return, episode_length, name, clock
        self.sessions = 0
        self.pending: list[Judgement] = []

    def submit(self, queries: Sequence[Query]) -> list[str]:
        """Raises FeedbackError if segments differ in length or their rewards are not finite."""
        if not queries:
            return []
        reward_left, reward_right = (torch.stack(self._rewards(queries, side)) for side in (0, 1))
        thresholds = (0.0, 0.0)
        if self.teacher.skip > 0.0 or self.teacher.equal > 0.0:
            mean_return = self.mean_return()
            if not math.isfinite(mean_return):
                raise FeedbackError(f"the mean return of training is {mean_return}; a teacher that skips or ties expects a number")
            thresholds = teacher_thresholds(self.teacher, mean_return, reward_left.shape[-1], self.episode_length, self.sessions)
        answers = teacher_answers(self.teacher, reward_left, reward_right, thresholds, self.generator)
        now = self.clock()
        self.pending += [
            Judgement(f"{self.name}:{query.id}", query.id, self.name, answer, tuple(range(len(query.items))), now, now)
            for query, answer in zip(queries, answers, strict=True)
        ]
        self.sessions += 1
        return [query.id for query in queries]

    def poll(self) -> list[Judgement]:
        answered, self.pending = self.pending, []
        return answered

    def state(self) -> dict[str, Any]:
        return {
            "generator": self.generator.get_state(),
            "sessions": self.sessions,
            "pending": [to_row(judgement) for judgement in self.pending],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        pending = [from_row(Judgement, row) for row in state["pending"]]
        self.generator.set_state(state["generator"])
        self.sessions, self.pending = state["sessions"], pending

    def _rewards(self, queries: Sequence[Query], side: int) -> list[Tensor]:
        found: list[Tensor] = []
        (length,) = self.rewards(queries[0].items[0]).shape
        for query in queries:
            item = query.items[side]
            reward = self.rewards(item)
            if reward.shape != (length,):
                raise FeedbackError(f"segment {item} has rewards of shape {tuple(reward.shape)}; ({length},) was expected as for the first")
            if not bool(reward.isfinite().all()):
                raise FeedbackError(f"segment {item} has a reward that is NaN or infinite; a teacher expects finite rewards")
            found.append(reward)
        return found


class StoreRater(Rater):
    """Whoever answers through the store, from this process or any other: people, scripts, imported files."""

    def __init__(self, store: "Store", group: str) -> None:
        self.store, self.group = store, group
        self.cursor = 0
        """Everything committed up to this number has been polled."""

    def submit(self, queries: Sequence[Query]) -> list[str]:
        """Commits the queries; asking again under the same ids changes nothing. Raises FeedbackError for another group's query."""
        for query in queries:
            if query.group != self.group:
                raise FeedbackError(f'query "{query.id}" belongs to group "{query.group}"; this rater hears group "{self.group}"')
        self.store.add(queries)
        return [query.id for query in queries]

    def poll(self, until: int | None = None) -> list[Judgement]:
        """The judgements committed after the cursor and up to `until` (None: now), in commit order; the cursor moves there.

        Of judgements that supersede one another only the newest is returned, and its `supersedes` names the one that an earlier
        poll returned, or is None: a caller who keeps labels by id drops the named one and adds the new one. A resumed run that
        polls up to the cursors its log names hears exactly what it heard before, whatever arrived meanwhile.
        Raises FeedbackError if `until` lies before the cursor or beyond what the store holds.
        """
        head = self.store.head()
        until = head if until is None else until
        if not self.cursor <= until <= head:
            raise FeedbackError(
                f"labels up to commit {until} were asked for, those up to {self.cursor} are known, and the store ends at {head}; "
                "either the order is wrong or this is not the store that the run was taught from"
            )
        newest: dict[str, Judgement] = {}
        for judgement in self.store.judgements(self.group, self.cursor, until):
            earlier = newest.pop(judgement.supersedes, None) if judgement.supersedes is not None else None
            newest[judgement.id] = judgement if earlier is None else replace(judgement, supersedes=earlier.supersedes)
        for name, query in self.store.erasures(self.group, self.cursor, until):
            # To a lesson a deleted answer is one that was taken back: its next fit goes without it.
            newest[f"erased:{name}"] = Judgement(f"erased:{name}", query, "erased", "unknown", supersedes=name)
        self.cursor = until
        return list(newest.values())

    def state(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load(self, state: Mapping[str, Any]) -> None:
        self.cursor = state["cursor"]
