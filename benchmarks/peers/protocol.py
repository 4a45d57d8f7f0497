"""How run.py talks to what it measures: one stopwatch for every library, standard library only."""

import json
import sys
import time
from collections.abc import Callable


def serve(block: Callable[[int], object]) -> None:
    """Say "ready", then for every line with a number n time `block(n)` and answer with the seconds, until the input ends.

    Whatever a library prints goes to standard error, so that only answers reach run.py.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        block(int(line))
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers, flush=True)
