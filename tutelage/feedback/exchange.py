"""Labels as JSON lines: to look at, to send to somebody, to bring in from elsewhere.

One JSON object per line. `type` says what it is (segment, text, query or judgement); the other fields are those of SegmentRecord,
TextRecord, Query and Judgement. Export writes queries beside judgements, so that a file stands on its own; import takes any such file.
"""

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from tutelage.feedback.query import (
    FeedbackError,
    Judgement,
    Query,
    Row,
    SegmentRecord,
    TextRecord,
    from_row,
    label_of,
    new_query,
    ranked_pairs,
    text_hash,
    to_row,
)
from tutelage.feedback.store import Store, StoreError

TYPES: Mapping[str, type[Row]] = MappingProxyType({"segment": SegmentRecord, "text": TextRecord, "query": Query, "judgement": Judgement})

_NAMES = {record: name for name, record in TYPES.items()}
_SHOWN_ERRORS = 20


@dataclass(frozen=True)
class ImportReport:
    """What became of each row of a file."""

    new: int
    """Rows that the store did not hold."""
    known: int
    """Rows that it held already."""
    errors: tuple[str, ...]
    """One sentence for every refused row, beginning with file and row number."""

    def __str__(self) -> str:
        imported = f"{self.new + self.known} valid rows were imported"
        if self.known:
            imported += f" ({self.known} of them were there already)"
        shown = list(self.errors[:_SHOWN_ERRORS])
        if len(self.errors) > _SHOWN_ERRORS:
            shown.append(f"and {len(self.errors) - _SHOWN_ERRORS} more malformed rows")
        return "; ".join(["\n".join(shown), imported] if shown else [imported])


def import_labels(path: str | Path, store: Store) -> ImportReport:
    """Adds every valid row of a JSON-lines file to the store, in one transaction; rows may come in any order of types.

    Importing a file twice adds nothing the second time. Raises OSError if the file cannot be read and StoreError if the
    database fails; a malformed row raises nothing and is in the report.
    """
    path = Path(path)
    return import_lines(path.read_bytes(), path.name, store)


def import_lines(content: bytes, name: str, store: Store) -> ImportReport:
    """As `import_labels`, for the content of a file called `name`. Raises StoreError if the database fails.

    A line with TRL's columns (prompt, chosen, rejected, all texts) is two texts, a query about them and the judgement of a rater
    called "imported"; it counts as one row.
    """
    parsed: dict[int, list[Row]] = {}
    errors: dict[int, str] = {}
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed[number] = _parse(line)
        except FeedbackError as error:
            errors[number] = str(error)
    kinds = list(TYPES.values())
    order = sorted(((number, row) for number, rows in parsed.items() for row in rows), key=lambda each: kinds.index(type(each[1])))
    outcomes: dict[int, list[bool | StoreError]] = {number: [] for number in parsed}
    for (number, _), outcome in zip(order, store.add_valid(row for _, row in order), strict=True):  # queries before their answers
        outcomes[number].append(outcome)
    for number, own in outcomes.items():
        if (refused := next((outcome for outcome in own if isinstance(outcome, StoreError)), None)) is not None:
            errors[number] = str(refused)
    return ImportReport(
        new=sum(number not in errors and own[-1] is True for number, own in outcomes.items()),
        known=sum(number not in errors and own[-1] is False for number, own in outcomes.items()),
        errors=tuple(f"{name}, row {number}: {errors[number]}" for number in sorted(errors)),
    )


def export_labels(store: Store, path: str | Path, groups: Sequence[str] | None = None) -> int:
    """Writes everything of some groups (None: of all) and returns the number of rows. The file appears whole or not at all.

    Superseded judgements are written too, with those that supersede them: the file is the record, not its summary.
    """
    return export_rows(label_rows(store, groups), path)


def label_rows(store: Store, groups: Sequence[str] | None = None) -> list[Row]:
    """What `export_labels` writes."""
    head = store.head()
    wanted = [None] if groups is None else groups
    queries = [query for group in wanted for query in store.queries(group, until=head)]
    judgements = [judgement for group in wanted for judgement in store.judgements(group, until=head)]
    items = list(dict.fromkeys(item for query in queries for item in (*query.items, query.prompt) if item is not None))
    return [*store.segments(items), *store.texts(items), *queries, *judgements]


def line_of(row: Row) -> str:
    """One row as a line of JSON."""
    return json.dumps({"type": _NAMES[type(row)]} | to_row(row)) + "\n"


def trl_rows(store: Store, group: str | None = None) -> list[str]:
    """Every decided comparison of texts as a line of TRL's columns prompt, chosen and rejected; rankings are all their pairs.

    `group_id` tells which lines come from one ranking: a reward model trains on them together. Ties and answers that were taken
    back are left out.
    """
    judgements = store.judgements(group)
    replaced = {judgement.supersedes for judgement in judgements}
    queries = {query.id: query for query in store.queries(group)}
    wanted = {item for query in queries.values() for item in (*query.items, query.prompt) if item is not None}
    texts = {text.id: text.text for text in store.texts(sorted(wanted))}
    lines: list[str] = []
    for judgement in judgements:
        query = queries[judgement.query]
        if judgement.id in replaced or not all(item in texts for item in query.items):
            continue
        for first, second, label in _decided(query, judgement):
            better, worse = (first, second) if label == 1.0 else (second, first)
            row = {"prompt": texts.get(query.prompt or "", ""), "chosen": texts[query.items[better]], "rejected": texts[query.items[worse]]}
            lines.append(json.dumps(row | {"group_id": judgement.id, "rater": judgement.rater}) + "\n")
    return lines


def _decided(query: Query, judgement: Judgement) -> list[tuple[int, int, float]]:
    if query.kind == "rank":
        return [pair for pair in ranked_pairs(judgement.answer, len(query.items)) if pair[2] != 0.5]
    label = label_of(judgement.answer) if query.kind == "pair" else None
    return [] if label in (None, 0.5) else [(0, 1, float(label or 0.0))]


def export_rows(rows: Sequence[Row], path: str | Path) -> int:
    """Writes rows, and returns their number. The file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(line_of(row))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(rows)


def _parse(line: bytes) -> list[Row]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FeedbackError(f"this is no JSON ({reason})") from error
    if not isinstance(row, dict):
        raise FeedbackError(f"a JSON object was expected, not a {type(row).__name__}")
    if "type" not in row and {"chosen", "rejected"} <= row.keys():
        return _from_trl(row)
    kind = row.pop("type", None)
    if not isinstance(kind, str) or kind not in TYPES:
        raise FeedbackError(f"type {json.dumps(kind)[:80]} is none of {', '.join(TYPES)}")
    return [from_row(TYPES[kind], row)]


def _from_trl(row: dict[str, Any]) -> list[Row]:
    values = [row.get(name, "") for name in ("prompt", "chosen", "rejected")]
    if not all(isinstance(value, str) for value in values):
        raise FeedbackError("prompt, chosen and rejected are not all texts; a conversation in roles is not read here")
    prompt, chosen, rejected = (TextRecord(text_hash(value), value) if value else None for value in values)
    if chosen is None or rejected is None:
        raise FeedbackError("chosen or rejected is empty; two texts were expected")
    group = row.get("group", "imported")
    query = new_query("pair", [chosen.id, rejected.id], group, "imported", 0, prompt=None if prompt is None else prompt.id)
    texts: list[Row] = [text for text in (prompt, chosen, rejected) if text is not None]
    return [*texts, query, Judgement(f"imported:{query.id}", query.id, "imported", "left")]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
