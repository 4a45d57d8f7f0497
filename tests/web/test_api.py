"""The room for scripts: what is acknowledged is there once; whatever is sent, the answer is a sentence and never a crash."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import schemathesis
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from tests.web.conftest import Lab, answer
from tutelage.feedback.client import Client, ClientError
from tutelage.feedback.query import Judgement, TextRecord, new_query, text_hash, to_row
from tutelage.feedback.queue import Project


class Through(httpx.BaseTransport):
    """The client's requests go to the application of the test, the first few into the void."""

    def __init__(self, inner: TestClient, lost: int = 0) -> None:
        self.inner, self.lost = inner, lost

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answered = self.inner.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
        if self.lost > 0:  # it arrived, and nobody ever heard the acknowledgement
            self.lost -= 1
            raise httpx.ReadError("the line is dead")
        return httpx.Response(answered.status_code, content=answered.content, headers=dict(answered.headers), request=request)


def client(lab: Lab, name: str = "olga", role: str = "owner", lost: int = 0, patience: float = 5.0) -> Client:
    token = lab.room.accounts.open(lab.account(name, role), program=True)
    return Client("http://testserver", token, patience, Through(TestClient(lab.app), lost))


def test_a_script_asks_another_answers_and_the_first_hears_it(lab: Lab):
    texts = [TextRecord(text_hash(text), text) for text in ("short", "a longer text", "the longest text of all")]
    pairs = [(0, 1), (1, 2), (2, 0)]
    queries = [new_query("pair", [texts[a].id, texts[b].id], "essays", "uniform", 0) for a, b in pairs]
    owner, judge = client(lab), client(lab, "gpt", "rater")
    assert owner.submit(queries, texts) == 3 and owner.submit(queries, texts) == 0
    lengths: list[tuple[int, int]] = []

    def longer(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
        lengths.append((len(first["text"]), len(second["text"])))
        return 0.9 if len(first["text"]) > len(second["text"]) else 0.3

    assert judge.work(longer) == 3 and judge.work(longer) == 0
    assert all((b, a) in lengths for a, b in lengths), "every pair is judged in both orders"
    heard, erased, head = owner.poll("essays")
    assert {j.query: j.answer for j in heard} == {queries[0].id: "right", queries[1].id: "right", queries[2].id: "left"}
    assert erased == [] and owner.poll("essays", head) == ([], [], head)
    assert json.loads(owner.export("trl").splitlines()[0])["chosen"] == "a longer text"
    with pytest.raises(ClientError, match="/api/owner/judgements answered 403: only owners may do this"):
        judge.poll()


def test_a_judge_that_favors_what_it_reads_first_says_tie(lab: Lab):
    lab.ask(3)
    assert client(lab, "biased", "rater").work(lambda first, second: 0.8, margin=0.1) == 3
    assert {j.answer for j in lab.room.store.judgements()} == {"tie"}


def test_what_was_sent_without_an_acknowledgement_is_there_once(lab: Lab):
    queries = lab.ask(4)
    judge = client(lab, "ann", "rater", lost=3)
    judge.answer([Judgement(f"j{n}", query.id, "-", "left") for n, query in enumerate(queries)])
    assert [j.id for j in lab.room.store.judgements()] == ["j0", "j1", "j2", "j3"]
    with pytest.raises(ClientError, match="cannot be reached: the line is dead"):
        client(lab, "ann", "rater", lost=1000, patience=0.2).leases()


def test_too_many_waiting_queries_push_back(lab: Lab):
    lab.room.queue.set_project(Project("run/seed-0", limit=2))
    lab.ask(2)
    program = lab.program()
    refused = program.post("/api/owner/queries", json={"queries": [to_row(new_query("pair", ["a", "b"], "run/seed-0", "uniform", 1))]})
    assert refused.status_code == 429 and refused.headers["retry-after"] == "5"
    with pytest.raises(ClientError, match='2 queries of "run/seed-0" wait for an answer and 2 may'):
        client(lab, patience=0.2).submit([new_query("pair", ["a", "b"], "run/seed-0", "uniform", 1)])
    assert client(lab).withdraw("run/seed-0") == 2
    assert client(lab).submit([new_query("pair", ["a", "b"], "run/seed-0", "uniform", 1)]) == 1


def test_tasks_say_in_which_order_to_show_and_how_to_judge(lab: Lab):
    (query,) = lab.ask(kind="rank")
    lab.room.queue.set_project(Project(query.group, instructions="Be kind.\nBe quick.", title="Kindness"))
    (lease,) = lab.enter("ann").post("/api/leases", json={"count": 3}).json()["leases"]
    assert sorted(lease["order"]) == [0, 1, 2, 3, 4] and lease["guide"] == ["Be kind.", "Be quick."] and lease["title"] == "Kindness"
    assert lease["items"][2]["text"] == "rank 0, text 2"


def test_a_ranking_is_one_row_and_all_its_pairs_for_trl(lab: Lab):
    (query,) = lab.ask(kind="rank")
    ann, olga = lab.enter("ann"), lab.program()
    sent = ann.post("/api/judgements", json=answer(query.id, given="4>0=1>2>3", note="kindest first", confidence=8))
    assert sent.json()["outcomes"][0]["status"] == "new"
    (kept,) = lab.room.store.judgements()
    assert (kept.answer, kept.note, kept.confidence) == ("4>0=1>2>3", "kindest first", 8)
    rows = [json.loads(line) for line in olga.get("/api/owner/export", params={"form": "trl"}).text.splitlines()]
    assert len(rows) == 9 and {row["group_id"] for row in rows} == {"j1"}
    assert {"rank 0, text 4"} == {row["chosen"] for row in rows if row["rejected"] == "rank 0, text 0"}


def test_what_is_exported_can_be_imported_elsewhere(lab: Lab):
    query, _ = lab.ask(2)
    lab.enter("ann").post("/api/judgements", json=answer(query.id, note='"; DROP TABLE judgements; --'))
    lines = lab.program().get("/api/owner/export").text
    assert lab.program().post("/api/owner/import", content=lines).json() == {"new": 0, "known": 7, "errors": []}
    assert lab.program().get("/api/owner/export", params={"group": "absent"}).text == ""
    bad = lab.program().post("/api/owner/import", content=lines + '{"type": "query"}\nnonsense\n').json()
    assert bad["known"] == 7 and len(bad["errors"]) == 2 and bad["errors"][1].startswith("the upload, row 9: this is no JSON")


def test_trl_columns_come_in_as_queries_that_one_rater_has_answered(lab: Lab):
    row = {"prompt": "What is up?", "chosen": "The sky.", "rejected": "Go away."}
    lines = json.dumps(row) + "\n" + json.dumps(row | {"chosen": ["role"]}) + "\n" + json.dumps({"chosen": "", "rejected": "b"})
    report = lab.program().post("/api/owner/import", content=lines).json()
    assert report["new"] == 1 and [error.split(": ", 1)[1] for error in report["errors"]] == [
        "prompt, chosen and rejected are not all texts; a conversation in roles is not read here",
        "chosen or rejected is empty; two texts were expected",
    ]
    assert lab.program().post("/api/owner/import", content=lines).json()["known"] == 1
    lab.room.queue.set_project(Project("imported", raters=2))
    (lease,) = lab.enter("ann").post("/api/leases", json={}).json()["leases"]
    assert lease["prompt"] == "What is up?" and {item["text"] for item in lease["items"]} == {"The sky.", "Go away."}
    (exported,) = lab.program().get("/api/owner/export", params={"form": "trl"}).text.splitlines()
    assert json.loads(exported).items() >= row.items()


HOSTILE = [
    "'; DROP TABLE judgements; --",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "\u202e\0x",
    "../../etc/passwd",
    "ü" * 900,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_text(lab: Lab, text: str):
    (query,) = lab.ask(kind="rank")
    ann, olga = lab.enter("ann"), lab.enter("olga", "owner")
    for field in ("id", "answer", "note", "supersedes", "query"):
        sent = ann.post("/api/judgements", json={"judgements": [answer(query.id, given="unknown")["judgements"][0] | {field: text}]})
        assert sent.status_code in (200, 422)
    told = {"group": query.group, "raters": "1", "repeats": "10", "gold": "5", "limit": "9", "title": text[:200], "instructions": text}
    assert olga.post("/owner/projects", data=told).status_code in (303, 400, 422)
    for field in ("group", "raters", "repeats", "quota"):
        assert olga.post("/owner/projects", data=told | {field: text}).status_code in (303, 400, 422)
    assert olga.post("/owner/gold", data={"query": text, "answer": text}).status_code == 400
    assert olga.post("/owner/raters/x/delete", data={"sure": text}).status_code in (404, 422)
    for page in ("/owner", "/owner/log", "/owner/quality", "/teach", "/account", "/rank"):
        shown = olga.get(page)
        assert shown.status_code == 200 and "<script>alert" not in shown.text and "<img src=x" not in shown.text
    assert lab.room.accounts.named("ann") is not None


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a.b", "a" * 65, "%00", "ä%00", "a/b"])
def test_a_hostile_clip_name_opens_nothing(lab: Lab, name: str):
    assert lab.enter("ann").get(f"/clips/{name}").status_code == 404
    assert lab.enter("ann").get(f"/films/{name}/clips/x.mp4").status_code == 404


def test_a_clip_that_cannot_be_drawn_says_why(lab: Lab):
    told = lab.enter("ann").get("/clips/0123abcd")
    assert told.json() == {"drawing": False, "reason": "its segment lies in none of this server's runs"}


def test_the_owner_invites_pauses_sets_gold_and_reads_what_happened(lab: Lab):
    first, _ = lab.ask(2)
    olga = lab.enter("olga", "owner")
    page = olga.post("/owner/invite", data={"role": "rater"}).text
    link = page.split('id="link">')[1].split("<")[0]
    assert "Choose a name" in lab.client.get(link).text
    told = {"group": first.group, "raters": "2", "repeats": "0", "gold": "50", "limit": "9", "quota": "1", "paused": "yes"}
    assert olga.post("/owner/projects", data=told).status_code == 303
    assert lab.enter("ann").post("/api/leases", json={"count": 2}).json()["leases"] == []
    assert olga.post("/owner/projects", data=told | {"paused": ""}).status_code == 303
    assert olga.post("/owner/gold", data={"query": first.id, "answer": "left"}).status_code == 303
    assert olga.post("/owner/withdraw", data={"group": first.group}).status_code == 303
    assert lab.enter("ann").post("/api/leases", json={"count": 2}).json()["leases"] == []
    token = olga.post("/owner/token").text.split('id="token">')[1].split("<")[0]
    assert TestClient(lab.app, headers={"authorization": f"Bearer {token}"}).get("/api/owner/export").status_code == 200
    log = olga.get("/owner/log").text
    for done in ("invited", "changed a project", "set a gold answer left", "withdrew 1 queries", "made a token for programs"):
        assert done in log
    assert olga.post("/owner/projects", data=told | {"raters": "many"}).status_code == 400
    assert olga.post("/owner/projects/delete", data={"group": first.group}).status_code == 400
    assert olga.post("/owner/projects/delete", data={"group": "absent", "sure": "yes"}).status_code == 404
    assert olga.post("/owner/projects/delete", data={"group": first.group, "sure": "yes"}).status_code == 303
    assert first.group not in olga.get("/owner").text and "deleted a project with 0 answers" in olga.get("/owner/log").text
    quality = json.loads(lab.program().get("/api/owner/export", params={"form": "quality"}).text)
    assert quality["raters"] == [] and quality["krippendorff"] is None


def test_schemathesis_finds_no_crash(lab: Lab):
    """Every address of the schema, with whatever its types permit: never a 500."""
    torch.set_flush_denormal(False)  # an Experiment in this worker may have set it; what is drawn here needs all numbers
    lab.ask(3)
    found: Any = schemathesis.openapi.from_dict(lab.app.openapi()).get_all_operations()
    operations = [operation.ok() for operation in found]
    assert len(operations) >= 8
    program = lab.program()
    for operation in operations:
        never_crashes(operation, program)


UNHURRIED: Any = list(HealthCheck)


def never_crashes(operation: Any, program: TestClient) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=UNHURRIED, database=None)
    def call(case: Any) -> None:
        given = case.as_transport_kwargs(base_url="http://testserver")
        known = {name: given[name] for name in ("method", "url", "params", "json") if given.get(name) is not None}
        told = program.request(**known)
        assert told.status_code < 500, (known, told.text[:300])

    call()
