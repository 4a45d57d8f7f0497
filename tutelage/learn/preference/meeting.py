"""Where a policy, a rater and a reward model meet when each is a process of its own: clips that are offered, and published reward models.

Christiano et al. 2017 (arXiv 1706.03741), section 2.2: trajectories go from the policy to the rater, comparisons from the rater to the
reward model, parameters back to the policy, and nobody waits. Comparisons go through the label store; the other two are files of the
run's directory that appear whole or not at all, so that whoever is killed and started again finds what the others have left.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tutelage.experience.files import write_whole
from tutelage.experience.segments import SegmentArchive, SegmentError, StoredSegment
from tutelage.experience.trees import pack, unpack


class Meeting:
    """The shared folders of one run; every process has one."""

    def __init__(self, run: Path, offers_kept: int = 50, models_kept: int = 3) -> None:
        """offers_kept, models_kept: the newest that stay; a clip that somebody is asked about is archived before it can go."""
        self.offers, self.models = run / "offers", run / "models"
        self.offers_kept, self.models_kept = offers_kept, models_kept

    def names(self, groups: Sequence[str]) -> list[str]:
        """The groups under which this run asks: those that were first given, also after its directory was renamed."""
        self.models.mkdir(parents=True, exist_ok=True)
        file, partial = self.models / "groups.json", self.models / f".partial-groups-{os.getpid()}"
        if not file.exists():
            write_whole(file, json.dumps(list(groups)).encode(), partial)
        return json.loads(file.read_text())

    def offer(self, step: int, clips: Sequence[Sequence[StoredSegment]]) -> None:
        """Clips of each seed, cut after so many steps of every copy of the game. The policy does this."""
        partial = self.offers / f".partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        for seed, own in enumerate(clips):
            archive = SegmentArchive(partial / str(seed))
            for clip in own:
                archive.put(clip)
        whole = self.offers / f"step-{step:012d}"
        if whole.exists():  # a resumed policy offers again what it offered before it was interrupted
            shutil.rmtree(partial)
        else:
            partial.rename(whole)
        for old in self._offers()[: -self.offers_kept]:
            shutil.rmtree(old, ignore_errors=True)

    @property
    def step(self) -> int:
        """Of the newest offer; -1: there is none."""
        offers = self._offers()
        return int(offers[-1].name.removeprefix("step-")) if offers else -1

    def offered(self, seed: int) -> list[StoredSegment]:
        """All clips of a seed on offer, the oldest first."""
        clips: list[StoredSegment] = []
        for folder in self._offers():
            archive = SegmentArchive(folder / str(seed))
            for path in sorted((folder / str(seed)).glob("*.safetensors")):
                try:
                    clips.append(archive.get(path.stem))
                except SegmentError:
                    continue  # withdrawn while we looked
        return clips

    def _offers(self) -> list[Path]:
        return sorted(self.offers.glob("step-*"))

    def publish(self, number: int, tree: Any) -> None:
        """A reward model and whatever else its process needs to go on. The reward model's process does this."""
        self.models.mkdir(parents=True, exist_ok=True)
        tensors, text = pack(tree)
        write_whole(self._model(number), save(tensors, {"tree": text}), self.models / f".partial-{os.getpid()}")
        for old in sorted(self.models.glob("model-*"))[: -self.models_kept]:
            old.unlink(missing_ok=True)

    def published(self, after: int = -1) -> tuple[int, Any] | None:
        """Number and tree of the newest model that can be read, if it is newer than `after`."""
        for path in sorted(self.models.glob("model-*"), reverse=True):
            number = int(path.stem.removeprefix("model-"))
            if number <= after:
                return None
            try:
                opened: Any = safe_open(path, framework="pt")
                with opened as file:
                    return number, unpack({key: file.get_tensor(key) for key in file.keys()}, file.metadata()["tree"])  # noqa: SIM118
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                continue  # withdrawn while we looked, or damaged: an older one will do
        return None

    def _model(self, number: int) -> Path:
        return self.models / f"model-{number:09d}.safetensors"
