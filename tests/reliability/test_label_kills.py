"""kill -9 of a process that is writing labels: what it acknowledged is there, once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.store import Store

KILLS = int(os.environ.get("TUTELAGE_LABEL_KILLS", os.environ.get("TUTELAGE_KILLS", "3")))

WRITER = """
import sys
from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.store import Store

store = Store(sys.argv[1])
n = int(sys.argv[2])
while True:
    queries = [Query(f"q{i}", "pair", (f"a{i}", f"b{i}"), "run", "uniform", i) for i in range(n, n + 3)]
    answers = [Judgement(f"j{i}", f"q{i}", "ann", "left", (0, 1), float(i), i + 0.5) for i in range(n, n + 3)]
    store.add([*queries, *answers])
    n += 3
    print(n, flush=True)
"""


def test_no_acknowledged_label_is_lost_and_none_is_doubled(tmp_path: Path, record_property: Callable[[str, object], None]):
    url = f"sqlite:///{tmp_path / 'feedback.sqlite'}"
    instants = random.Random(7)
    acknowledged, inside = 0, 0
    for kill in range(KILLS):
        # Every writer begins with what the last one got no acknowledgement for, under the same ids.
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, str(acknowledged)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        if kill % 4 == 3:
            time.sleep(instants.uniform(0.0, 1.5))  # while it starts, opens or migrates
        else:
            for _ in range(instants.randrange(1, 30)):
                acknowledged = int(writer.stdout.readline())
            time.sleep(instants.uniform(0.0, 0.01))  # a commit takes milliseconds
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        assert writer.wait(30) == -signal.SIGKILL
        for line in rest.splitlines(keepends=True):
            if line.endswith("\n"):  # a torn line acknowledges nothing
                acknowledged = int(line)

        with Store(url) as store:
            judgements = store.judgements()
            with store.engine.connect() as connection:
                assert connection.execute(sa.text("PRAGMA integrity_check")).scalar_one() == "ok"
        count = Counter(judgement.query for judgement in judgements)
        assert all(count[f"q{i}"] == 1 for i in range(acknowledged)), "an acknowledged label is lost or doubled"
        assert max(count.values(), default=1) == 1
        assert len(judgements) in (acknowledged, acknowledged + 3), "a half-written batch"
        inside += len(judgements) > acknowledged
        assert judgements == [Judgement(f"j{i}", f"q{i}", "ann", "left", (0, 1), float(i), i + 0.5) for i in range(len(judgements))]
    assert acknowledged > 0
    with Store(url) as store:
        assert store.head() == 2 * len(store.judgements())
        assert store.queries() == [Query(f"q{i}", "pair", (f"a{i}", f"b{i}"), "run", "uniform", i) for i in range(len(store.queries()))]
    for name, value in dict(kills=KILLS, acknowledged=acknowledged, unacknowledged_but_committed=inside, lost=0, doubled=0).items():
        record_property(name, value)
