"""What is asked and what is answered: Query and Judgement, with all that is needed to know where a label came from."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

ANSWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pair": ("left", "right", "tie", "unknown"),
        "rank": ("unknown",),
        "rate": ("1", "2", "3", "4", "5", "6", "7", "up", "down", "unknown"),
        "flag": ("fine", "unknown"),
    }
)
"""What may be answered to a query of each kind. "left" is the first item, whatever side of the screen it was shown on.

A rank may also be answered with an order such as "2>0=1>3" (best first, = between equals), and a flag with "never@17": what
happens at step 17 must never happen.
"""

ITEMS: Mapping[str, tuple[int, int]] = MappingProxyType({"pair": (2, 2), "rank": (4, 9), "rate": (1, 1), "flag": (1, 1)})
"""How few and how many items a query of each kind has."""

LABELS: Mapping[str, float | None] = MappingProxyType({"left": 1.0, "right": 0.0, "tie": 0.5, "unknown": None})

LONGEST_TEXT = 1000
LONGEST_ITEM = 100_000
"""Characters of a text that is itself an item."""
LARGEST_INTEGER = 2**63 - 1


class FeedbackError(ValueError):
    """A query, a judgement or a teacher that makes no sense; one sentence: what was given, what was expected, where."""


def label_of(answer: str) -> float | None:
    """The probability that the first item is preferred; None for "unknown", which is paid for and teaches nothing.

    left 1, right 0, tie 1/2: Christiano et al. 2017 (arXiv 1706.03741), section 2.2.3. Raises FeedbackError for another answer.
    """
    if answer not in LABELS:
        raise FeedbackError(f'answer "{answer}" is none of {", ".join(LABELS)}')
    return LABELS[answer]


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """Where a segment that queries speak of is kept. One segment may lie in several places, each its own record."""

    id: str
    """Hash of the segment's content."""
    location: str
    """The file that holds it: a path relative to the run directory, or a URL."""
    game: str
    """The address of the game it was played in."""
    length: int
    """Steps."""

    def __post_init__(self) -> None:
        _check_text(self, "id", "location", "game")
        _check_integer("length", self.length, least=1)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """A text that queries speak of, as an item or as a prompt."""

    id: str
    """Hash of the text: see `text_hash`."""
    text: str

    def __post_init__(self) -> None:
        _check_text(self, "id")
        _check_string("text", self.text, LONGEST_ITEM)
        if self.id != text_hash(self.text):
            raise FeedbackError(f'text "{self.id}" is not what its id says; the id {text_hash(self.text)} was expected')


def text_hash(text: str) -> str:
    """The id of a text: the first 32 digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Query:
    """One question about items. Its id names this content for ever: asking it again under the same id is the same question."""

    id: str
    kind: str
    items: tuple[str, ...]
    """Content hashes, in the order that answers and labels refer to."""
    group: str
    """The lesson it belongs to (a run, or one seed of it): a StoreRater hears the answers of its own group only."""
    sampler: str
    """Which rule chose it."""
    policy_step: int
    """Environment steps that the policy had learned from when the query was made."""
    prompt: str | None = None
    """The id of the text that the items answer; None where they answer none."""

    def __post_init__(self) -> None:
        _check_text(self, "id", "kind", "group", "sampler", *(["prompt"] if self.prompt is not None else []))
        _check_integer("policy_step", self.policy_step, least=0)
        if self.kind not in ITEMS:
            raise FeedbackError(f'kind "{self.kind}" is none of {", ".join(ITEMS)}, in query "{self.id}"')
        fewest, most = ITEMS[self.kind]
        if not fewest <= len(self.items) <= most:
            count = f"{fewest} item{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} items"
            raise FeedbackError(f'items are {list(self.items)[:10]}; a {self.kind} has {count}, in query "{self.id}"')
        for item in self.items:
            _check_string("an item", item)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer of one rater. Nothing is ever changed: an undo is another judgement that supersedes this one.

    Taking an answer back without giving a new one is a superseding "unknown". Whoever creates a judgement stamps its id and
    its times once, so that sending it again, when no acknowledgement came back, sends the same content.
    """

    id: str
    query: str
    """The query's id."""
    rater: str
    answer: str
    """One of ANSWERS for the query's kind; it refers to the order of the query's items, not to the screen."""
    shown_order: tuple[int, ...] | None = None
    """Indices of the items in the order in which they were shown, from the left; None if not recorded."""
    shown_at: float | None = None
    """Unix seconds; None if not recorded."""
    answered_at: float | None = None
    """Unix seconds; None if not recorded."""
    supersedes: str | None = None
    """The id of the judgement that this one replaces: of the same rater, about the same query."""
    note: str | None = None
    """Why, in the rater's words."""
    confidence: int | None = None
    """From 1 (a guess) to 9 (certain); None if not asked."""

    @property
    def number(self) -> int:
        """The same for its id at all times and on all machines, in [0, 2^63)."""
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8], "big") >> 1

    def __post_init__(self) -> None:
        _check_text(self, "id", "query", "rater", "answer")
        for name, seconds in (("shown_at", self.shown_at), ("answered_at", self.answered_at)):
            if seconds is not None and not math.isfinite(seconds):
                raise FeedbackError(f"{name} is {seconds}; finite Unix seconds or nothing were expected")
        if self.note is not None:
            _check_text(self, "note")
        if self.confidence is not None and not 1 <= self.confidence <= 9:
            raise FeedbackError(f"confidence is {_shown(self.confidence)}; an integer from 1 to 9 was expected")
        if self.supersedes is not None:
            _check_text(self, "supersedes")
            if self.supersedes == self.id:
                raise FeedbackError(f'judgement "{self.id}" supersedes itself; another judgement\'s id was expected')


Row = SegmentRecord | TextRecord | Query | Judgement
AnyRow = TypeVar("AnyRow", bound=Row)


def new_query(
    kind: str, items: Sequence[str], group: str, sampler: str, policy_step: int, repeat: int = 0, prompt: str | None = None
) -> Query:
    """A query whose id is derived from its content, so that a resumed run that asks again asks under the same id.

    repeat: a number that tells apart queries that ask the same thing on purpose.
    """
    content = json.dumps([kind, list(items), group, sampler, policy_step, repeat, *([] if prompt is None else [prompt])])
    return Query(hashlib.sha256(content.encode()).hexdigest()[:32], kind, tuple(items), group, sampler, policy_step, prompt)


def ranking_of(answer: str, items: int) -> list[list[int]] | None:
    """ "2>0=1>3" as [[2], [0, 1], [3]], best first; None if this is no order of so many items."""
    if not re.fullmatch(r"\d([>=]\d)*", answer):
        return None
    tiers = [[int(index) for index in tier.split("=")] for tier in answer.split(">")]
    return tiers if sorted(index for tier in tiers for index in tier) == list(range(items)) else None


def ranked_pairs(answer: str, items: int) -> list[tuple[int, int, float]]:
    """All pairs (first, second, label) with first < second that a ranking implies: label 1, 0, or 1/2 between equals.

    One ranking stays one judgement; a reward model trains on all its pairs at once (Ouyang et al. 2022, arXiv 2203.02155,
    section 3.5). Raises FeedbackError for an answer that is no order of so many items; "unknown" implies nothing.
    """
    if answer == "unknown":
        return []
    tiers = ranking_of(answer, items)
    if tiers is None:
        raise FeedbackError(f'answer "{answer}" is no order of {items} items; one such as {">".join(map(str, range(items)))} was expected')
    place = {index: place for place, tier in enumerate(tiers) for index in tier}
    label = lambda first, second: 0.5 if place[first] == place[second] else float(place[first] < place[second])
    return [(first, second, label(first, second)) for first in range(items) for second in range(first + 1, items)]


def check_answer(judgement: Judgement, query: Query) -> None:
    """Raises FeedbackError if this is no possible answer to this query."""
    answers = ANSWERS[query.kind]
    ranked = query.kind == "rank" and ranking_of(judgement.answer, len(query.items)) is not None
    flagged = query.kind == "flag" and re.fullmatch(r"never@\d{1,9}", judgement.answer)
    if judgement.answer not in answers and not ranked and not flagged:
        also = {"rank": f"{'>'.join(map(str, range(len(query.items))))}, ", "flag": "never@STEP, "}.get(query.kind, "")
        raise FeedbackError(f'answer "{judgement.answer[:80]}" is none of {also}{", ".join(answers)}')
    if judgement.shown_order is not None and sorted(judgement.shown_order) != list(range(len(query.items))):
        raise FeedbackError(f"shown_order is {list(judgement.shown_order)}; an order of the {len(query.items)} items was expected")


def to_row(row: Row) -> dict[str, Any]:
    """As plain JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(row).items()}


def from_row(record: type[AnyRow], row: Mapping[str, Any]) -> AnyRow:
    """The inverse of `to_row`, for values from anywhere. Raises FeedbackError for a missing or unknown field or a wrong value."""
    known = [field.name for field in fields(record)]
    for name in row:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise FeedbackError(f'a {record.__name__} has no field "{name}"; the nearest is "{nearest}"')
    for field in fields(record):
        if field.default is MISSING and field.name not in row:
            raise FeedbackError(f'the field "{field.name}" of a {record.__name__} is missing')
    values: dict[str, Any] = {}
    hints = get_type_hints(record)
    for name, value in row.items():
        read, expected = _FORMS[hints[name]]
        try:
            values[name] = read(value)
        except TypeError as error:
            raise FeedbackError(f"{name} is {_shown(value)}; {expected} was expected") from error
    return record(**values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _seconds(value: object) -> float | None:
    if value is None or isinstance(value, float):
        return value
    if abs(seconds := _integer(value)) > LARGEST_INTEGER:  # JSON has integers that no float holds
        raise TypeError
    return float(seconds)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_text(item) for item in value)


def _order(value: object) -> tuple[int, ...] | None:
    if value is not None and not isinstance(value, list):
        raise TypeError
    return None if value is None else tuple(_integer(item) for item in value)


_FORMS: Mapping[Any, tuple[Callable[[object], Any], str]] = MappingProxyType(
    {
        str: (_text, "text"),
        int: (_integer, "an integer"),
        tuple[str, ...]: (_texts, "a list of texts"),
        tuple[int, ...] | None: (_order, "a list of indices, or null,"),
        float | None: (_seconds, "a number of Unix seconds, or null,"),
        int | None: (lambda value: None if value is None else _integer(value), "an integer, or null,"),
        str | None: (lambda value: None if value is None else _text(value), "text, or null,"),
    }
)
"""How a field of each type is read from JSON, and what to say where it cannot be."""


def _check_integer(name: str, value: int, least: int) -> None:
    if not least <= value <= LARGEST_INTEGER:
        raise FeedbackError(f"{name} is {_shown(value)}; an integer from {least} to {LARGEST_INTEGER} was expected")


def _check_text(row: Row, *names: str) -> None:
    for name in names:
        _check_string(name, getattr(row, name))


def _check_string(name: str, value: str, longest: int = LONGEST_TEXT) -> None:
    # No database stores a lone surrogate, and PostgreSQL no NUL: better refused here than by one store and not by another.
    if not 1 <= len(value) <= longest or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise FeedbackError(f"{name} is {_shown(value)}; text of 1 to {longest} characters was expected")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
