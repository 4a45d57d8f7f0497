"""The rating room under load: `python benchmarks/rating_room.py --raters 200 --every 3 --seconds 30 [--row]`.

A server with accounts on a SQLite store in a process of its own, and raters who each answer every few seconds, as a page does that
has prefetched eight. First the server has one core and the raters the other: how long they wait, once everybody has come in. Then
a SAC trains on Pendulum on one core, alone and beside server and raters on the other: how much it is slowed. With --row the result
is appended to benchmarks/results/rating_room.jsonl. Run it with nothing else on the machine.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from measures import append

from tutelage.experiment.fingerprint import commit
from tutelage.feedback.query import Query
from tutelage.feedback.queue import Project, Queue
from tutelage.feedback.store import Store
from tutelage.web.accounts import Accounts

RESULTS = Path(__file__).resolve().parent / "results" / "rating_room.jsonl"
TRAINER = """
import sys, time, tempfile
from pathlib import Path
from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import Experiment
from tutelage.learn.deep import sac

config = RunConfig(sac.Config(hidden=(64, 64), batch_size=128, random_steps=100), "gym:Pendulum-v1", 10_000_000, clips=0)
with tempfile.TemporaryDirectory() as folder, Experiment(config, Path(folder) / "run") as experiment:
    began, steps = time.perf_counter(), 0
    while True:
        experiment.step()
        if time.perf_counter() - began >= 1.0:
            print((experiment.steps - steps) / (time.perf_counter() - began), flush=True)
            began, steps = time.perf_counter(), experiment.steps
"""


async def rate(
    client: httpx.AsyncClient, token: str, start: float, every: float, begin: float, end: float, waits: dict[str, list[float]]
) -> int:
    """One rater; returns the number of requests that failed. Waits count from `begin` on."""
    headers, failed, held = {"authorization": f"Bearer {token}"}, 0, []

    async def send(path: str, body: object) -> Any:
        nonlocal failed
        began = time.perf_counter()
        try:
            answer = await client.post(path, json=body, headers=headers)
        except httpx.TransportError:
            failed += 1
            return {"leases": []}
        if time.monotonic() > begin:
            waits[path].append(time.perf_counter() - began)
        failed += not answer.is_success
        return answer.json()

    await asyncio.sleep(start)
    number = 0
    while time.monotonic() < end:
        if len(held) <= 4:
            held += (await send("/api/leases", {"count": 8 - len(held), "holding": [lease["query"] for lease in held]}))["leases"]
        if held:
            lease = held.pop(0)
            number += 1
            judgement = {
                "id": f"{lease['query']}:{token[:8]}:{number}",
                "query": lease["query"],
                "answer": "left",
                "shown_order": lease["order"],
            }
            await send("/api/judgements", {"judgements": [judgement]})
        await asyncio.sleep(every)
    return failed


async def load(address: str, tokens: list[str], every: float, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Everybody at once, evenly spread; waits in seconds by address, and failures."""
    waits: dict[str, list[float]] = {"/api/leases": [], "/api/judgements": []}
    begin = time.monotonic() + 2.0 * every
    end = begin + seconds
    async with httpx.AsyncClient(base_url=address, timeout=30.0, limits=httpx.Limits(max_connections=len(tokens))) as client:
        failures = await asyncio.gather(
            *(rate(client, token, every * i / len(tokens), every, begin, end, waits) for i, token in enumerate(tokens))
        )
    return waits, sum(failures)


def steps_per_second(trainer: "subprocess.Popen[str]", seconds: float) -> float:
    """Of the trainer from now on."""
    assert trainer.stdout is not None
    end, rates = time.monotonic() + seconds, list[float]()
    trainer.stdout.readline()  # the second that had begun before
    while time.monotonic() < end:
        rates.append(float(trainer.stdout.readline()))
    return float(np.median(rates))


def main() -> None:
    """Measure, print, and keep on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two answers of one rater")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--row", action="store_true", help=f"append to {RESULTS.name}")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/labels.sqlite"
        needed = round(given.raters * (2 * given.seconds / given.every + 20) * 1.2)
        with Store(url) as store:
            Queue(store).set_project(Project("load", limit=1_000_000))
            store.add(Query(f"q{n}", "pair", (f"a{n}", f"b{n}"), "load", "uniform", n) for n in range(needed))
            accounts = Accounts(store)
            people = [accounts.create(f"rater-{n}", None, "rater", consented=True) for n in range(given.raters)]
            tokens = [accounts.open(account, program=True) for account in people]
        command = [sys.executable, "-m", "tutelage.cli", "rate", "--store", url, "--accounts", "--port", "0", "--runs", folder]
        os.sched_setaffinity(0, {cores[0]})
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split()[-1]
            os.sched_setaffinity(0, {cores[-1]})
            waits, failed = asyncio.run(load(address, tokens, given.every, given.seconds))
            trainer = subprocess.Popen([sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, text=True, env=environment)
            assert trainer.stdout is not None
            os.sched_setaffinity(0, {cores[0]})
            try:
                for _ in range(5):
                    trainer.stdout.readline()  # warm
                alone = steps_per_second(trainer, given.seconds)
                beside: list[float] = []
                watcher = threading.Thread(target=lambda: beside.append(steps_per_second(trainer, given.seconds)))
                watcher.start()
                asyncio.run(load(address, tokens, given.every, given.seconds))
                watcher.join()
            finally:
                trainer.kill()
                trainer.wait(30)
        finally:
            server.terminate()
            server.wait(30)
    row = {"task": "rating room", "raters": given.raters, "every": given.every, "seconds": given.seconds, "failed": failed}
    for path, seconds in waits.items():
        name = path.rsplit("/", 1)[1]
        row |= {f"{name}": len(seconds)} | {f"{name}_p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 99)}
    row |= {"training_alone": round(alone, 1), "training_beside": round(beside[0], 1), "training_slowed": round(1 - beside[0] / alone, 3)}
    row |= {"hardware": f"{len(cores)} cores", "commit": commit()}
    print(json.dumps(row, indent=1))
    if given.row:
        append(RESULTS, [row])


if __name__ == "__main__":
    main()
