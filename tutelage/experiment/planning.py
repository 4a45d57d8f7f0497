"""A plan: value iteration and its relatives as a run directory, sweep by sweep, continued where it was interrupted."""

import contextlib
import json
import os
from pathlib import Path

from rich.console import Console

from tutelage.evaluate.grid_pictures import check_map, show_sweep
from tutelage.experience.files import write_whole
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints
from tutelage.experiment.config import PLANNERS, PlanConfig, to_json
from tutelage.experiment.fingerprint import fingerprint
from tutelage.experiment.log import EVENTS, EventLog
from tutelage.experiment.processor import prepare
from tutelage.experiment.run import RunError, hold, read_any_config
from tutelage.experiment.train import fresh_directory
from tutelage.games.worlds import World, make_world
from tutelage.learn.tabular.sweeps import Planner


def plan(config: PlanConfig, out: Path | None = None, show: bool = False, console: Console | None = None) -> Path:
    """Sweep until the planner has finished, in the new run directory `out` (None: a fresh one under runs/); returns it.

    show: draw values and best actions on the map, in the console and as pictures in sweeps/ of the run.
    Raises RunError when `out` already holds a run.
    """
    out, console = fresh_directory(config) if out is None else out, console or Console()
    if (out / EVENTS).exists():
        raise RunError(f"{out} already holds a run; `tutelage resume {out}` continues it, another --out starts anew")
    with contextlib.ExitStack() as opening:
        opening.enter_context(hold(out))
        planner, world = make_planner(config)
        if show:
            check_map(world, console)
        write_whole(out / "config.json", json.dumps(to_json(config), indent=1).encode(), out / f".config.json.{os.getpid()}")
        held = opening.pop_all()  # from here on the directory stays, whatever happens
    with contextlib.closing(held), EventLog(out / EVENTS) as log:
        whole = to_json(config) | {"method": config.name}
        log.append("start", 0, config=whole, fingerprint=fingerprint("cpu", config.threads), seeds=[])
        return _to_the_end(config, out, planner, world, log, show, console)


def resume_plan(out: Path, show: bool = False, console: Console | None = None) -> Path:
    """Continue from the newest valid checkpoint, or from the start where there is none yet; returns `out`. show: as `plan`'s."""
    config, console = read_any_config(out), console or Console()
    assert isinstance(config, PlanConfig)
    with hold(out):
        planner, world = make_planner(config)
        restored = load_plan(out, planner)
        console.print(f"restored the values of sweep {restored:,}", highlight=False)
        with EventLog(out / EVENTS) as log:
            log.append("resumed", restored)
            return _to_the_end(config, out, planner, world, log, show, console)


def make_planner(config: PlanConfig) -> tuple[Planner, World]:
    """The planner before its first sweep, and its world. Raises GameError for a game that has no array form."""
    prepare(config.threads)
    world = make_world(config.game)
    return PLANNERS[config.name].learner(config.algorithm, world), world


def load_plan(out: Path, planner: Planner) -> int:
    """Take over the newest valid checkpoint; returns its sweep, 0 where none was written. Raises CheckpointError where none is valid."""
    checkpoints = Checkpoints(out)
    if not checkpoints.all():
        return 0
    step, state, _ = checkpoints.load_state()
    try:
        planner.load(state["planner"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint of sweep {step} does not fit this plan: {type(error).__name__}: {error}") from error
    return step


def _to_the_end(config: PlanConfig, out: Path, planner: Planner, world: World, log: EventLog, show: bool, console: Console) -> Path:
    def save() -> None:
        log.sync()
        checkpoints.save(planner.sweeps, {"planner": planner.state()}, None)

    checkpoints = Checkpoints(out)
    while not planner.finished and planner.sweeps < config.max_sweeps:
        change = planner.sweep()
        if show:
            show_sweep(planner, world, change, console, out / "sweeps")
        if planner.sweeps % config.log_every == 0 or planner.finished:
            log.append("sweep", planner.sweeps, change=change)
        if planner.sweeps % config.checkpoint_every == 0:
            save()
    save()
    log.append("end", planner.sweeps, finished=planner.finished)
    reason = "" if planner.finished else f"; max_sweeps={config.max_sweeps:,} ended it before the values had settled"
    console.print(f"{config.name}: {planner.sweeps:,} sweeps{reason}: {out}", highlight=False, soft_wrap=True)
    return out
