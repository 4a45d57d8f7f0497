"""Checkpoints that are whole or not there, and the newest valid one.

A checkpoint is written beside the others under a temporary name, synced, renamed, and its folder synced. Its manifest
holds the SHA-256 of every file. Replay lies in immutable chunks named by their content, which checkpoints share.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tutelage.experience.files import sync, write_synced, write_whole
from tutelage.experience.trees import pack, unpack

FORMAT = 1
SLOTS_PER_CHUNK = 8192
FIELDS = ("format", "step", "files", "replay", "slots_per_chunk", "digest")
FILES = ("state.safetensors", "state.json")
NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
LEFTOVER = ".partial-"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the sentence says which and why."""


Chunk = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Rows and rewards of one range of replay slots."""
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Loaded:
    """What the newest valid checkpoint held."""

    step: int
    state: dict[str, Any]
    chunks: list[Chunk]
    slots_per_chunk: int
    passed_over: list[str]
    """Why newer checkpoints were not used."""


@runtime_checkable
class Chunked(Protocol):
    """Experience whose bulk is saved apart, in pieces that checkpoints share."""

    def chunks(self, slots_per_chunk: int) -> Iterator[tuple[int, bool, dict[str, Tensor], dict[str, Tensor]]]:
        """(number, still growing, rows, rewards) of every piece."""
        ...


class Checkpoints:
    """The folder `checkpoints/` of a run and the folder `replay/` beside it. One process writes; any may read."""

    def __init__(self, run: Path, kept: int = 2) -> None:
        """kept: how many of the newest stay on disk, at least 1."""
        self.directory, self.replay_directory, self.kept = run / "checkpoints", run / "replay", kept
        self._chunk_names: dict[int, str] = {}
        self._whole: set[str] = set()
        """Chunks on disk that this process has written or checked; what else lies under such a name may be damaged."""

    def save(self, step: int, state: dict[str, Any], experience: Chunked | None) -> Path:
        """Write everything, or leave everything as it was. Raises OSError when the disk is full."""
        partial = self.directory / f"{LEFTOVER}{step:09d}-{os.getpid()}"
        for directory in (self.directory, self.replay_directory):
            directory.mkdir(parents=True, exist_ok=True)
        sync(self.directory.parent)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            chunks = [] if experience is None else self._save_chunks(experience)
            tensors, text = pack(state)
            files = dict(zip(FILES, (save(tensors), text.encode()), strict=True))
            for name, content in files.items():
                write_synced(partial / name, content)
            manifest = {
                "format": FORMAT,
                "step": step,
                "files": {name: _digest(content) for name, content in files.items()},
                "replay": chunks,
                "slots_per_chunk": SLOTS_PER_CHUNK,
            }
            write_synced(partial / "manifest.json", json.dumps(manifest | {"digest": _digest_of_manifest(manifest)}, indent=1).encode())
            sync(partial)
            final = self._free_name(step)
            os.rename(partial, final)
            sync(self.directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            self._forget_chunks()  # on a full disk the space is needed
            raise
        self._forget_old(final)
        return final

    def _free_name(self, step: int) -> Path:
        """Beside an earlier checkpoint of the same step, not in its place: until the new one is there, the old one counts."""
        final, attempt = self.directory / f"step-{step:09d}", 0
        while final.exists():
            attempt += 1
            final = self.directory / f"step-{step:09d}.{attempt}"
        return final

    def _save_chunks(self, experience: Chunked) -> list[list[str]]:
        """Names of the (rows, rewards) chunk files; a chunk that can no longer change is written once."""
        names: list[list[str]] = []
        for number, growing, rows, rewards in experience.chunks(SLOTS_PER_CHUNK):
            known = self._chunk_names.get(number)
            row_name = known if known in self._whole and not growing else self._save_chunk(rows)
            if not growing:
                self._chunk_names[number] = row_name
            names.append([row_name, self._save_chunk(rewards)])
        sync(self.replay_directory)
        return names

    def _save_chunk(self, tensors: dict[str, Tensor]) -> str:
        content = save({name: tensor.cpu() for name, tensor in tensors.items()})
        name = _digest(content)
        if name not in self._whole:
            write_whole(self._chunk_path(name), content, self.replay_directory / f"{LEFTOVER}{os.getpid()}")
            self._whole.add(name)
        return name

    def _chunk_path(self, name: str) -> Path:
        return self.replay_directory / f"{name}.safetensors"

    def _forget_old(self, newest: Path) -> None:
        """Remove checkpoints beyond `kept`, leftovers of killed writers, and chunks that no checkpoint names."""
        for leftover in self.directory.glob(f"{LEFTOVER}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.replay_directory.glob(f"{LEFTOVER}*"):
            leftover.unlink(missing_ok=True)
        found = self.all()
        place = found.index(newest)
        # Those of later steps were passed over as damaged, else this run would have continued from them.
        for old in found[:place] + found[place + self.kept :]:
            shutil.rmtree(old, ignore_errors=True)
        self._forget_chunks()

    def _forget_chunks(self) -> None:
        named: set[str] = set()
        for checkpoint in self.all():
            try:
                named.update(name for pair in self._load_manifest(checkpoint)["replay"] for name in pair)
            except CheckpointError:
                return  # what a damaged manifest names is unknown: nothing is removed on its account
        for chunk in self.replay_directory.glob("*.safetensors"):
            if chunk.stem not in named:
                chunk.unlink(missing_ok=True)
                self._whole.discard(chunk.stem)

    def all(self) -> list[Path]:
        """Complete checkpoints, newest first."""
        found = [(path, NAME.fullmatch(path.name)) for path in self.directory.glob("step-*")]
        numbered = [(int(match[1]), int(match[2] or 0), path) for path, match in found if match]
        return [path for _, _, path in sorted(numbered, reverse=True)]

    def load_newest(self) -> Loaded:
        """The newest checkpoint whose every byte is as written. Raises CheckpointError when there is none."""
        (manifest, state, chunks), passed_over = self._newest_valid(self._load)
        self._whole.update(name for pair in manifest["replay"] for name in pair)
        return Loaded(manifest["step"], state, chunks, manifest["slots_per_chunk"], passed_over)

    def load_state(self) -> tuple[int, dict[str, Any], list[str]]:
        """As `load_newest`, without the replay: step, state, and why newer ones were not used."""
        (manifest, state), passed_over = self._newest_valid(self._load_state)
        return manifest["step"], state, passed_over

    def _newest_valid(self, read: Callable[[Path], Kind]) -> tuple[Kind, list[str]]:
        passed_over: list[str] = []
        for path in self.all():
            try:
                return read(path), passed_over
            except CheckpointError as error:
                passed_over.append(str(error))
        raise CheckpointError(f"no valid checkpoint in {self.directory}: {'; '.join(passed_over) or 'there is none'}")

    def _load_manifest(self, path: Path) -> dict[str, Any]:
        with _damage(path):
            manifest = json.loads((path / "manifest.json").read_bytes())
            _check_manifest(manifest, path)
            return manifest

    def _load_state(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        manifest = self._load_manifest(path)
        with _damage(path):
            contents = [(path / name).read_bytes() for name in FILES]
            for name, content in zip(FILES, contents, strict=True):
                if _digest(content) != manifest["files"][name]:
                    raise CheckpointError(f"checkpoint {path.name} is damaged: {name} is not what was written")
            state = unpack(load(contents[0]), contents[1].decode())
            if not isinstance(state, dict):
                raise CheckpointError(f"checkpoint {path.name} is damaged: its state is no object")
            return manifest, state

    def _load(self, path: Path) -> tuple[dict[str, Any], dict[str, Any], list[Chunk]]:
        manifest, state = self._load_state(path)
        with _damage(path):
            chunks = [(self._load_chunk(path, rows), self._load_chunk(path, rewards)) for rows, rewards in manifest["replay"]]
        return manifest, state, chunks

    def _load_chunk(self, checkpoint: Path, name: str) -> dict[str, Tensor]:
        content = self._chunk_path(name).read_bytes()
        if _digest(content) != name:
            raise CheckpointError(f"checkpoint {checkpoint.name} is damaged: replay chunk {name[:12]} is not what was written")
        return load(content)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever reading bytes can raise becomes one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path.name} is incomplete: {Path(error.filename).name} is missing") from None
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"checkpoint {path.name} is damaged: {type(error).__name__}: {reason}") from None


def _check_manifest(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict):
        raise CheckpointError(f"checkpoint {path.name} is damaged: its manifest is no object")
    unknown = [name for name in manifest if name not in FIELDS]
    if unknown:
        raise CheckpointError(f"checkpoint {path.name} has an unknown field {unknown[0]!r}; this version knows {', '.join(FIELDS)}")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {path.name} has format {manifest['format']!r}; this version reads format {FORMAT}")
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    if manifest["digest"] != _digest_of_manifest(rest):
        raise CheckpointError(f"checkpoint {path.name} is damaged: its manifest is not what was written")
    step, slots = manifest["step"], manifest["slots_per_chunk"]
    name = NAME.fullmatch(path.name)
    if type(step) is not int or type(slots) is not int or slots < 1 or (name and int(name[1]) != step):
        raise CheckpointError(f"checkpoint {path.name} is damaged: its manifest speaks of step {step!r} and chunks of {slots!r} slots")
    for pair in manifest["replay"]:
        if len(pair) != 2 or not all(re.fullmatch("[0-9a-f]{64}", chunk) for chunk in pair):
            raise CheckpointError(f"checkpoint {path.name} is damaged: {pair!r} are no names of replay chunks")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_manifest(manifest: dict[str, Any]) -> str:
    """Of everything in it but the digest itself: a manifest has no other witness."""
    return _digest(json.dumps(manifest, sort_keys=True).encode())
