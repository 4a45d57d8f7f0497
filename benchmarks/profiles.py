"""Where the time goes that matrix products do not take: `python benchmarks/profiles.py [--only sac ppo] [--row]`, about a minute each.

The whole loops of run.py, eager, on one thread, under torch's profiler: the share of the wall clock in matrix products (forward and
backward), in torch's other operations, in the game, and what is left: Python, of ours and of torch. The profiler itself slows small
operations; shares of different libraries cannot be compared by it, but what to mend next shows. With --row the shares are appended to
benchmarks/results/profiles.jsonl.
"""

import argparse
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from measures import MEASURES, append
from ours import WORK
from torch.profiler import ProfilerActivity, profile, record_function

from tutelage.experiment.fingerprint import commit, hardware
from tutelage.games.gymnasium import GymnasiumGame

RESULTS = Path(__file__).resolve().parent / "results" / "profiles.jsonl"
LOOPS = ("sac", "td3", "dqn", "ppo", "ppo-cheetah", "trpo", "preference-step")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn", "tutelage::")
"""Beginnings of the names of operations that are matrix products."""
GAME = "the game"


def watched(game: type[GymnasiumGame]) -> None:
    """From now on the profiler knows when the game is played."""
    for name in ("step", "reset"):
        plain: Any = getattr(game, name)

        def known(self: Any, *arguments: Any, plain: Any = plain, **more: Any) -> Any:
            with record_function(GAME):
                return plain(self, *arguments, **more)

        setattr(game, name, known)


def shares(measure: str) -> dict[str, Any]:
    """Of the wall clock of one turn of a measure."""
    entry = MEASURES[measure]
    variant = "pebble" if measure == "preference-step" else "eager"
    with ExitStack() as stack:
        work = WORK[measure](variant, 1, stack)
        work(entry.per_block)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            work(entry.per_block)
            wall = time.perf_counter() - began
    seconds = {"products": 0.0, "other_operations": 0.0, "game": 0.0}
    other: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_cpu_time_total / 1e6
        kind = "game" if event.key == GAME else "products" if event.key.startswith(PRODUCTS) else "other_operations"
        seconds[kind] += own
        if kind == "other_operations":
            other[event.key.removeprefix("aten::")] = own
    most = ", ".join(f"{name} {value / wall:.0%}" for name, value in sorted(other.items(), key=lambda item: -item[1])[:3])
    found = {name: round(value / wall, 3) for name, value in seconds.items()}
    rest = {"python": round(1.0 - sum(seconds.values()) / wall, 3), "largest_others": most}
    return {"measure": measure, "variant": variant} | found | rest | {"hardware": hardware(), "commit": commit()}


def main() -> None:
    """Measure, print and with --row append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LOOPS, default=LOOPS, metavar="MEASURE", help=f"{', '.join(LOOPS)}; default: all")
    parser.add_argument("--row", action="store_true", help="append the result to benchmarks/results/profiles.jsonl")
    given = parser.parse_args()
    watched(GymnasiumGame)
    for measure in given.only:
        row = shares(measure)
        print(json.dumps(row))
        if given.row:
            append(RESULTS, [row])


if __name__ == "__main__":
    main()
