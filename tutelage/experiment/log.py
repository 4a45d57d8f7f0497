"""The truth about a run: `events.jsonl`, one JSON object per line, only ever appended to.

Every event has `event` (its kind), `time` (unix seconds), `step` (environment steps per seed) and, where it belongs to one
seed, `seed`. A resumed run appends `resumed` with the step it continues from; readers then forget what was written before
it about later steps, because the run will live through those steps again. TensorBoard and trackio are copies of this file.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

EVENTS = "events.jsonl"
"""The name of the log inside a run directory."""

KEPT_ON_RESUME = frozenset({"start", "baseline"})
"""Kinds that speak of another run or of the whole run: going back in time does not take them back."""

OWN_FIELDS = frozenset({"event", "time", "step", "seed"})


class LogError(ValueError):
    """A log that cannot be read or copied as asked; one sentence: what was found, what was expected, where."""


class EventLog:
    """Appends events. One writer per file: the run directory's lock is the caller's business."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Opens or creates the file. A last line that a crash tore is cut off, for it never was an event."""
        self.path, self.clock = path, clock
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)  # what a full disk refuses must not wait in a buffer and come out later
        self._cut_torn_line()

    def append(self, event: str, step: int, **fields: Any) -> None:
        """Write one event through to the operating system. JSON has no NaN: a number that is not finite becomes null.

        fields: numbers, strings, booleans, None, tensors, arrays, paths, and lists and dicts of them.
        Raises LogError for a field that JSON cannot hold, OSError when the disk is full.
        """
        if clash := OWN_FIELDS.difference({"seed"}).intersection(fields):
            raise LogError(f"event {event!r} was given its own field {sorted(clash)[0]!r}, which only the log may write")
        record = {"event": event, "time": self.clock(), "step": step} | fields
        line = json.dumps({name: _plain(value, f"{event}.{name}") for name, value in record.items()}, ensure_ascii=False, allow_nan=False)
        content, end = line.encode() + b"\n", self._file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            self._file.truncate(end)
            raise

    def sync(self) -> None:
        """Return only when everything appended so far is on the disk; a checkpoint calls this before it counts as saved."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring everything to the disk and let go of the file; closing twice does nothing."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        kept = content.rfind(b"\n") + 1
        if kept < len(content):
            self._file.truncate(kept)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log in the order of writing, without those that a later `resumed` takes back.

    `resumed` with step N takes back every earlier event of a step beyond N, except `start` and `baseline`. A last line without
    its newline is a crash in mid-write and is left out.
    Raises LogError, naming the line, for any other line that is no event.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise LogError(f"{path} does not exist; a run directory has its log in {EVENTS}") from None
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
        if not line.strip():
            continue
        event = _parse(line, f"{path.name}, line {number}")
        if event["event"] == "resumed":
            events = [e for e in events if e["step"] <= event["step"] or e["event"] in KEPT_ON_RESUME]
        events.append(event)
    return events


def read_run(run: Path) -> list[dict[str, Any]]:
    """All events of a run directory: those of a reward model that learns in a process of its own too. Raises LogError as `read_events`."""
    events, apart = read_events(run / EVENTS), run / "models" / EVENTS
    return sorted([*events, *read_events(apart)], key=lambda event: event["time"]) if apart.exists() else events


def scalars(event: dict[str, Any]) -> dict[str, float]:
    """The event's numbers under the names that trackers show: `update/loss/critic`, `evaluation/mean`, `baseline/sac`."""
    kind = event["event"]
    if kind == "baseline":
        return {f"baseline/{event['method']}": float(event["mean"])} if event.get("mean") is not None else {}
    if kind == "evaluation" and event.get("policy") == "untrained":
        kind = "evaluation of the untrained policy"
    return {
        f"{kind}/{name}": float(value)
        for name, value in event.items()
        if name not in OWN_FIELDS and isinstance(value, int | float) and not isinstance(value, bool)
    }


def write_tensorboard(run: Path, out: Path) -> list[Path]:
    """Copy a run's numbers into TensorBoard logs, one directory per seed below `out`; returns those directories.

    Steps are environment steps, wall times are the events' own. Events without a seed go to `out/run`.
    Raises LogError when TensorBoard is not installed or `out` already holds a copy (TensorBoard would show both, mixed).
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LogError(f"writing TensorBoard logs needs the package tensorboard (pip install 'tutelage[tracking]'): {error}") from error
    events = read_run(run)
    if next(out.glob("**/*.tfevents.*"), None):
        raise LogError(f"{out} already holds TensorBoard logs; give an empty directory, or remove that one first")
    folders: list[Path] = []
    for seed, own in _by_seed(events):
        folder = out / ("run" if seed is None else f"seed-{seed}")
        folders.append(folder)
        with SummaryWriter(str(folder)) as writer:
            for event in own:
                for name, value in scalars(event).items():
                    writer.add_scalar(name, value, event["step"], walltime=event["time"])
                if event["event"] == "start":
                    text = json.dumps(event.get("config", {}), indent=2, ensure_ascii=False)
                    writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), 0, walltime=event["time"])
    return folders


def write_trackio(run: Path, project: str = "tutelage") -> list[str]:
    """Copy a run's numbers into trackio's database on this machine, one trackio run per seed; returns their names.

    The database lies where trackio keeps it (the environment variable TRACKIO_DIR). Events without a seed come with the first seed.
    Raises LogError when trackio is not installed or the project already holds a run of that name.
    """
    try:
        import trackio
    except ImportError as error:
        raise LogError(f"writing to trackio needs the package trackio (pip install 'tutelage[tracking]'): {error}") from error
    events = read_run(run)
    config = next((e.get("config", {}) for e in events if e["event"] == "start"), {})
    group = run.resolve().name
    seeds = sorted({e["seed"] for e in events if "seed" in e}) or [None]
    names = {seed: group if seed is None else f"{group} seed {seed}" for seed in seeds}
    try:
        taken = {r.name for r in trackio.Api().runs(project)}
    except ValueError:  # its way of saying that there is no such project yet
        taken = set()
    if clash := taken.intersection(names.values()):
        raise LogError(f"trackio's project {project!r} already holds a run named {sorted(clash)[0]!r}; delete it or give another project")
    for seed, name in names.items():
        own = [e for e in events if e.get("seed", seeds[0]) == seed]
        copy = trackio.init(project=project, name=name, group=group, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        for event in own:
            if values := scalars(event):
                copy.log(values, step=event["step"])
        copy.finish()
    return list(names.values())


def _by_seed(events: list[dict[str, Any]]) -> list[tuple[int | None, list[dict[str, Any]]]]:
    """Events grouped by seed, those of no seed first."""
    groups: dict[int | None, list[dict[str, Any]]] = {}
    for event in events:
        groups.setdefault(event.get("seed"), []).append(event)
    return sorted(groups.items(), key=lambda item: (item[0] is not None, item[0] or 0))


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise LogError(f"{where}: {line[:60]!r} is no JSON; every line of a log is one JSON object") from None
    if (
        not isinstance(event, dict)
        or not isinstance(event.get("event"), str)
        or not _is_step(event.get("step"))
        or not isinstance(event.get("time"), int | float)
    ):
        raise LogError(f'{where}: {line[:60]!r} is no event, which has a text "event", a number "time" and a whole "step" from 0 on')
    return event


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _plain(value: Any, where: str) -> Any:
    """What JSON can hold, with the same meaning."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, where) for entry in value]
    if hasattr(value, "tolist"):  # a tensor or an array, of any rank
        return _plain(value.tolist(), where)
    raise LogError(f"the field {where} is of type {type(value).__name__}, which JSON cannot hold")
