"""Clips of segments: drawn again from their snapshots and encoded, in a process of its own, nicely, off the training path.

A clip is named by the hash of its segment, so it is drawn once whoever asks. What raters will be asked next is drawn before
they ask; what they ask for now comes first. Where a world cannot draw, the reason takes the clip's place.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path, PurePosixPath

from tutelage.feedback.query import SegmentRecord
from tutelage.feedback.queue import Queue
from tutelage.feedback.store import StoreError
from tutelage.web.runs import Runs

CLIP_RATE = 30
AHEAD = 32
"""Waiting queries whose clips are drawn before somebody asks."""
PATIENCE = 60.0
"""Seconds that one clip may take; a graphics driver can hang."""


def draw(location: str, game: str, out: str, size: int) -> str:
    """Runs in the drawing process: makes one clip; returns "", or the sentence that says why there is none."""
    from tutelage.evaluate.clips import ClipError, draw_segment, encode
    from tutelage.experience.segments import SegmentArchive, SegmentError
    from tutelage.games.make import make
    from tutelage.games.spec import CannotSnapshot, GameError

    path = Path(location)
    try:
        segment = SegmentArchive(path.parent).get(path.stem)
        if segment.snapshot is None:
            return f"{game} cannot be put back to where this clip began, so it cannot be drawn later"
        if game not in _games:
            _games[game] = make(game, 1)
        frames = draw_segment(_games[game], segment.snapshot, segment.lead_in, segment.action, size)  # type: ignore[arg-type]
        encode(frames, Path(out), CLIP_RATE)
    except (GameError, ClipError, SegmentError, CannotSnapshot, OSError) as error:
        return str(error)
    return ""


_games: dict[str, object] = {}  # of the drawing process: a game is made once


def be_nice() -> None:
    """Runs first in the drawing process: training and answers come before pictures, and it does not outlive its server."""
    with contextlib.suppress(OSError):
        os.nice(10)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _follow(parent: int) -> None:
    """A server that is killed takes nobody along: whoever draws for it looks after it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


class ClipService:
    """Clips by the hash of their segment."""

    def __init__(self, queue: Queue, runs: Runs, folder: Path, quota: int, size: int) -> None:
        """runs: whose directories segments are looked for in. quota: bytes; beyond it the clips that were not looked at for
        longest are deleted, and drawn again when somebody asks."""
        self.queue, self.runs, self.folder, self.quota, self.size = queue, runs, folder, quota, size
        self.reasons: dict[str, str] = {}
        """Why there is no clip of these segments."""
        self._wanted: OrderedDict[str, None] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._pool: ProcessPoolExecutor | None = None
        self._thread = threading.Thread(target=self._work, name="clips", daemon=True)

    def start(self) -> None:
        """Begin to draw what waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def close(self) -> None:
        """Stop drawing; what is half drawn is not kept."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)

    def path(self, item: str) -> Path:
        """Where the clip lies, or will."""
        return self.folder / f"{item}-{self.size}.mp4"

    def ready(self, item: str) -> Path | None:
        """The clip, where it is drawn; else it is drawn next."""
        path = self.path(item)
        if path.is_file():
            with contextlib.suppress(OSError):
                os.utime(path)  # the quota deletes what nobody looked at for longest
            return path
        if item not in self.reasons:
            with self._changed:
                self._wanted[item] = None
                self._wanted.move_to_end(item, last=False)
                self._changed.notify()
        return None

    def locate(self, item: str) -> tuple[Path, SegmentRecord] | None:
        """The file of a segment that queries speak of, in one of the runs."""
        for record in self.queue.store.segments([item]):
            relative = PurePosixPath(record.location)
            if relative.is_absolute() or ".." in relative.parts or "://" in record.location:
                continue  # a location comes from whoever wrote into the store; only what lies inside a run is opened
            for run in self.runs.directories:
                if (path := run / relative).is_file():
                    return path, record
        return None

    def _work(self) -> None:
        while True:
            item = self._next()
            if item is None:
                break
            try:
                self._draw(item)
            except (StoreError, OSError) as error:  # the database or the disk rests: say so and go on with the next
                self.reasons[item] = str(error)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> str | None:
        """What to draw now; waits for it. None: nothing any more."""
        while True:
            with self._changed:
                if self._closing:
                    return None
                if self._wanted:
                    return self._wanted.popitem(last=False)[0]
            with contextlib.suppress(StoreError):
                for query in self.queue.waiting(AHEAD):
                    for item in query.items:
                        if item not in self.reasons and not self.path(item).is_file():
                            return item
            with self._changed:
                if not self._wanted and not self._closing:
                    self._changed.wait(0.5)

    def _draw(self, item: str) -> None:
        if self.path(item).is_file():
            return
        found = self.locate(item)
        if found is None:
            self.reasons[item] = "its segment lies in none of this server's runs"
            return
        path, record = found
        try:
            reason = self._submit(str(path), record.game, str(self.path(item))).result(PATIENCE)
        except TimeoutError:
            reason = f"{record.game} drew nothing within {PATIENCE:g} seconds"
            self._abandon()
        except BrokenProcessPool:
            reason = f"{record.game} ended the process that draws"
            self._abandon()
        if reason:
            self.reasons[item] = reason
        else:
            self._keep_quota()

    def _submit(self, location: str, game: str, out: str) -> "Future[str]":
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), be_nice)
        return self._pool.submit(draw, location, game, out, self.size)

    def _abandon(self) -> None:
        """A process that hangs or died is replaced with the next clip."""
        if self._pool is not None:
            for process in list(getattr(self._pool, "_processes", {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _keep_quota(self) -> None:
        clips = sorted((path.stat().st_atime, path.stat().st_size, path) for path in self.folder.glob("*.mp4"))
        excess = sum(size for _, size, _ in clips) - self.quota
        for _, size, path in clips[:-1]:  # the one just drawn stays, whatever the quota
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
