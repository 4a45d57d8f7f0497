"""kill -9 of the rating room while ten raters answer over HTTP: what it acknowledged is there, once."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.web.serving import Server
from tutelage.feedback.client import Client, ClientError
from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.queue import Project, Queue
from tutelage.feedback.store import Store
from tutelage.web.accounts import Accounts

KILLS = int(os.environ.get("TUTELAGE_ROOM_KILLS", os.environ.get("TUTELAGE_KILLS", "3")))
RATERS = 10


class Rater(threading.Thread):
    """Answers one query after the other, and remembers what was acknowledged."""

    def __init__(self, address: str, token: str, name: str) -> None:
        super().__init__(daemon=True)
        self.client, self.id = Client(address, token, patience=300.0), name
        self.acknowledged: list[str] = []
        self.stopping = False
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping:
                leases = self.client.leases(4)
                for lease in leases:
                    judgement = Judgement(f"{lease['query']}:{self.id}", lease["query"], self.id, "left", tuple(lease["order"]), 1.0, 2.0)
                    self.client.answer([judgement])
                    self.acknowledged.append(judgement.id)
                time.sleep(0.0 if leases else 0.05)
        except ClientError as error:
            self.failure = error


def test_no_acknowledged_answer_is_lost_and_none_is_doubled(url: str, tmp_path: Path, record_property: Callable[[str, object], None]):
    chance = random.Random(11)
    with Store(url) as store:
        queue, accounts = Queue(store), Accounts(store)
        queue.set_project(Project("run", raters=RATERS, limit=1_000_000))
        asked = 0

        def ask() -> None:
            nonlocal asked
            store.add([Query(f"q{n}", "pair", (f"a{n}", f"b{n}"), "run", "uniform", 0) for n in range(asked, asked + 200)])
            asked += 200

        ask()
        people = [accounts.create(f"rater-{n}", None, "rater", consented=True) for n in range(RATERS)]
        server = Server("--store", url, "--accounts", "--runs", str(tmp_path / "runs"))
        raters = [Rater(server.address, accounts.open(account, program=True), account.id) for account in people]
        for rater in raters:
            rater.start()
        count = lambda: sum(len(rater.acknowledged) for rater in raters)
        inside = 0
        for _ in range(KILLS):
            before = count()
            while count() <= before + chance.randrange(1, 60):
                assert server.process.poll() is None and all(rater.failure is None for rater in raters)
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.05))
            server.kill()
            acknowledged = {name for rater in raters for name in list(rater.acknowledged)}
            judgements = store.judgements()
            there = Counter(judgement.id for judgement in judgements)
            assert acknowledged <= there.keys(), "an acknowledged answer is lost"
            assert max(there.values()) == 1 and max(Counter((j.query, j.rater) for j in judgements).values()) == 1, "an answer is doubled"
            inside += len(there) - len(acknowledged)
            if queue.progress("run").waiting < 150:
                ask()
            server.start()
        for rater in raters:
            rater.stopping = True
        for rater in raters:
            rater.join(60)
            assert rater.failure is None
        server.stop()
        acknowledged = [name for rater in raters for name in rater.acknowledged]
        kept = store.judgements()
        assert len(acknowledged) == len(set(acknowledged)) and set(acknowledged) <= {judgement.id for judgement in kept}
        assert len(kept) == len({(judgement.query, judgement.rater) for judgement in kept})
    told = {"store": url.partition(":")[0], "kills": KILLS, "raters": RATERS, "acknowledged": len(acknowledged)}
    for name, value in (told | {"unacknowledged_but_committed": inside, "lost": 0, "doubled": 0}).items():
        record_property(name, value)
