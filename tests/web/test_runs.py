"""What the room knows of a run, from its log alone."""

import json
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.web.conftest import Lab
from tests.web.student import config
from tutelage.experiment.config import to_json
from tutelage.web.app import Settings, create_app
from tutelage.web.runs import Runs


def lived(directory: Path, *events: dict[str, Any]) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(to_json(config(24))))
    with (directory / "events.jsonl").open("a") as log:
        for event in events:
            log.write(json.dumps({"time": 0.0, "step": 0} | event) + "\n")


def test_a_run_is_what_its_log_says(tmp_path: Path):
    run = tmp_path / "run"
    lived(run, {"event": "start"}, {"event": "evaluation", "seed": 0, "mean": -1500.0})
    runs = Runs((run,))
    (view,) = runs.all()
    assert (view.game, view.budget, view.step, view.next_session, view.finished) == ("gym:Pendulum-v1", 24, 0, 120, False)
    lived(run, {"event": "queries", "step": 120, "seed": 0, "queries": 12}, {"event": "session", "step": 130, "seed": 0, "labels": 9})
    # bins: 4 answers thought 0.8 likely to be left, of which 3 were; 2 thought 0.1 likely, of which none was: 3 + 2 of 6 foretold
    bins = {"probability": [0.8, 0.1], "frequency": [0.75, 0.0], "count": [4, 2]}
    lived(
        run, {"event": "calibration", "step": 130, "seed": 0} | bins, {"event": "clip", "step": 130, "file": "clips/a.mp4", "caption": "A"}
    )
    (view,) = runs.all()
    assert (view.step, view.next_session, view.labels, view.accuracy, view.returns) == (130, 220, 9, [(130, 5 / 6)], {0: [(0, -1500.0)]})
    assert runs.film("run", "clips/a.mp4") == run / "clips/a.mp4" and runs.film("run", "config.json") is None
    assert runs.of("run/seed-0") is view and runs.of("renamed/seed-0") is view
    (run / "events.jsonl").write_text("nonsense\n")
    assert runs.all() == []


def test_runs_that_begin_later_are_found(tmp_path: Path):
    runs = Runs((), tmp_path)
    assert runs.all() == []
    for name in ("a", "b"):
        lived(tmp_path / name, {"event": "start"})
    assert [view.directory.name for view in runs.all()] == ["a", "b"]
    assert runs.of("b/seed-0") is runs.view(tmp_path / "b") and runs.of("c/seed-0") is None


def test_when_a_run_has_ended_nobody_is_asked_its_queries(tmp_path: Path):
    for name in ("run", "other"):
        lived(tmp_path / name, {"event": "start"})
    settings = Settings(f"sqlite:///{tmp_path / 'l.sqlite'}", tmp_path / "clips", runs_below=tmp_path, accounts=True)
    app = create_app(settings)
    with TestClient(app, follow_redirects=False) as client:
        lab = Lab(app, client)
        lab.ask(2, group="run/seed-0")
        lab.ask(1, kind="rate", group="other/seed-0")
        ann = lab.enter("ann")
        assert len(ann.post("/api/leases", json={"count": 1}).json()["leases"]) == 1
        lived(tmp_path / "run", {"event": "end", "step": 10})
        (left,) = ann.post("/api/leases", json={"count": 5}).json()["leases"]
        assert left["kind"] == "rate" and lab.room.queue.progress("run/seed-0").withdrawn == 2
        told = ann.get("/api/progress").json()
        assert told["finished"] is False and told["waiting"] == 1
        assert "the lesson is over" in ann.get("/teach").text


def test_a_person_at_home_is_asked_about_the_own_run_only(tmp_path: Path):
    app = create_app(Settings(f"sqlite:///{tmp_path / 'shared.sqlite'}", tmp_path / "clips", groups=("mine/seed-0",), accounts=True))
    with TestClient(app, follow_redirects=False) as client:
        lab = Lab(app, client)
        (mine,) = lab.ask(1, group="mine/seed-0")
        lab.ask(1, kind="rate", group="theirs/seed-0")
        ann = lab.enter("ann")
        leased = [ann.post("/api/leases", json={"count": 5} | wish).json()["leases"] for wish in ({}, {"group": "theirs/seed-0"})]
        assert [[lease["query"] for lease in own] for own in leased] == [[mine.id], []]
        assert ann.get("/api/progress").json()["waiting"] == 1
