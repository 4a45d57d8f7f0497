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
from typing import NoReturn

from tutelage.feedback.query import FeedbackError, Judgement, Query, Row, SegmentRecord, TextRecord, from_row, to_row
from tutelage.feedback.store import Store

TYPES: Mapping[str, type[Row]] = MappingProxyType({"segment": SegmentRecord, "text": TextRecord, "query": Query, "judgement": Judgement})

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
    parsed: dict[int, Row] = {}
    errors: dict[int, str] = {}
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed[number] = _parse(line)
        except FeedbackError as error:
            errors[number] = str(error)
    order = sorted(parsed, key=lambda number: list(TYPES.values()).index(type(parsed[number])))  # queries before their answers
    outcomes = dict(zip(order, store.add_valid(parsed[number] for number in order), strict=True))
    errors |= {number: str(outcome) for number, outcome in outcomes.items() if isinstance(outcome, FeedbackError)}
    return ImportReport(
        new=sum(outcome is True for outcome in outcomes.values()),
        known=sum(outcome is False for outcome in outcomes.values()),
        errors=tuple(f"{path.name}, row {number}: {errors[number]}" for number in sorted(errors)),
    )


def export_labels(store: Store, path: str | Path, groups: Sequence[str] | None = None) -> int:
    """Writes everything of some groups (None: of all) and returns the number of rows. The file appears whole or not at all.

    Superseded judgements are written too, with those that supersede them: the file is the record, not its summary.
    """
    head = store.head()
    wanted = [None] if groups is None else groups
    queries = [query for group in wanted for query in store.queries(group, until=head)]
    judgements = [judgement for group in wanted for judgement in store.judgements(group, until=head)]
    items = list(dict.fromkeys(item for query in queries for item in (*query.items, query.prompt) if item is not None))
    return export_rows([*store.segments(items), *store.texts(items), *queries, *judgements], path)


def export_rows(rows: Sequence[Row], path: str | Path) -> int:
    """Writes rows, and returns their number. The file appears whole or not at all."""
    path = Path(path)
    names = {record: name for name, record in TYPES.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps({"type": names[type(row)]} | to_row(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(rows)


def _parse(line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FeedbackError(f"this is no JSON ({reason})") from error
    if not isinstance(row, dict):
        raise FeedbackError(f"a JSON object was expected, not a {type(row).__name__}")
    kind = row.pop("type", None)
    if not isinstance(kind, str) or kind not in TYPES:
        raise FeedbackError(f"type {json.dumps(kind)[:80]} is none of {', '.join(TYPES)}")
    return from_row(TYPES[kind], row)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
