"""What one server holds, and what its pages are drawn from."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates

from tutelage.feedback.queue import Progress, Queue
from tutelage.feedback.store import Store
from tutelage.web.accounts import Accounts
from tutelage.web.charts import Line, chart
from tutelage.web.clips import AHEAD, ClipService
from tutelage.web.play import Seats
from tutelage.web.runs import Runs, RunView

REMEMBERED_SECONDS = 1.0
"""How old counts may be that every page asks for every few seconds."""
FIRST_GUESS = 5.0
"""Seconds per answer before a rater has given any (Christiano et al. 2017: 3 to 5)."""


@dataclass
class Room:
    """The parts of one server."""

    store: Store
    queue: Queue
    accounts: Accounts
    clips: ClipService
    seats: Seats
    runs: Runs
    templates: Jinja2Templates
    with_accounts: bool
    tls: bool
    only: tuple[str, ...] = ()
    """The groups of this room; empty: all that the store holds."""
    _retired: set[str] = field(default_factory=set)
    _progress: dict[str, tuple[float, Progress]] = field(default_factory=dict)

    def page(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        """A page; every template may use the session."""
        session = getattr(request.state, "session", None)
        return self.templates.TemplateResponse(request, template, context | {"session": session, "room": self}, status)

    def progress(self, group: str) -> Progress:
        """Of one group, at most a second old."""
        at, known = self._progress.get(group, (0.0, None))
        if known is None or time.monotonic() - at > REMEMBERED_SECONDS:
            known = self.queue.progress(group)
            self._progress[group] = time.monotonic(), known
        return known

    def groups(self, view: RunView | None = None) -> list[str]:
        """All groups, or those of one run."""
        own = [group for group in self.queue.groups() if not self.only or group in self.only]
        return [group for group in own if view is None or self.runs.of(group) is view]

    def permitted(self, group: str | None) -> list[str] | None:
        """Which groups somebody who wishes for one (None: for any) may be asked about; None: all."""
        if not self.only:
            return None if group is None else [group]
        return [name for name in self.only if group in (None, name)]

    def retire(self) -> None:
        """The queries of runs that have ended need no answer any more: nobody is asked them."""
        for view in self.runs.all():
            name = view.directory.resolve().name
            if view.finished and name not in self._retired:
                for group in self.queue.groups():
                    if group.partition("/")[0] == name:
                        self.queue.withdraw(group)
                self._retired.add(name)

    def lesson(self, rater: str) -> dict[str, Any]:
        """How much of the lesson is done, as the working pages say it."""
        views = self.runs.all()
        counts = [self.progress(group) for group in self.groups()]
        answered, asked = sum(c.answered for c in counts), sum(c.asked - c.withdrawn for c in counts)
        budget = max(asked, sum(view.budget for view in views if not view.finished))
        seconds = self.queue.seconds_per_answer(rater)
        pace = statistics.median(seconds) if seconds else FIRST_GUESS
        following = [view.next_session for view in views if view.next_session is not None]
        return {
            "answered": answered,
            "budget": budget,
            "waiting": sum(c.waiting for c in counts),
            "yours": len(seconds),
            "seconds_left": round(pace * max(budget - answered, 0)),
            "step": min((view.step for view in views), default=None),
            "steps": min((view.steps for view in views), default=None),
            "next_session": min(following, default=None),
            "finished": bool(views) and all(view.finished for view in views),
        }

    def board(self) -> dict[str, Any]:
        """What the live board shows of each run."""
        shown: list[dict[str, Any]] = []
        waiting = self.queue.waiting(AHEAD)
        for view in self.runs.all():
            counts = [self.progress(group) for group in self.groups(view)]
            name = view.directory.resolve().name
            asked = [query for query in waiting if self.runs.of(query.group) is view][:1]
            films = [(f"/films/{quote(name)}/{quote(file)}", caption) for file, caption in [*view.films[:1], *view.films[1:][-1:]]]
            now = [item for query in asked for item in query.items if self.clips.path(item).is_file()]
            shown.append(
                {
                    "view": view,
                    "name": name,
                    "answered": sum(c.answered for c in counts),
                    "waiting": sum(c.waiting for c in counts),
                    "returns": chart([Line(f"seed {seed}", points) for seed, points in view.returns.items()], view.step),
                    "accuracy": chart([Line("foretold", view.accuracy)], view.step, least=0.0, most=1.0),
                    "films": films + [(self.clip_address(item), "What it is asked about now") for item in now],
                }
            )
        return {"runs": shown, "groups": [(group, count) for group in self.groups() if not (count := self.progress(group)).over]}

    def clip_address(self, item: str) -> str:
        """Where browsers find the clip of a segment."""
        return f"/clips/{item}"
