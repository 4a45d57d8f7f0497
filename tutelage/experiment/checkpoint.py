"""Checkpoints that are whole or not there, and the newest valid one.

A checkpoint is written beside the others under a temporary name, synced, renamed, and its folder synced. Its manifest
holds the SHA-256 of every file. Replay lies in immutable chunks named by their content, which checkpoints share.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.experience.replay import Replay
from tutelage.experience.trees import pack, unpack

FORMAT = 1
SLOTS_PER_CHUNK = 8192
FIELDS = ("format", "step", "files", "replay", "slots_per_chunk")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the sentence says which and why."""


@dataclass(frozen=True)
class Loaded:
    """What the newest valid checkpoint held."""

    step: int
    state: dict[str, Any]
    chunks: list[tuple[dict[str, Tensor], dict[str, Tensor]]]
    slots_per_chunk: int
    passed_over: list[str]
    """Why newer checkpoints were not used."""


class Checkpoints:
    """The folder `checkpoints/` of a run and the folder `replay/` beside it."""

    def __init__(self, run: Path, kept: int = 2) -> None:
        """kept: how many of the newest stay on disk."""
        self.directory, self.replay_directory, self.kept = run / "checkpoints", run / "replay", kept
        self._chunk_names: dict[int, str] = {}

    def save(self, step: int, state: dict[str, Any], replay: Replay) -> Path:
        """Write everything, or leave everything as it was. Raises OSError when the disk is full."""
        final = self.directory / f"step-{step:09d}"
        partial = self.directory / f".partial-{step:09d}-{os.getpid()}"
        self.directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            chunks = self._save_replay(replay)
            tensors, text = pack(state)
            files = {"state.safetensors": save(tensors), "state.json": text.encode()}
            for name, content in files.items():
                _write(partial / name, content)
            manifest = {
                "format": FORMAT,
                "step": step,
                "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
                "replay": chunks,
                "slots_per_chunk": SLOTS_PER_CHUNK,
            }
            _write(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
            _sync_directory(partial)
            if final.exists():
                shutil.rmtree(final)
            os.rename(partial, final)
            _sync_directory(self.directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._forget_old()
        return final

    def _save_replay(self, replay: Replay) -> list[list[str]]:
        """Names of the (rows, rewards) chunk files; a chunk that can no longer change is written once."""
        self.replay_directory.mkdir(parents=True, exist_ok=True)
        names: list[list[str]] = []
        for number, growing, rows, rewards in replay.chunks(SLOTS_PER_CHUNK):
            known = self._chunk_names.get(number)
            row_name = known if known is not None and not growing else self._save_chunk(rows)
            if not growing:
                self._chunk_names[number] = row_name
            names.append([row_name, self._save_chunk(rewards)])
        _sync_directory(self.replay_directory)
        return names

    def _save_chunk(self, tensors: dict[str, Tensor]) -> str:
        content = save({name: tensor.cpu() for name, tensor in tensors.items()})
        name = hashlib.sha256(content).hexdigest()
        path = self.replay_directory / f"{name}.safetensors"
        if not path.exists():
            partial = self.replay_directory / f".partial-{os.getpid()}"
            try:
                _write(partial, content)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return name

    def _forget_old(self) -> None:
        """Remove checkpoints beyond `kept`, leftovers of crashed writers, and chunks that no checkpoint names."""
        for leftover in self.directory.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for old in self.all()[self.kept :]:
            shutil.rmtree(old, ignore_errors=True)
        named: set[str] = set()
        for checkpoint in self.all():
            try:
                named.update(name for pair in json.loads((checkpoint / "manifest.json").read_text())["replay"] for name in pair)
            except (OSError, ValueError, KeyError):
                return  # what a damaged manifest names is unknown: nothing is removed on its account
        for chunk in self.replay_directory.glob("*.safetensors"):
            if chunk.stem not in named:
                chunk.unlink(missing_ok=True)

    def all(self) -> list[Path]:
        """Complete checkpoints, newest first."""
        return sorted(self.directory.glob("step-*"), reverse=True)

    def load_newest(self) -> Loaded:
        """The newest checkpoint whose every byte is as written. Raises CheckpointError when there is none."""
        passed_over: list[str] = []
        for path in self.all():
            try:
                step, state, chunks, slots = self._load(path)
                return Loaded(step, state, chunks, slots, passed_over)
            except CheckpointError as error:
                passed_over.append(str(error))
        reasons = "; ".join(passed_over) or "there is none"
        raise CheckpointError(f"no valid checkpoint in {self.directory}: {reasons}")

    def load_state(self) -> tuple[int, dict[str, Any], list[str]]:
        """As `load_newest`, without the replay: step, state, and why newer ones were not used."""
        passed_over: list[str] = []
        for path in self.all():
            try:
                manifest, state = self._load_state(path)
                return manifest["step"], state, passed_over
            except CheckpointError as error:
                passed_over.append(str(error))
        raise CheckpointError(f"no valid checkpoint in {self.directory}: {'; '.join(passed_over) or 'there is none'}")

    def _load_state(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        with _damage(path):
            manifest = json.loads((path / "manifest.json").read_bytes())
            _check_manifest(manifest, path)
            contents = {name: (path / name).read_bytes() for name in ("state.safetensors", "state.json")}
            for name, content in contents.items():
                if hashlib.sha256(content).hexdigest() != manifest["files"][name]:
                    raise CheckpointError(f"checkpoint {path.name} is damaged: {name} is not what was written")
            return manifest, unpack(load(contents["state.safetensors"]), contents["state.json"].decode())

    def _load(self, path: Path) -> tuple[int, dict[str, Any], list[tuple[dict[str, Tensor], dict[str, Tensor]]], int]:
        manifest, state = self._load_state(path)
        with _damage(path):
            chunks = [(self._load_chunk(path, rows), self._load_chunk(path, rewards)) for rows, rewards in manifest["replay"]]
        return manifest["step"], state, chunks, manifest["slots_per_chunk"]

    def _load_chunk(self, checkpoint: Path, name: str) -> dict[str, Tensor]:
        if not name.isalnum():
            raise CheckpointError(f"checkpoint {checkpoint.name} is damaged: {name!r} is no name of a replay chunk")
        content = (self.replay_directory / f"{name}.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != name:
            raise CheckpointError(f"checkpoint {checkpoint.name} is damaged: replay chunk {name[:12]} is not what was written")
        return load(content)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever reading bytes can raise becomes one sentence."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path.name} is damaged: {type(error).__name__}: {error}") from None


def _check_manifest(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict):
        raise CheckpointError(f"checkpoint {path.name} is damaged: its manifest is no object")
    unknown = [name for name in manifest if name not in FIELDS]
    if unknown:
        raise CheckpointError(f"checkpoint {path.name} has an unknown field {unknown[0]!r}; this version knows {', '.join(FIELDS)}")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {path.name} has format {manifest['format']}; this version reads format {FORMAT}")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
