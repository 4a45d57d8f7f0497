"""A teacher in a process of its own: `teacher.py URL` answers a few of the store's questions now and then, but never all."""

import random
import sys
import time

from tutelage.feedback.query import Judgement, Query
from tutelage.feedback.store import Store

RESERVE = 4


def answer(query: Query) -> Judgement:
    return Judgement(f"j-{query.id}", query.id, "ann", "left" if int(query.id, 16) % 2 else "right", (0, 1), time.time(), time.time())


def unanswered(store: Store) -> list[Query]:
    known = {judgement.query for judgement in store.judgements()}
    return [query for query in store.queries() if query.id not in known]


if __name__ == "__main__":
    chance = random.Random(3)
    with Store(sys.argv[1]) as store:
        while True:
            store.add(answer(query) for query in unanswered(store)[: -RESERVE or None][: chance.randrange(4)])
            time.sleep(chance.uniform(0.0, 0.05))
