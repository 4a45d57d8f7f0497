"""What run.py measures: kinds of work, who does them, and what is asked of ours."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from flops import (
    EPOCH_FLOPS,
    PRODUCT_FLOPS,
    RELABEL_FLOPS,
    dqn_step_flops,
    ppo_step_flops,
    sac_update_flops,
    td3_update_flops,
    trpo_step_flops,
)

OURS = "tutelage"
# library -> environment and name of its list
PEERS = {
    "stable-baselines3": "sb3",
    "sb3-contrib": "sb3",
    "sb3-pebble": "sb3",
    "sbx": "sbx",
    "imitation": "imitation",
    "jaxmarl": "jaxmarl",
    "vmas": "vmas",
    "jax": "jaxmarl",
    "agilerl": "agilerl",
}
ACTIONS, COPIES = ("discrete", "continuous"), (32, 1024, 8192)
NETS = {"matd3-64": (1024, 64), "matd3-256": (256, 256)}
"""Rows in a batch, and the width of two hidden layers."""
SCRIPTS = {  # and, after a space, what it is told before the number of threads
    ("sac", "stable-baselines3"): "sb3_sac.py",
    ("sac", "sbx"): "sbx_sac.py",
    ("td3", "stable-baselines3"): "sb3_td3.py",
    ("td3", "sbx"): "sbx_td3.py",
    ("dqn", "stable-baselines3"): "sb3_dqn.py",
    ("ppo", "stable-baselines3"): "sb3_ppo.py CartPole-v1 8",
    ("ppo", "sbx"): "sbx_ppo.py CartPole-v1 8",
    ("ppo-cheetah", "stable-baselines3"): "sb3_ppo.py HalfCheetah-v5 1",
    ("trpo", "sb3-contrib"): "sb3_trpo.py HalfCheetah-v5 1",
    ("reward-epoch", "imitation"): "imitation_rewards.py",
    ("preference-loop", "sb3-pebble"): "sb3_pebble.py",
    **{
        (f"particle-{kind}-{copies}", library): f"{library}_particle.py {kind} {copies}"
        for kind, copies, library in product(ACTIONS, COPIES, ("jaxmarl", "vmas"))
    },
    ("matd3-loop", "agilerl"): "agilerl_loop.py",
    **{(name, library): f"{library}_matd3.py {batch} {width}" for name, (batch, width) in NETS.items() for library in ("jax", "agilerl")},
}


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of results."""
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True)
class Target:
    """What issues 2 to 5 ask for."""

    variant: str
    kind: str
    """"ratio" of speeds to `than`, "share" of the matrix-product limit, or "value" of the row."""
    bound: float
    """At least."""
    than: str = ""
    """A peer, or another variant of ours."""


@dataclass(frozen=True)
class Measure:
    """One kind of work and who does it; the first peer is the reference of ratios, or where there is none `over`."""

    unit: str
    per_block: int
    """Units of work in one turn."""
    flops: float | None
    """Of the products in one unit; None: there are none."""
    ours: tuple[str, ...]
    peers: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    rate: bool = False
    """Whether the value is units per second; else seconds per unit."""
    over: str = ""
    """A variant of ours."""


def particle(kind: str, copies: int) -> Measure:
    """Steps of simple_spread under random actions, those of all copies together."""
    blocks, eager = {32: (25_600, 120e3), 1024: (409_600, 1e6), 8192: (1_638_400, 1.3e6)}[copies]
    targets = [Target("compiled", "ratio", 2.5, "jaxmarl"), Target("compiled", "ratio", 2.5, "vmas"), Target("eager", "value", eager)]
    return Measure("steps/s", blocks, None, ("eager", "compiled"), ("jaxmarl", "vmas"), tuple(targets), rate=True)


def matd3(batch: int, width: int) -> Measure:
    """Updates for three agents; an even number in a turn, for every second one moves actors."""
    flops = td3_update_flops(18, 2, (width, width), batch, agents=3)
    targets = (Target("eager", "ratio", 1 / 2.3, "jax"), Target("compiled", "ratio", 1 / 1.3, "jax"))
    return Measure("updates/s", 60, flops, ("eager", "compiled"), ("jax", "agilerl"), targets, rate=True)


MEASURES = {
    "sac": Measure(
        "steps/s", 200, sac_update_flops(), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 1.6, "stable-baselines3"),
            Target("eager", "ratio", 1.0, "sbx"),
            Target("compiled", "ratio", 2.0, "stable-baselines3"),
        ),
    ),
    "td3": Measure(
        "steps/s", 200, td3_update_flops(), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 1.4, "stable-baselines3"),
            Target("compiled", "ratio", 1.8, "stable-baselines3"),
            Target("compiled", "ratio", 1.0, "sbx"),
        ),
    ),
    "dqn": Measure(
        "steps/s", 2000, dqn_step_flops(), ("eager", "compiled"), ("stable-baselines3",), rate=True,
        targets=(Target("compiled", "ratio", 2.0, "stable-baselines3"),),
    ),
    "ppo": Measure(
        "steps/s", 8 * 2048, ppo_step_flops(4, 2), ("eager", "compiled"), ("stable-baselines3", "sbx"), rate=True,
        targets=(
            Target("eager", "ratio", 2.5, "stable-baselines3"),
            Target("eager", "ratio", 1.5, "sbx"),
            Target("compiled", "ratio", 2.5, "stable-baselines3"),
            Target("compiled", "ratio", 1.5, "sbx"),
        ),
    ),
    "ppo-cheetah": Measure(
        "steps/s", 2 * 2048, ppo_step_flops(17, 6), ("eager", "compiled"), ("stable-baselines3",), rate=True,
        targets=(Target("eager", "ratio", 2.0, "stable-baselines3"), Target("compiled", "ratio", 2.0, "stable-baselines3")),
    ),
    "trpo": Measure(
        "steps/s", 2 * 2048, trpo_step_flops(17, 6), ("eager",), ("sb3-contrib",), rate=True,
        targets=(Target("eager", "ratio", 2.0, "sb3-contrib"),),
    ),
    "preference-step": Measure(
        "steps/s", 400, None, ("sac", "pebble"), rate=True, over="sac", targets=(Target("pebble", "ratio", 1 / 1.15, "sac"),)
    ),
    "preference-loop": Measure("steps/s", 1000, None, ("eager",), ("sb3-pebble",), rate=True),
    "bilevel": Measure(
        "steps/s", 100, None, ("sac", "bilevel"), rate=True, over="sac", targets=(Target("bilevel", "ratio", 1 / 3, "sac"),)
    ),
    "reward-epoch": Measure("s/epoch", 1, EPOCH_FLOPS, ("eager",), ("imitation",), (Target("eager", "ratio", 2.5, "imitation"),)),
    "relabel": Measure("s/million", 1, RELABEL_FLOPS, ("eager",), targets=(Target("eager", "share", 0.5),)),
    **{f"particle-{kind}-{copies}": particle(kind, copies) for kind, copies in product(ACTIONS, COPIES)},
    **{name: matd3(batch, width) for name, (batch, width) in NETS.items()},
    "matd3-loop": Measure(
        "steps/s", 2400, None, ("eager", "compiled"), ("agilerl",), rate=True,
        targets=(Target("eager", "ratio", 10.0, "agilerl"), Target("compiled", "ratio", 10.0, "agilerl")),
    ),
    "matd3-seeds": Measure(
        "updates/s", 200, td3_update_flops(18, 2, (64, 64), 1024, agents=3),
        ("processes", "stacked", "processes-compiled", "stacked-compiled"), rate=True, over="processes",
        targets=(Target("stacked", "ratio", 1.5, "processes"), Target("stacked-compiled", "ratio", 1.5, "processes-compiled")),
    ),
}  # fmt: skip
MATRIX = Measure("products", 40, PRODUCT_FLOPS, ("eager",))
FAMILIES = {family: [name for name in MEASURES if name.startswith(family + "-")] for family in ("particle",)} | {"matd3": [*NETS]}
"""What several measures are called together."""
