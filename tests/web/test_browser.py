"""In a real browser: a whole lesson by keyboard while the agent learns in another process, and a lab with two raters."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.web.serving import ENVIRONMENT, Server
from tests.web.student import config
from tests.web.test_clips import played
from tutelage.experience.segments import SegmentArchive
from tutelage.experiment.config import to_json
from tutelage.feedback.query import SegmentRecord, TextRecord, new_query, text_hash
from tutelage.feedback.store import Store, file_url

HERE = Path(__file__).parent
PICTURES = os.environ.get("TUTELAGE_PICTURES")
"""A directory to keep screenshots in, for docs/images and for looking at them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watch:
    """What a page said to its console and whom it asked for something."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.awaited: set[str] = set()
        self.arrived: set[str] = set()
        page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._see(request.url))
        page.on("response", lambda answer: self.arrived.add(answer.url) if answer.headers.get("content-type") == "video/mp4" else None)

    def _see(self, url: str) -> None:
        if "/clips/" in url:
            self.awaited.add(url)
        if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:")):
            self.elsewhere.append(url)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def when(page: Page, expression: str) -> None:
    """Playwright's own waiting evaluates a string within the page, which the policy forbids."""
    until(lambda: page.evaluate(expression))


def picture(page: Page, name: str) -> None:
    if PICTURES is not None:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def serious_faults(page: Page) -> list[str]:
    """What axe-core finds of accessibility faults that keep somebody from using the page."""
    page.evaluate((HERE / "vendor" / "axe-4.14.1.min.js").read_text())
    found = page.evaluate(
        "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => v.id + ' ' + v.nodes[0].html))"
    )
    return [str(fault) for fault in found]


FRAME = """([side, at]) => new Promise(resolve => {
  const video = document.querySelectorAll('#pair video')[side];
  video.pause();
  video.onseeked = () => {
    const canvas = new OffscreenCanvas(64, 64), brush = canvas.getContext('2d');
    brush.drawImage(video, 0, 0, 64, 64);
    resolve(Array.from(brush.getImageData(0, 0, 64, 64).data));
  };
  video.currentTime = at;
})"""


def on_screen(page: Page) -> list[str]:
    """The segments shown, from the left."""
    return page.eval_on_selector_all("#pair video", "videos => videos.map(video => video.dataset.item)")


def ready(page: Page) -> None:
    when(page, "document.querySelectorAll('#pair video').length === 2 && !document.getElementById('pair').hidden")


def prefetched(page: Page, watch: Watch) -> None:
    """Waits until every clip that was asked for has arrived: what happens to the network afterwards keeps nobody from answering."""

    def arrived() -> bool:
        page.evaluate("0")  # events are only heard while the browser is spoken to
        return watch.awaited <= watch.arrived

    until(arrived)


def press(page: Page, key: str) -> list[str]:
    """Answer what is on screen; returns what that was."""
    ready(page)
    shown = on_screen(page)
    page.keyboard.press(key)
    return shown


LABELS = 24


def test_a_lesson_by_keyboard_while_the_agent_learns(browser: Browser, tmp_path: Path):
    run = tmp_path / "swing"
    student = subprocess.Popen([sys.executable, str(HERE / "student.py"), str(run), str(LABELS)], env=ENVIRONMENT)
    until(lambda: (run / "feedback.sqlite").exists())
    server = Server(str(run))
    try:
        with Store(file_url(run / "feedback.sqlite")) as store:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            watch = Watch(page)
            page.goto(server.link)
            assert page.url == f"{server.address}/rate"
            ready(page)
            assert "The pole should stand upright" in page.inner_text("#guide")
            when(page, "document.getElementById('lesson').textContent.includes(' of 24 answered')")

            # the clips are films, and two different ones
            frames = {(side, at): page.evaluate(FRAME, [side, at]) for side in (0, 1) for at in (0.0, 0.6)}
            assert frames[0, 0.0] != frames[0, 0.6] and frames[1, 0.0] != frames[1, 0.6] and frames[0, 0.6] != frames[1, 0.6]
            page.keyboard.press(" ")
            when(page, "[...document.querySelectorAll('#pair video')].every(video => !video.paused && video.currentTime > 0.2)")
            apart = page.evaluate(
                "(videos => Math.abs(videos[0].currentTime - videos[1].currentTime))([...document.querySelectorAll('#pair video')])"
            )
            assert apart < 0.2
            page.keyboard.press("s")
            assert page.evaluate("document.querySelector('#pair video').playbackRate") == 0.5
            page.keyboard.press("s")
            picture(page, "rate-light")
            assert serious_faults(page) == []

            # every key, and what the store then says of it
            def newest() -> Any:
                return store.judgements()[-1]

            def count() -> int:
                return len(store.judgements())

            queries = {}
            for given, key in enumerate(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], start=1):
                shown = press(page, key)
                until(lambda n=given: count() == n)
                kept = newest()
                queries = {query.id: query for query in store.queries()}
                items = [queries[kept.query].items[index] for index in kept.shown_order]
                assert items == shown
                chosen = {"left": queries[kept.query].items[0], "right": queries[kept.query].items[1]}
                expected = {"ArrowLeft": shown[0], "ArrowRight": shown[1]}
                assert chosen.get(kept.answer, kept.answer) == expected.get(key, {"ArrowUp": "tie", "ArrowDown": "unknown"}.get(key))
                assert 0 < kept.answered_at - kept.shown_at < 60

            # undo brings the last pair back and takes its answer out at once
            undone = newest()
            ready(page)
            page.keyboard.press("u")
            until(lambda: count() == 5)
            assert (newest().answer, newest().supersedes) == ("unknown", undone.id)
            assert sorted(on_screen(page)) == sorted(queries[undone.query].items)
            before = newest()
            press(page, "ArrowUp")
            until(lambda: count() == 6)
            assert (newest().query, newest().answer, newest().supersedes) == (undone.query, "tie", before.id)
            assert watch.errors == [] and watch.elsewhere == []

            prefetched(page, watch)

            # without a network answers stay in the browser
            context.set_offline(True)
            for _ in range(2):
                press(page, "ArrowLeft")
            when(page, "document.getElementById('net').textContent.includes('2 answers wait in this browser')")
            assert count() == 6
            context.set_offline(False)
            until(lambda: count() == 8)
            ready(page)

            # the server dies and comes back; the page never notices more than a sentence
            server.kill()
            press(page, "ArrowRight")
            when(page, "document.getElementById('net').textContent.includes('1 answer waits')")
            server.start()
            until(lambda: count() == 9)
            when(page, "document.getElementById('net').hidden")

            # a phone in the dark takes over
            state = context.storage_state()
            context.close()
            phone = browser.new_context(
                viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True, has_touch=True, storage_state=state
            )
            page = phone.new_page()
            watch = Watch(page)
            page.goto(f"{server.address}/rate")
            ready(page)
            time.sleep(1.0)
            picture(page, "rate-dark-phone")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert serious_faults(page) == []
            while not page.evaluate("document.getElementById('waiting').textContent.includes('The lesson is over')"):
                if page.is_visible("#pair"):
                    page.tap(".clip[data-side='0']")
                time.sleep(0.1)
                assert student.poll() in (None, 0)
            assert student.wait(60) == 0
            assert watch.errors == [] and watch.elsewhere == []
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{server.address}/teach")
            page.wait_for_selector(".chart")
            assert "24 of 24" in page.inner_text("main") and "the lesson is over" in page.inner_text("main")
            picture(page, "teach-dark")
            assert serious_faults(page) == [] and watch.errors == [] and watch.elsewhere == []

            ids = [judgement.id for judgement in store.judgements()]
            assert len(ids) == len(set(ids))
            first = [judgement.query for judgement in store.judgements() if judgement.supersedes is None]
            lesson = [query.id for query in store.queries() if query.sampler != "repeat"]
            assert len(lesson) == LABELS and set(lesson) <= set(first)
    finally:
        student.kill()
        student.wait(30)
        server.stop()


def test_a_lab_invites_ranks_and_exports(browser: Browser, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    texts = [f"Summary number {n}: {'very ' * n}short." for n in range(5)]
    with Store(url) as store:
        items = [TextRecord(text_hash(text), text) for text in [*texts, "Summarize the lecture."]]
        rank = new_query("rank", [text.id for text in items[:5]], "essays", "uniform", 0, prompt=items[5].id)
        single = new_query("rate", [items[0].id], "essays", "uniform", 0)
        store.add([*items, rank, single])
    server = Server("--store", url, "--runs", str(tmp_path / "runs"), "--accounts")
    try:
        assert "once" in server.said
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        watch = Watch(page)
        page.goto(server.link)
        assert serious_faults(page) == []
        fill_in(page, "olga")
        page.goto(f"{server.address}/owner")
        page.click("text=Invite a rater")
        link = page.inner_text("#link")
        picture(page, "owner-light")
        assert serious_faults(page) == []

        rater = browser.new_context(viewport={"width": 1280, "height": 900})
        other = rater.new_page()
        seen = Watch(other)
        other.goto(link)
        fill_in(other, "rita")
        other.goto(f"{server.address}/rank")
        other.wait_for_selector("#order li")
        assert other.inner_text("#prompt") == "Summarize the lecture."
        order = "[...document.querySelectorAll('#order li')].map(line => Number(line.dataset.index))"
        for place in range(5):  # number 4 first, then 3, ...: each walks up from where it is, by keyboard alone
            wanted = 4 - place
            other.focus(f"#order li[data-index='{wanted}']")
            while other.evaluate(order).index(wanted) > place:
                other.keyboard.press("Alt+ArrowUp")
        other.keyboard.press("=")  # the last is as good as the one above
        picture(other, "rank-light")
        assert serious_faults(other) == []
        other.fill("#note", "the longer the better")
        other.keyboard.press("Control+Enter")
        with Store(url) as store:
            until(lambda: len(store.judgements()) == 1)
            (kept,) = store.judgements()
            assert (kept.answer, kept.note, kept.confidence) == ("4>3>2>1=0", "the longer the better", 5)
            other.goto(f"{server.address}/judge")
            other.wait_for_selector("#single .text")
            assert serious_faults(other) == []
            other.keyboard.press("6")
            until(lambda: len(store.judgements()) == 2)
            assert store.judgements()[-1].answer == "6"
        other.goto(f"{server.address}/play")
        other.select_option("#game", "gym:CartPole-v1")
        assert serious_faults(other) == []
        other.click("#start")
        until(lambda: "left" in other.inner_text("#told") and "Score" in other.inner_text("#told"))
        picture(other, "play-light")
        assert other.goto(f"{server.address}/owner").status == 403  # type: ignore[union-attr]

        with page.expect_download() as download:
            page.click("text=as TRL columns")
        rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert len(rows) == 9 and all(row["prompt"] == "Summarize the lecture." for row in rows)
        page.goto(f"{server.address}/owner/quality")
        assert "rita" in page.inner_text("table") and serious_faults(page) == []
        assert watch.errors == [] and watch.elsewhere == [] and seen.elsewhere == []
        assert [error for error in seen.errors if "403" not in error] == []
    finally:
        server.stop()


def test_the_moment_of_what_must_never_happen_is_marked_by_keyboard(browser: Browser, tmp_path: Path):
    run = tmp_path / "swing"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_json(config(24))))
    clip, url = played(SegmentArchive(run / "segments"), 0), file_url(run / "feedback.sqlite")
    flags = [new_query("flag", [clip], "swing/seed-0", "uniform", step) for step in (2, 1)]
    with Store(url) as store:
        store.add([SegmentRecord(clip, f"segments/{clip}.safetensors", "gym:Pendulum-v1", 20), *flags])
    server = Server(str(run))
    try:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        watch = Watch(page)
        page.goto(server.link)
        page.goto(f"{server.address}/flag")
        when(page, "document.querySelector('#single video') !== null && !document.getElementById('moment').disabled")
        assert page.evaluate("document.getElementById('moment').max") == "20"  # the first picture and one after each step
        page.focus("#moment")
        page.keyboard.press("Home")
        for _ in range(7):
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#at") == "step 7" and page.evaluate("document.querySelector('#single video').paused")
        picture(page, "flag-light")
        assert serious_faults(page) == []
        page.keyboard.press("n")
        with Store(url) as store:
            until(lambda: len(store.judgements()) == 1)
            (kept,) = store.judgements()
            assert (kept.query, kept.answer) == (flags[0].id, "never@7")
            when(page, "document.querySelector('#single video') !== null && !document.getElementById('moment').disabled")
            page.keyboard.press("f")
            until(lambda: len(store.judgements()) == 2)
            assert [(kept.query, kept.answer) for kept in store.judgements()[1:]] == [(flags[1].id, "fine")]
        assert watch.errors == [] and watch.elsewhere == []
    finally:
        server.stop()


def fill_in(page: Page, name: str) -> None:
    page.fill("[name=name]", name)
    page.fill("[name=password]", "correct horse battery")
    page.check("[name=consent]")
    page.click("text=Make my account")
    page.wait_for_url("**/rate")
