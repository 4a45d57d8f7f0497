"""How well a reward is learned from 700 comparisons, on Christiano's eight tasks: `python -m tutelage.recipes.reward_learning`.

Clips come from a random policy and from a SAC that has learned for a while, half and half. One oracle compares 700 pairs; the score is
the correlation (Pearson) of predicted and true returns on clips that nobody compared. Another rater's answers are wrong one time in ten;
a reward model that has this in its likelihood and one that has not are scored by how well they foretell fresh answers of the same rater,
as the mean of -log P. No clip that scores was used to choose a setting.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Generator, Tensor

from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.replay import Replay
from tutelage.experience.rollout import Rollout
from tutelage.experience.trajectory import Segments
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.processor import prepare
from tutelage.experiment.randomness import generator, seed_of
from tutelage.games.christiano import CLIP_STEPS, TASKS
from tutelage.games.make import make
from tutelage.games.nested import action_width, flat_width
from tutelage.learn.deep import sac
from tutelage.learn.learner import Progress
from tutelage.recipes.rows import RESULTS, Row, append, read
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.fitting import fit
from tutelage.rewards.learned import CHRISTIANO, RewardEnsemble

LABELS, HELD_OUT = 700, 1_000
FLIPPED = 0.1  # of the second rater's answers
STUDENT = sac.Config(hidden=(64, 64), batch_size=128, learning_rate=1e-3, random_steps=1_000)


@dataclass(frozen=True)
class Recipe:
    """Reward learning on its own, without an agent that goes on learning."""

    task: str | None = None
    """One of the eight, such as hopper. None: all."""
    seeds: int = 2
    """Each with clips, labels and reward models of its own."""
    steps: int = 15_000
    """That the SAC learns for on the true reward; its clips are those of the last third, the random policy's as many."""
    scale: float = 1.0
    """Shrinks steps and labels, to try the recipe; rows then go where `results` says only if it is given."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/reward_learning.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def play(game: str, steps: int, kept: int, learns: bool, seed: int) -> Replay:
    """The newest `kept` of so many steps of one copy, by a SAC that learns from the true reward or by uniformly random actions."""
    world, path = make(game, 1), "student" if learns else "random"
    spaces = world.observation_space, world.action_space
    config = replace(STUDENT, random_steps=min(STUDENT.random_steps, steps // 4) if learns else steps)
    learner = sac.SAC(config, *spaces, [generator(seed, path)])
    rollout = Rollout(world, 1, [seed_of(seed, path) % 2**31])
    memory, newest = learner.experience(steps, 1), Replay(kept, 1, 1, (flat_width(spaces[0]),), action_width(spaces[1]))
    for step in range(steps):
        transition = rollout.step(learner.behave(rollout.observation, rollout.starts, None, Progress(step, steps)))
        newest.add(transition)
        memory.add(transition)
        learner.update(memory, Progress(step + 1, steps))
    world.close()
    return newest


def mixed(replays: tuple[Replay, Replay], count: int, length: int, g: Generator) -> Segments:
    """So many clips `[count, length, ...]`, from either memory at random."""
    parts = [memory.segments(memory.draw_starts(count, length, 10**6, [g]), length)[0] for memory in replays]
    first = torch.rand(count, generator=g) < 0.5
    pick = lambda one, two: torch.where(first.view(-1, *[1] * (one.dim() - 1)), one, two)
    return Segments(*(pick(*(getattr(part, name) for part in parts)) for name in Segments.__slots__))


def pairs(clips: Segments, flipped: float, g: Generator) -> Comparisons:
    """Neighbors among the clips compared by their true returns; such a share of the answers is turned round."""
    returns = clips.reward.sum(-1).view(1, -1, 2)
    better = (returns[..., 0] > returns[..., 1]).float()
    label = torch.where(torch.rand(better.shape, generator=g) < flipped, 1.0 - better, better)
    shape = (1, returns.shape[1], 2)
    key = torch.randint(2**62, label.shape, generator=g)
    clip = (clips.observation.view(*shape, *clips.observation.shape[1:]), clips.action.view(*shape, *clips.action.shape[1:]))
    return Comparisons(*clip, label, torch.ones_like(label), key, returns, torch.ones_like(label, dtype=torch.bool))


def learned(comparisons: Comparisons, rater_error: float, memory: Tensor, actions: Tensor, seed: int) -> RewardEnsemble:
    """An ensemble of Christiano's settings, fitted."""
    config = replace(CHRISTIANO, rater_error=rater_error)
    ensemble = RewardEnsemble(config, memory.shape[-1], actions.shape[-1], [generator(seed, "reward")])
    ensemble.measure_inputs(memory, actions)
    fit(ensemble, comparisons)
    ensemble.measure_outputs(memory, actions)
    return ensemble


def surprise(ensemble: RewardEnsemble, fresh: Comparisons) -> float:
    """Mean of -log P of fresh answers, P the mean of the members' predictions."""
    error = ensemble.config.rater_error
    p = ((1.0 - error) * torch.sigmoid(ensemble.logits(fresh.side(0), fresh.side(1)).double()) + 0.5 * error).mean(1)
    return float(bradley_terry_loss(torch.logit(p, eps=1e-9), fresh.label.double()).mean())


def scores(task: str, seed: int, steps: int, labels: int, held_out: int) -> dict[str, float]:
    """Method -> score."""
    game, length, kept = f"christiano:{task}", CLIP_STEPS[task], max(steps // 3, 4 * CLIP_STEPS[task])
    replays = play(game, steps, kept, True, seed), play(game, kept, kept, False, seed)
    g = generator(seed, "clips")
    memory, actions = (torch.cat([getattr(replay, name)() for replay in replays], 1) for name in ("observations", "actions"))
    clips = lambda count: mixed(replays, 2 * count, length, g)
    test = clips(held_out // 2)
    oracle = learned(pairs(clips(labels), 0.0, g), CHRISTIANO.rater_error, memory, actions, seed)
    predicted = oracle.reward(test.observation[None], test.action[None])[0].sum(-1)
    found = {f"correlation-{labels}": float(torch.corrcoef(torch.stack([predicted, test.reward.sum(-1)]))[0, 1])}
    noisy, fresh = pairs(clips(labels), FLIPPED, g), pairs(clips(held_out), FLIPPED, g)
    for name, error in (("error-aware", 2.0 * FLIPPED), ("plain", 0.0)):  # a fair coin is right half of the time
        found[f"surprise-{labels}-{name}"] = surprise(learned(noisy, error, memory, actions, seed), fresh)
    return found


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Score every task and seed whose rows are not there yet, and add them."""
    prepare(recipe.threads)
    console = console or Console()
    results = recipe.results or (RESULTS / "reward_learning.jsonl" if recipe.scale == 1.0 else None)
    steps, labels, held_out = (max(round(x * recipe.scale), least) for x, least in ((recipe.steps, 300), (LABELS, 20), (HELD_OUT, 20)))
    for task in [recipe.task] if recipe.task else list(TASKS):
        for seed in range(recipe.seeds):
            name = f"christiano:{task}/reward"
            if results is not None and any((row.task, row.seed) == (name, seed) for row in read(results)):
                continue
            began = time.perf_counter()
            found = scores(task, seed, steps, labels, held_out)
            seconds = round(time.perf_counter() - began, 1)
            rows = [Row(name, method, seed, steps, round(score, 4), seconds, hardware("cpu"), commit()) for method, score in found.items()]
            console.print(f"{name}, seed {seed}: " + ", ".join(f"{row.method} {row.score}" for row in rows), highlight=False)
            if results is not None:
                append(results, rows)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
