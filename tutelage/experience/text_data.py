"""Text data from files: JSON, JSON lines, Parquet and folders that `datasets` has saved; what a row holds is told by its columns.

docs/language_data.md lists the columns. They are TRL's, with `completions` and `ranks` for rankings, and beside them what is met in
the wild: ShareGPT's turns, messages with a label, transcripts after "Human:" and "Assistant:".
"""

import gzip
import importlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

from tutelage.experience.text import TextError
from tutelage.experience.text_rows import Demonstration, Labeled, Message, Pair, Prompt, Ranked, Role, TextRow, Words

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Before a turn of a transcript, as in hh-rlhf."""

SHOWN = 20
"""How many refused rows a sentence lists."""

Record = Mapping[str, Any]

_ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
        "tool": "tool", "function_call": "assistant", "observation": "tool",
    }
)  # fmt: skip


@dataclass(frozen=True)
class TextData:
    """What a file held."""

    name: str
    rows: tuple[TextRow, ...]
    refused: tuple[str, ...] = ()
    """One sentence for every row that cannot be read, beginning with file and row."""

    @property
    def kind(self) -> str:
        """What every row is; "nothing" where there is none."""
        return type(self.rows[0]).__name__ if self.rows else "nothing"


def load_text(path: str | Path, split: str | None = None) -> list[TextRow]:
    """The rows of a file or folder. Raises TextError when there is none, or when one of them cannot be read."""
    data = read_text(path, split)
    if data.refused:
        shown = "\n".join(data.refused[:SHOWN])
        more = f"\nand {len(data.refused) - SHOWN} more" if len(data.refused) > SHOWN else ""
        raise TextError(f"{len(data.refused)} rows of {data.name} were refused, {len(data.rows)} can be read:\n{shown}{more}")
    if not data.rows:
        raise TextError(f"{data.name} holds no row")
    return list(data.rows)


def read_text(path: str | Path, split: str | None = None) -> TextData:
    """All that can be read, and a sentence for all that cannot.

    split: of a folder saved by `datasets`; None takes the only one, or "train". Raises TextError where nothing at all can be read.
    """
    path = Path(path)
    if path.is_dir():
        return _gathered(path.name, _saved_dataset(path, split))
    if split is not None:
        raise TextError(f"{path.name} is a file and has no splits; {split!r} was asked for")
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TextError(f"{path} cannot be read: {reason}") from error
    if content[:4] == b"PAR1":
        return _gathered(path.name, _parquet(path.name, content))
    if path.suffix == ".txt":
        return _gathered(path.name, _paragraphs(path.name, content))
    head = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    return _gathered(path.name, _array(path.name, content) if head[:1] == b"[" else _lines(content))


def rows_of(records: Iterable[Any], name: str = "records") -> TextData:
    """As `read_text`, for rows that are in memory already: mappings, such as those of a `datasets.Dataset`."""
    return _gathered(name, enumerate(records, start=1))


def _gathered(name: str, numbered: Iterable[tuple[int, Any]]) -> TextData:
    rows: list[TextRow] = []
    refused: list[str] = []
    for number, record in numbered:
        try:
            if isinstance(record, TextError):
                raise record
            row = parse_row(record, name, number)
            if rows and type(row) is not type(rows[0]):
                raise TextError(
                    f"this is a {type(row).__name__} and row {rows[0].number} is a {type(rows[0]).__name__}; one kind was expected"
                )
            rows.append(row)
        except TextError as error:
            refused.append(f"{name}, row {number}: {error}")
    return TextData(name, tuple(rows), tuple(refused))


# --- files -----------------------------------------------------------------------------------------------------------------


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise TextError(f"this is no UTF-8 (byte {error.start} is {content[error.start : error.start + 1].hex()})") from error
    except RecursionError as error:
        raise TextError("this is no JSON that can be read (nested too deeply)") from error
    except ValueError as error:
        raise TextError(f"this is no JSON ({error})") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _array(name: str, content: bytes) -> Iterator[tuple[int, Any]]:
    try:
        values = _json(content)
    except TextError as error:
        raise TextError(f"{name}: {error}") from error
    yield from enumerate(values, start=1)


def _lines(content: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, _json(line)
            except TextError as error:
                yield number, error


def _paragraphs(name: str, content: bytes) -> Iterator[tuple[int, Record]]:
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TextError(f"{name} is no UTF-8 (byte {error.start} is {content[error.start : error.start + 1].hex()})") from error
    yield from enumerate(({"text": part.strip("\n")} for part in text.split("\n\n") if part.strip()), start=1)


def _parquet(name: str, content: bytes) -> Iterator[tuple[int, Record]]:
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        records: list[Record] = parquet.read_table(arrow.BufferReader(content)).to_pylist()
    except Exception as error:  # Arrow's own errors, and whatever a damaged value is turned into
        raise TextError(f"{name} begins as Parquet does and cannot be read ({_first_line(error)})") from error
    yield from enumerate(records, start=1)


def _saved_dataset(folder: Path, split: str | None) -> Iterator[tuple[int, Record]]:
    """What `save_to_disk` of datasets has written."""
    if not ({"dataset_info.json", "dataset_dict.json"} & set(os.listdir(folder))):
        raise TextError(f"{folder} is no folder that `datasets` has saved: it has neither dataset_info.json nor dataset_dict.json")
    try:
        loaded: Any = _library("datasets").load_from_disk(str(folder), keep_in_memory=True)
    except TextError:
        raise
    except Exception as error:  # it raises whatever the damaged part happens to raise
        raise TextError(f"{folder} cannot be read as a folder of `datasets` ({_first_line(error)})") from error
    if isinstance(loaded, dict):
        splits = cast(dict[str, Any], loaded)
        name = split or ("train" if len(splits) > 1 else next(iter(splits), ""))
        if name not in splits:
            raise TextError(f"{folder} has the splits {', '.join(splits) or 'none'}; {name!r} was asked for")
        loaded = splits[name]
    elif split is not None:
        raise TextError(f"{folder} has no splits; {split!r} was asked for")
    yield from enumerate(loaded, start=1)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TextError(f"{name} is not installed, and this format needs it; run: pip install 'tutelage[language]'") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# --- rows ------------------------------------------------------------------------------------------------------------------


def parse_row(record: Any, where: str = "", number: int = 0) -> TextRow:
    """One row as what its columns say that it is. Raises TextError, which does not name the row: the reader does."""
    if not isinstance(record, Mapping):
        raise TextError(f"a JSON object was expected, not {_shown(record)}")
    given = cast(Mapping[Any, Any], record)
    row = {str(name): value for name, value in given.items() if value is not None}  # Parquet fills absent columns with null
    found = next(((needed, parse) for needed, parse in _KINDS if all(name in row for name in needed)), None)
    if found is None:
        kinds = "; ".join(" and ".join(needed) for needed, _ in _KINDS)
        raise TextError(f"the columns are {', '.join(row) or 'none'}, which is no kind of row; known are {kinds}")
    needed, parse = found
    rest = {name: value for name, value in row.items() if name not in (*needed, *_OPTIONAL)}
    for name in rest:
        meant = [known for known in get_close_matches(name, _COLUMNS, n=1, cutoff=0.85) if known not in row]
        if meant:
            raise TextError(f"the column {name!r} is unknown; {meant[0]!r} seems to be meant")
    return parse(row, {"where": where, "number": number, "columns": rest})


def _sharegpt_pair(row: Record, place: dict[str, Any]) -> TextRow:
    prompt = _conversation(row)
    chosen, rejected = (_one_turn(name, row[name]) for name in ("chosen", "rejected"))
    return Pair(prompt=_before_answer(prompt), chosen=chosen, rejected=rejected, margin=_margin(row), **place)


def _sharegpt(row: Record, place: dict[str, Any]) -> TextRow:
    prompt, answer = _last_answer(_conversation(row), "conversations")
    return Demonstration(prompt=prompt, answer=answer, **place)


def _conversation(row: Record) -> tuple[Message, ...]:
    turns = _messages("conversations", row["conversations"])
    return (Message("system", _text("system", row["system"])), *turns) if row.get("system") else turns


def _labeled_messages(row: Record, place: dict[str, Any]) -> TextRow:
    prompt, answer = _last_answer(_messages("messages", row["messages"]), "messages")
    return Labeled(prompt=prompt, answer=answer, desirable=_label(row["label"]), **place)


def _dialogue(row: Record, place: dict[str, Any]) -> TextRow:
    prompt, answer = _last_answer(_messages("messages", row["messages"]), "messages")
    return Demonstration(prompt=prompt, answer=answer, **place)


def _plain(row: Record, place: dict[str, Any]) -> TextRow:
    return Demonstration(prompt="", answer=_text("text", row["text"]), **place)


def _ranked(row: Record, place: dict[str, Any]) -> TextRow:
    completions, ranks = row["completions"], row["ranks"]
    if not isinstance(completions, Sequence) or isinstance(completions, str) or not isinstance(ranks, Sequence):
        raise TextError(f"completions are {_shown(completions)} and ranks {_shown(ranks)}; two lists were expected")
    whole = [rank for rank in cast(Sequence[object], ranks) if isinstance(rank, int) and not isinstance(rank, bool)]
    if len(whole) != len(cast(Sequence[object], ranks)):
        raise TextError(f"ranks are {_shown(cast(object, ranks))}; integers were expected, 1 for the best and equal ones for ties")
    prompt = _words("prompt", row["prompt"])
    answers = [_answer(f"completion {i}", prompt, value) for i, value in enumerate(cast(Sequence[object], completions), start=1)]
    return Ranked(prompt=prompt, texts=tuple(answers), ranks=tuple(whole), **place)


def _stepwise(row: Record, place: dict[str, Any]) -> TextRow:
    raise TextError("completions with labels judge the steps of one answer, from which nothing here learns; ranks order several answers")


def _explicit_pair(row: Record, place: dict[str, Any]) -> TextRow:
    prompt = _words("prompt", row["prompt"])
    if isinstance(prompt, str) and not isinstance(row["chosen"], str):
        prompt = (Message("user", prompt),)
    chosen, rejected = (_answer(name, prompt, row[name]) for name in ("chosen", "rejected"))
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, margin=_margin(row), **place)


def _implicit_pair(row: Record, place: dict[str, Any]) -> TextRow:
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt = common_prompt(_text("chosen", chosen), _text("rejected", rejected))
        if not prompt.endswith(ASSISTANT) and (ASSISTANT in chosen or ASSISTANT in rejected):
            first = [repr(text.partition(ASSISTANT)[0].strip()[:40]) for text in (chosen, rejected)]
            raise TextError(f"the prompts differ within the pair: it begins {first[0]} for chosen and {first[1]} for rejected")
        cut = len(prompt)
        return Pair(prompt=chosen[:cut], chosen=chosen[cut:], rejected=rejected[cut:], margin=_margin(row), **place)
    both = [_messages(name, value) for name, value in (("chosen", chosen), ("rejected", rejected))]
    (prompt, better), (other, worse) = (_last_answer(turns, name) for turns, name in zip(both, ("chosen", "rejected"), strict=True))
    if prompt != other:
        turn = next(i for i in range(max(len(prompt), len(other))) if prompt[i : i + 1] != other[i : i + 1])
        said = [repr(turns[turn].content[:40]) if turn < len(turns) else "nothing" for turns in (prompt, other)]
        raise TextError(f"the prompts differ within the pair: turn {turn + 1} is {said[0]} for chosen and {said[1]} for rejected")
    return Pair(prompt=prompt, chosen=better, rejected=worse, margin=_margin(row), **place)


def _labeled_completion(row: Record, place: dict[str, Any]) -> TextRow:
    prompt = _words("prompt", row["prompt"])
    return Labeled(prompt=prompt, answer=_answer("completion", prompt, row["completion"]), desirable=_label(row["label"]), **place)


def _completion(row: Record, place: dict[str, Any]) -> TextRow:
    prompt = _words("prompt", row["prompt"])
    return Demonstration(prompt=prompt, answer=_answer("completion", prompt, row["completion"]), **place)


def _prompt(row: Record, place: dict[str, Any]) -> TextRow:
    for name, other in (("chosen", "rejected"), ("rejected", "chosen"), ("completions", "ranks")):
        if name in row:
            raise TextError(f"there is a column {name} and none of the name {other}")
    return Prompt(prompt=_words("prompt", row["prompt"]), **place)


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Record, dict[str, Any]], TextRow]], ...] = (
    (("conversations", "chosen", "rejected"), _sharegpt_pair),
    (("prompt", "chosen", "rejected"), _explicit_pair),
    (("chosen", "rejected"), _implicit_pair),
    (("prompt", "completions", "ranks"), _ranked),
    (("prompt", "completions", "labels"), _stepwise),
    (("conversations",), _sharegpt),
    (("messages", "label"), _labeled_messages),
    (("messages",), _dialogue),
    (("prompt", "completion", "label"), _labeled_completion),
    (("prompt", "completion"), _completion),
    (("prompt",), _prompt),
    (("text",), _plain),
)
"""Columns that a row needs, and how it is read then; the first that fits."""

_OPTIONAL = ("margin", "system")
_COLUMNS = sorted({name for needed, _ in _KINDS for name in needed} | set(_OPTIONAL))


def common_prompt(chosen: str, rejected: str) -> str:
    """The prompt of two texts that both contain it: their longest common prefix, cut back to where an answer may begin.

    That is behind the last "Assistant:" of a transcript, else before the last space or line break. Two answers that begin alike, and
    one that the other goes on from, keep their beginnings.
    """
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    common = chosen[:same]
    at = common.rfind(ASSISTANT)
    if at >= 0:
        return common[: at + len(ASSISTANT)]
    return common[: max((i for i, c in enumerate(common) if c.isspace()), default=0)]


# --- values ----------------------------------------------------------------------------------------------------------------


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TextError(f"{name} is {_shown(value)}; text was expected")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise TextError(f"{name} holds half of a surrogate pair, {_shown(value)}; text was expected")
    return value


def _label(value: object) -> bool:
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TextError(f"label is {_shown(value)}; true or false was expected")


def _margin(row: Record) -> float | None:
    value = row.get("margin")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TextError(f"margin is {_shown(value)}; a finite number was expected")
    return float(value)


def _words(name: str, value: Any) -> Words:
    return _text(name, value) if isinstance(value, str) else _messages(name, value)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise TextError(f"{name} is {_shown(value)}; a list of messages was expected")
    return tuple(_message(f"message {i} of {name}", turn) for i, turn in enumerate(cast(Sequence[object], value), start=1))


def _message(name: str, value: Any) -> Message:
    if isinstance(value, Mapping):
        turn = cast(Mapping[str, object], value)
        for role, content in (("role", "content"), ("from", "value")):
            if role in turn and content in turn:
                said = turn[role]
                if not isinstance(said, str) or said not in _ROLES:
                    raise TextError(f"{name} is by {_shown(said)}; one of {', '.join(_ROLES)} was expected")
                return Message(_ROLES[said], _text(f"the content of {name}", turn[content]))
    raise TextError(f"{name} is {_shown(value)}; an object with role and content (or from and value) was expected")


def _one_turn(name: str, value: Any) -> str:
    """An answer that is text, one message or a list of one."""
    if isinstance(value, str):
        return _text(name, value)
    turns = (_message(name, value),) if isinstance(value, Mapping) else _messages(name, value)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise TextError(f"{name} has the turns {', '.join(turn.role for turn in turns)}; one of the assistant was expected")
    return turns[0].content


def _answer(name: str, prompt: Words, value: Any) -> str:
    """An answer to a prompt that has a column of its own; the prompt's turns, where the answer repeats them, are taken off."""
    if isinstance(prompt, str) or isinstance(value, str | Mapping):
        return _one_turn(name, value)
    turns = _messages(name, value)
    if len(turns) > 1 and turns[: len(prompt)] != prompt[: len(turns)]:
        raise TextError(f"{name} is a whole conversation whose prompt differs from the column prompt, {_shown(turns[0].content)}")
    return _one_turn(name, [{"role": turn.role, "content": turn.content} for turn in (turns[len(prompt) :] if len(turns) > 1 else turns)])


def _last_answer(turns: tuple[Message, ...], name: str) -> tuple[tuple[Message, ...], str]:
    if turns[-1].role != "assistant":
        raise TextError(f"the last turn of {name} is by the {turns[-1].role}; an answer of the assistant was expected")
    return turns[:-1], turns[-1].content


def _before_answer(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    if turns[-1].role == "assistant":
        raise TextError("the last turn of conversations is by the assistant; chosen and rejected answer a turn by somebody else")
    return turns


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(items := cast(list[Any], value)) > 20:
        return f"a list of {len(items)}"
    text = ascii(cast(object, value))
    return text if len(text) <= 80 else text[:77] + "..."
