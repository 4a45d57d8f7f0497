"""Rows of text data, by what they teach: a demonstration, a pair, a ranking, a thumb up or down, or only a prompt."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

from tutelage.experience.text import TextError

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Words = str | tuple[Message, ...]
"""A prompt: plain text, or the turns so far, which the model's chat template puts into text."""


@dataclass(frozen=True, kw_only=True)
class TextRow(ABC):
    """One row of a data set. `answers` is what all kinds share: a row is a prompt with some answers, and what is known of them."""

    prompt: Words
    where: str = ""
    """The file it comes from."""
    number: int = 0
    """Its row there, counted from 1."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Whatever else the row holds; reward functions get it by name."""

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """In the order in which a batch holds them."""

    @property
    def place(self) -> str:
        """Where it stands, for a sentence about it."""
        return f"{self.where}, row {self.number}" if self.where else f"row {self.number}"


@dataclass(frozen=True, kw_only=True)
class Prompt(TextRow):
    """To be answered by a model."""

    @property
    def answers(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Demonstration(TextRow):
    """How to answer. Without a prompt the whole text is learned from."""

    answer: str

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,)


@dataclass(frozen=True, kw_only=True)
class Pair(TextRow):
    """Two answers, of which one was preferred."""

    chosen: str
    rejected: str
    margin: float | None = None
    """By how much; None where nobody said."""

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True, kw_only=True)
class Ranked(TextRow):
    """K answers in an order: one prompt, one element of a reward model's batch."""

    texts: tuple[str, ...]
    ranks: tuple[int, ...]
    """Per answer, 1 for the best; equal ranks are ties."""

    def __post_init__(self) -> None:
        if len(self.texts) < 2 or len(self.texts) != len(self.ranks):
            raise TextError(f"{len(self.texts)} answers with {len(self.ranks)} ranks were given; as many, and two at least, were expected")

    @property
    def answers(self) -> tuple[str, ...]:
        return self.texts

    def preferences(self) -> list[tuple[int, int]]:
        """(better, worse) of every pair that is no tie."""
        pairs = combinations(range(len(self.ranks)), 2)
        return [(i, j) if self.ranks[i] < self.ranks[j] else (j, i) for i, j in pairs if self.ranks[i] != self.ranks[j]]


@dataclass(frozen=True, kw_only=True)
class Labeled(TextRow):
    """One answer with a thumb up or down."""

    answer: str
    desirable: bool

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,)


def demonstrations(rows: Iterable[TextRow]) -> list[Demonstration]:
    """What may be imitated: demonstrations, chosen answers, the first of the best of a ranking, answers with a thumb up."""
    found: list[Demonstration] = []
    for row in rows:
        match row:
            case Demonstration():
                found.append(row)
            case Pair():
                found.append(Demonstration(answer=row.chosen, **_place(row)))
            case Ranked():
                found.append(Demonstration(answer=row.texts[row.ranks.index(min(row.ranks))], **_place(row)))
            case Labeled():
                found += [Demonstration(answer=row.answer, **_place(row))] if row.desirable else []
            case _:
                raise _unfit(row, "an answer")
    return found


def pairs(rows: Iterable[TextRow]) -> list[Pair]:
    """Every comparison that was decided; a ranking is all its pairs, which are then no longer one element of a batch."""
    found: list[Pair] = []
    for row in rows:
        match row:
            case Pair():
                found.append(row)
            case Ranked():
                found += [Pair(chosen=row.texts[i], rejected=row.texts[j], **_place(row)) for i, j in row.preferences()]
            case _:
                raise _unfit(row, "two answers of which one was preferred")
    return found


def rankings(rows: Iterable[TextRow]) -> list[Ranked]:
    """Rankings as they are; a pair is a ranking of two. A margin stays among the columns."""
    found: list[Ranked] = []
    for row in rows:
        match row:
            case Ranked():
                found.append(row)
            case Pair():
                place = _place(row)
                place["columns"] = {**row.columns, **({} if row.margin is None else {"margin": row.margin})}
                found.append(Ranked(texts=row.answers, ranks=(1, 2), **place))
            case _:
                raise _unfit(row, "answers in an order")
    return found


def labeled(rows: Iterable[TextRow]) -> list[Labeled]:
    """Thumbs as they are; a chosen answer is a thumb up and a rejected one a thumb down, and so are the ends of an order."""
    found: list[Labeled] = []
    for row in rows:
        match row:
            case Labeled():
                found.append(row)
            case Pair():
                found += [Labeled(answer=text, desirable=up, **_place(row)) for text, up in ((row.chosen, True), (row.rejected, False))]
            case Ranked() if row.preferences():
                best, worst = (row.texts[row.ranks.index(end(row.ranks))] for end in (min, max))
                found += [Labeled(answer=text, desirable=up, **_place(row)) for text, up in ((best, True), (worst, False))]
            case Ranked():
                continue  # all are ranked alike: no answer is a good one
            case _:
                raise _unfit(row, "answers with a thumb up or down")
    return found


def prompts(rows: Iterable[TextRow]) -> list[Prompt]:
    """Every prompt once, where it first occurs."""
    first: dict[Words, Prompt] = {}
    for row in rows:
        first.setdefault(row.prompt, row if isinstance(row, Prompt) else Prompt(**_place(row)))
    return list(first.values())


def texts_of(row: TextRow) -> list[str]:
    """All that a row says, turn by turn: what a tokenizer is trained on."""
    return [*([row.prompt] if isinstance(row.prompt, str) else [turn.content for turn in row.prompt]), *row.answers]


def fingerprint(rows: Sequence[TextRow], columns: bool = False) -> str:
    """SHA-256 of what the rows say, wherever they came from: a cache that was filled from other rows must not be used.

    columns: with the further columns, from which reward functions read.
    """
    digest, apart = hashlib.sha256(), ("where", "number") if columns else ("where", "number", "columns")
    for row in rows:
        content = {name: value for name, value in asdict(row).items() if name not in apart}
        digest.update(json.dumps([type(row).__name__, content], sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()


def _place(row: TextRow) -> dict[str, Any]:
    return {"prompt": row.prompt, "where": row.where, "number": row.number, "columns": row.columns}


def _unfit(row: TextRow, needed: str) -> TextError:
    return TextError(f"{row.place} is a {type(row).__name__}; a row with {needed} was expected")
