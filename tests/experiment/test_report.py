"""The report: its numbers come from the log, it stands alone, it is valid, nothing in it can act, and missing parts are no matter."""

import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from tutelage.evaluate.clips import encode
from tutelage.experiment import charts
from tutelage.experiment.charts import ROLES, mean_line, number
from tutelage.experiment.log import EventLog, LogError, read_events
from tutelage.experiment.report import CLIP_LIMIT, correlation, headline, write_report
from tutelage.experiment.story import Story, final_results

HOSTILE = "\"><script>alert('$\\frac{1}')</script><img src=x onerror=alert(1)> & </title></style></svg>"
VOID = {"meta", "link", "img", "br", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Fails on tags that do not match; keeps ids, references, texts and tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} appears twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID or "svg" in self.open, f"<{tag}/> is not closed in HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write_run(run, *, seeds=(0, 1, 2), final=-147.0, answers=100, game="gym:Pendulum-v1", clip=False, end=True, config=None, evaluate=True):
    """A run as the lead logs it; answers=0 makes it a SAC run. Seed k ends at final - k."""
    rng = np.random.default_rng(len(seeds))
    name = "pebble" if answers else "sac"
    with EventLog(run / "events.jsonl", lambda: 1_750_000_000.0) as log:
        settings = {"labels": answers} if answers else {"batch_size": 128}
        values = {"name": name, "game": game, "true_reward": "game", "rater": "oracle", "teacher": "oracle", "algorithm": settings}
        log.append("start", 0, config=values | (config or {}), fingerprint={"torch": "2.13.0"}, seeds=list(seeds))
        for k in seeds:
            log.append("evaluation", 0, seed=k, returns=[-1200.0, -1260.0], mean=-1230.0, policy="untrained")
        for step in range(200, 7001, 200):
            for k in seeds:
                log.append("episode", step, seed=k, length=200, learned_return=None, **{"return": -1200.0 + 0.15 * step + rng.normal()})
                log.append("update", step, seed=k, **{"loss/critic": rng.random(), "temperature": 0.2})
                if answers and step in (1000, 3800):
                    told = answers if step == 3800 else answers // 2
                    log.append("queries", step, seed=k, queries=told, sampler="uniform" if step == 1000 else "disagreement")
                    log.append("session", step, seed=k, labels=told, accuracy=0.9, loss=0.3, correlation=0.8)
        if answers:
            for k in seeds:
                true = np.linspace(-400, 0, 50)
                log.append("scatter", 7000, seed=k, true=true, learned=(k + 1) * true + rng.normal(size=50))
                log.append("calibration", 7000, seed=k, probability=[0.1, None, 0.9], frequency=[0.2, None, 0.9], count=[30, 0, 10])
        if clip:
            frames = np.zeros((3, 16, 16, 3), np.uint8)
            for moment, step in (("before", 0), ("during", 3000), ("after", 7000)):
                encode(frames, run / "clips" / f"{moment}.mp4", 5)
                log.append("clip", step, seed=seeds[0], file=f"clips/{moment}.mp4", caption=f"{moment} caption")
        if evaluate:
            for k in seeds:
                log.append("evaluation", 7000, seed=k, returns=[final - k - 50.0, final - k + 50.0], mean=final - k, policy="learned")
        if end:
            log.append("end", 7000, seconds=112.0)
    return run


def page_of(run, beside=()) -> tuple[str, Page]:
    path = write_report(run, beside)
    assert path == run / "report.html" and [p.name for p in run.iterdir() if "part" in p.name] == []
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def check_stands_alone(text: str, page: Page) -> None:
    """Nothing is fetched, nothing can run, ids are unique and every reference has its target."""
    assert text.startswith("<!DOCTYPE html>\n<html lang=") and page.all("meta")[0] == {"charset": "utf-8"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None and (value.startswith("data:") or (value.startswith("#") and value[1:] in ids)), value
            for target in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert target in ids
    css = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in css and "url(" not in css
    assert "default-src 'none'" in text


def check_charts_follow_the_theme(text: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert drawings
    css = text[text.index("<style>") : text.index("</style>")]
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    for role in ROLES:
        assert f"--{role}: #" in light and f"--{role}: #" in dark, role
    for drawing in drawings:
        assert not re.search(r"#[0-9a-fA-F]{6}", drawing), "a fixed color is invisible in one of the themes"
        assert "DejaVu" not in drawing and "<style" not in drawing and "var(--" in drawing
        assert 'role="img"' in drawing and re.search(r'aria-label="[^"]+', drawing)


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the charts out, where a test is about the words."""
    monkeypatch.setattr(charts, "inline", lambda *_, **__: "")


def test_the_whole_page(tmp_path):
    sac = write_run(tmp_path / "sac", answers=0, final=-150.0)
    run = write_run(tmp_path / "demo", clip=True)
    text, page = page_of(run, [sac])
    check_stands_alone(text, page)
    check_charts_follow_the_theme(text)
    headline = re.sub(r"<[^>]*>", "", text[text.index("<h1>") : text.index("</h1>")])
    assert headline == "After 100 answers the pendulum swings up: −148 against −151 with the true reward and −1,230 untrained."
    assert "final policy in 2 noise-free episodes; every one of 3 seeds lies between −149 and −147" in page.text
    assert len(page.all("video")) == 3 and all((v["src"] or "").startswith("data:video/mp4;base64,") for v in page.all("video"))
    assert page.text.index("before caption") < page.text.index("during caption") < page.text.index("after caption")
    assert "100 answers per seed in 2 sessions , the pairs picked by uniform, then by disagreement sampling" in page.text.replace(
        "sessions,", "sessions ,"
    )
    assert "Correlation 1.00 ." in page.text or "Correlation 1.00." in page.text
    # (30 * |.1 - .2| + 10 * 0) / 40 = 7.5 percentage points, over 3 seeds with 40 comparisons each
    assert "Off by 8 percentage points on average" in page.text and "120 comparisons" in page.text
    assert "PEBBLE" in page.text and "SAC on the true reward" in page.text and "1 min 52 s" in page.text and "15 June 2025" in page.text
    assert "algorithm.<wbr>labels" in text and "2.13.0" in page.text
    assert "Fewer than five seeds (3)" in page.text
    assert len(text) < 3_000_000


def test_every_number_of_the_table_is_the_logs(tmp_path, undrawn):
    sac = write_run(tmp_path / "sac", answers=0, final=-150.0)
    text, _ = page_of(write_run(tmp_path / "demo"), [sac])
    rows = re.findall(r'<tr><th scope="row">(\d)</th>(.*?)</tr>', text)
    assert [(seed, re.findall(r"<td>(.*?)</td>", cells)) for seed, cells in rows] == [
        (str(k), [f"−{147 + k}", f"−{197 + k}", f"−{150 + k}", "−1,230", "100", "0.90", "0.80"]) for k in range(3)
    ]


def test_a_plain_run_has_no_sections_about_answers(tmp_path):
    text, page = page_of(write_run(tmp_path / "sac", answers=0))
    check_stands_alone(text, page)
    check_charts_follow_the_theme(text)
    assert "After 7,000 steps with the true reward the pendulum swings up" in page.text
    for absent in ("What it was told", "What it learned to want", "answers", "asked"):
        assert absent not in page.text
    assert "This run recorded no clips." in page.text


def test_the_headline_does_not_flatter(tmp_path):
    sac = write_run(tmp_path / "sac", answers=0)
    coin = write_run(tmp_path / "coin", final=-1250.0)
    assert headline(Story.read(coin, [sac])) == "After 100 answers the pendulum does not swing up"
    mixed = write_run(tmp_path / "mixed", final=-199.5)
    assert headline(Story.read(mixed, [sac])) == "After 100 answers the pendulum swings up in 1 of 3 seeds"


@pytest.mark.parametrize(
    "final, words",
    [
        (90.0, "is as good at Reacher-v5 as with the true reward"),
        (-150.0, "is nearly as good at Reacher-v5"),
        (-600.0, "has learned part of Reacher-v5"),
        (-1080.0, "has begun to learn Reacher-v5"),
        (-1228.0, "has not learned Reacher-v5"),
    ],
)
def test_other_games_are_told_by_the_share_of_the_gap(tmp_path, final, words):
    sac = write_run(tmp_path / "sac", answers=0, game="gym:Reacher-v5", final=100.0)
    run = write_run(tmp_path / "run", game="gym:Reacher-v5", final=final)
    assert headline(Story.read(run, [sac])).startswith(f"After 100 answers the agent {words}")


def test_another_lesson_is_named_and_not_measured_by_the_games_goal(tmp_path):
    run = write_run(tmp_path / "run", config={"true_reward": "py:lessons:spin"})
    assert headline(Story.read(run)) == "After 100 answers the agent is better at spin on Pendulum-v1 than untrained"


def test_runs_with_another_judge_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    for other in ({"game": "gym:Reacher-v5"}, {"true_reward": "py:lessons:spin"}):
        beside = write_run(tmp_path / json.dumps(other).replace('"', "").replace(":", "-")[:12], config=other)
        with pytest.raises(LogError, match="only runs of one game and one judge"):
            write_report(run, [beside])
    assert not (run / "report.html").exists()


def test_hostile_strings_stay_strings(tmp_path):
    run = write_run(tmp_path / "run", game=HOSTILE, config={"method": HOSTILE, "teacher": HOSTILE, HOSTILE: [HOSTILE], "rater": HOSTILE})
    sac = write_run(tmp_path / "sac", answers=0, game=HOSTILE, config={"method": HOSTILE + "2"})
    encode(np.zeros((3, 16, 16, 3), np.uint8), run / "clips" / "a.mp4", 5)
    with EventLog(run / "events.jsonl") as log:
        log.append("clip", 0, seed=0, file="clips/a.mp4", caption=HOSTILE)
        log.append("clip", 3000, seed=0, file="clips/a.mp4", caption="During" + HOSTILE)
        log.append("clip", 7000, seed=0, file=HOSTILE, caption=HOSTILE)
        log.append("warning", 7000, message=HOSTILE)
        log.append("queries", 7000, seed=0, queries=1, sampler=HOSTILE)
        log.append("frozen_member", 7000, seed=1, what=HOSTILE)
        log.append("update", 7000, seed=0, **{HOSTILE: 1.0, "$\\frac$": 1.0})
        log.append("baseline", 7000, seed=0, method=HOSTILE + "3", mean=1.0)
        log.append("resumed", 7000, restored=[HOSTILE])
    text, page = page_of(run, [sac])
    check_stands_alone(text, page)
    check_charts_follow_the_theme(text)
    assert len(page.all("video")) == 2 and page.text.count(HOSTILE) >= 10
    assert "<script" not in text and "onerror=alert(1)>" not in text


def test_a_clip_outside_the_run_is_not_embedded(tmp_path, undrawn):
    run = write_run(tmp_path / "run", clip=True)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((run / "clips" / "after.mp4").read_bytes())
    (run / "clips" / "link.mp4").symlink_to(secret)
    lines = [e for e in read_events(run / "events.jsonl") if e["event"] != "clip"]
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    with EventLog(run / "events.jsonl") as log:
        for name in ("../secret.mp4", "clips/link.mp4", str(secret)):
            log.append("clip", 7000, seed=0, file=name, caption="")
    _, page = page_of(run)
    assert page.all("video") == [] and page.text.count("lies outside the run directory") == 3


def test_missing_large_and_foreign_clips_say_why(tmp_path, undrawn):
    run = write_run(tmp_path / "run", clip=True)
    (run / "clips" / "before.mp4").unlink()
    (run / "clips" / "during.mp4").write_bytes(b"\0" * (CLIP_LIMIT + 1))
    (run / "clips" / "after.mp4").write_text("<script>not a video</script>")
    _, page = page_of(run)
    assert page.all("video") == []
    for reason in (
        "before.mp4 is not shown: the file is missing",
        "during.mp4 is not shown: it has 4 MB",
        "after.mp4 is not shown: it is no mp4",
    ):
        assert reason in page.text


def test_why_there_are_no_clips_is_said_where_they_would_be(tmp_path, undrawn):
    run = write_run(tmp_path / "run")
    with EventLog(run / "events.jsonl") as log:
        log.append("warning", 0, message="no clip was made: Blind has no picture")
    _, page = page_of(run)
    assert page.text.count("no clip was made: Blind has no picture") == 1 and "recorded no clips" not in page.text


def test_trouble_stands_at_the_top(tmp_path, undrawn):
    run = write_run(tmp_path / "run", end=False)
    with EventLog(run / "events.jsonl") as log:
        log.append("frozen_member", 3200, seed=1, what="critic")
        log.append("warning", 4000, message="the newest checkpoint was damaged")
    _, page = page_of(run)
    top = page.text[: page.text.index("What it looks like")]
    assert "Seed 1 stopped learning at step 3,200: its critic was no longer finite and was frozen." in top
    assert "the newest checkpoint was damaged" in top and "not finished: its log ends at step 7,000" in top


def test_a_run_that_was_resumed_after_its_end_is_not_finished(tmp_path, undrawn):
    run = write_run(tmp_path / "run")
    assert Story.read(run).log.finished
    with EventLog(run / "events.jsonl") as log:
        log.append("resumed", 7000, restored=["restored everything"])
    _, after = page_of(run)
    assert "not finished" in after.text and "went on from step 7,000 (restored everything)" in after.text


def test_a_run_without_evaluations_is_told_by_its_training(tmp_path, undrawn):
    text, page = page_of(write_run(tmp_path / "run", evaluate=False, end=False))
    check_stands_alone(text, page)
    assert "Mean return of the last five training episodes" in page.text


def test_the_same_log_gives_the_same_page(tmp_path):
    run = write_run(tmp_path / "run", seeds=(0,))
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_an_unfinished_run_is_not_judged_as_if_it_had_ended(tmp_path, undrawn):
    run = write_run(tmp_path / "run", clip=True, final=-1200.0, end=False, config={"steps": 14_000})
    assert headline(Story.read(run)) == "After 100 answers the pendulum does not swing up yet"
    text, _ = page_of(run)
    assert [re.sub("<.*?>", "", c) for c in re.findall(r"<figcaption>(<b>.*?)</figcaption>", text)][2].startswith("During, step 7,000.")


def test_a_run_that_has_only_begun(tmp_path):
    with EventLog(tmp_path / "run" / "events.jsonl") as log:
        log.append("start", 0, config={"name": "pebble", "game": "gym:Pendulum-v1"}, fingerprint={}, seeds=[0])
    text, page = page_of(tmp_path / "run")
    check_stands_alone(text, page)
    assert "PEBBLE on Pendulum-v1 has not finished an episode yet." in page.text
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.jsonl").touch()
    check_stands_alone(*page_of(tmp_path / "empty"))


def test_numbers_that_were_not_finite_are_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    with EventLog(run / "events.jsonl") as log:
        for kind in ("episode", "update", "session", "scatter", "calibration", "evaluation"):
            fields = {"return": float("nan"), "labels": None, "accuracy": float("nan"), "correlation": None, "loss/critic": float("inf")}
            log.append(kind, 7000, seed=2, mean=float("nan"), returns=[float("nan")], **fields)
    text, page = page_of(run)
    check_stands_alone(text, page)
    assert "nan" not in page.text.lower().replace("finance", "")


def test_baseline_events_stand_in_for_a_run_beside_it(tmp_path, undrawn):
    run = write_run(tmp_path / "run")
    with EventLog(run / "events.jsonl") as log:
        for k in range(3):
            log.append("baseline", 7000, seed=k, method="sac", mean=-151.0)
        log.append("baseline", 7000, method="handwritten", mean=-300.0)
    _, page = page_of(run)
    assert "against −151 with the true reward" in page.text and "SAC on the true reward, at its end" in page.text
    assert "handwritten on the true reward, at its end" in page.text


def test_six_seeds_get_intervals(tmp_path, undrawn):
    sac = write_run(tmp_path / "sac", answers=0, seeds=range(6), final=-150.0)
    _, page = page_of(write_run(tmp_path / "run", seeds=range(6)), [sac])
    # -147 .. -152: the middle four of six are -148 .. -151
    assert re.search(r"PEBBLE: interquartile mean −150 \[−15\d, −14\d\]", page.text)
    assert "PEBBLE beats SAC with probability 1.00 [1.00, 1.00]" in page.text


def test_final_results_are_the_last_evaluations(tmp_path):
    run = write_run(tmp_path / "run")
    assert [(r.task, r.method, r.seed, r.steps, r.score) for r in final_results(run)] == [
        ("gym:Pendulum-v1", "pebble", k, 7000, -147.0 - k) for k in range(3)
    ]
    with EventLog(run / "events.jsonl") as log:
        log.append("frozen_member", 3000, seed=0, what="critic")
        for k in (0, 1):
            log.append("evaluation", 9000, seed=k, returns=[1.0], mean=1.0, policy="learned")
    assert [(r.steps, r.score) for r in final_results(run)] == [(9000, None), (9000, 1.0), (9000, None)]


def test_a_long_run_stays_small(tmp_path):
    with EventLog(tmp_path / "run" / "events.jsonl") as log:
        log.append("start", 0, config={"name": "sac", "game": "gym:Pendulum-v1"}, fingerprint={}, seeds=[0, 1])
        rng = np.random.default_rng(0)
        for step in range(100, 300_001, 100):
            for k in (0, 1):
                log.append("episode", step, seed=k, length=100, **{"return": rng.normal()})
        for k in (0, 1):
            log.append("scatter", 300_000, seed=k, true=rng.normal(size=20_000), learned=rng.normal(size=20_000))
    path = write_report(tmp_path / "run")
    assert path.stat().st_size < 1_000_000
    assert "Neighboring episodes are averaged." in path.read_text(encoding="utf-8")


def test_matplotlib_missing_is_one_sentence_and_leaves_the_old_page(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    (run / "report.html").write_text("old")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(charts.ChartError, match="pip install matplotlib"):
        write_report(run)
    assert (run / "report.html").read_text() == "old"


@pytest.mark.parametrize(
    "value, text",
    [
        (-1230.4, "−1,230"),
        (-147.2, "−147"),
        (99.97, "100"),
        (12.34, "12.3"),
        (-0.254, "−0.25"),
        (-0.001, "0.00"),
        (0.0, "0.00"),
        (9.999, "10.0"),
    ],
)
def test_numbers_have_as_many_digits_as_a_reader_can_use(value, text):
    assert number(value) == text


def test_the_mean_line_is_where_all_lines_are():
    a = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    b = (np.array([5.0, 15.0]), np.array([1.0, 1.0]))
    x, y = mean_line([a, b])
    assert x.tolist() == [5.0, 10.0, 15.0] and y.tolist() == [3.0, 5.5, 8.0]


def test_correlation_by_hand():
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx(3 / np.sqrt(2 * 14 / 3))
    assert correlation(np.array([1.0, 2.0]), np.array([3.0, 3.0])) is None
