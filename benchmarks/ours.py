"""What run.py measures of this library: `ours.py MEASURE VARIANT THREADS`, spoken to as peers/protocol.py says."""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from measures import ACTIONS, COPIES, NETS
from peers.protocol import serve
from run import Worker

from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Transition
from tutelage.experiment.config import RunConfig
from tutelage.experiment.processor import prepare
from tutelage.experiment.run import Experiment
from tutelage.games.make import make
from tutelage.games.particle.address import make_world
from tutelage.games.particle.rollouts import compiled_rollout
from tutelage.games.streams import stream_keys
from tutelage.learn.deep import dqn, ppo, sac, td3, trpo
from tutelage.learn.learner import Progress
from tutelage.learn.many_agents import matd3
from tutelage.learn.preference import pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.meta_reward_net import outer_step
from tutelage.rewards import learned
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.fitting import fit

OBSERVATION, ACTION, MEMBERS, HIDDEN = 17, 6, 3, (256, 256, 256)
COMPARISONS, LENGTH, BATCH = 500, 50, 32
TRANSITIONS = 1_000_000
AGENTS, SEEDS, ROLLOUT = 3, 5, 100
NEVER = 10**9


def whole_run(algorithm: Any, game: str, threads: int, stack: ExitStack, warm_up: int = 300, copies: int = 1) -> Callable[[int], object]:
    """Steps of a whole run, those of all copies together: game, experience, update, log."""
    never: dict[str, Any] = dict(evaluate_every=NEVER, checkpoint_every=NEVER, clips=0)
    config = RunConfig(algorithm, game, NEVER, threads=threads, copies=copies, **never)
    out = stack.enter_context(tempfile.TemporaryDirectory())
    run = stack.enter_context(Experiment(config, Path(out)))

    def steps(count: int) -> None:
        for _ in range(count // copies):
            run.step()

    steps(warm_up)
    return steps


def sac_on_pendulum(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """SAC; settings as those of the peers."""
    algorithm = sac.Config(random_steps=100, replay_capacity=100_000, compile=variant == "compiled")
    return whole_run(algorithm, "gym:Pendulum-v1", threads, stack)


def td3_on_pendulum(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """TD3; settings as those of the peers."""
    algorithm = td3.Config(random_steps=100, replay_capacity=100_000, compile=variant == "compiled")
    return whole_run(algorithm, "gym:Pendulum-v1", threads, stack)


def dqn_on_cartpole(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """DQN; settings as those of the peer, whose exploration is over after its warm-up."""
    algorithm = dqn.Config(exploration_start=0.05, replay_capacity=100_000, compile=variant == "compiled")
    return whole_run(algorithm, "gym:CartPole-v1", threads, stack, warm_up=1000)


def ppo_on_cartpole(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """PPO with eight copies; settings as those of the peers. Every turn is a whole window with its update."""
    return whole_run(ppo.Config(compile=variant == "compiled"), "gym:CartPole-v1", threads, stack, warm_up=8 * 2048, copies=8)


def ppo_on_cheetah(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """PPO with one copy; settings as those of the peer."""
    return whole_run(ppo.Config(compile=variant == "compiled"), "gym:HalfCheetah-v5", threads, stack, warm_up=2048)


def trpo_on_cheetah(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """TRPO with one copy; settings as those of the peer."""
    return whole_run(trpo.Config(), "gym:HalfCheetah-v5", threads, stack, warm_up=2048)


def taught(**settings: Any) -> pebble.Config:
    """PEBBLE with a SAC of 256-256 and batches of 256 (the paper's are larger), which explores for 1,000 steps in all."""
    learner = sac.Config(initial_temperature=0.1, temperature_learning_rate=1e-4, target_every=2, random_steps=500, replay_capacity=100_000)
    return pebble.Config(sac=learner, pretraining_steps=500, **settings)


def preference_steps(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Steps of PEBBLE after its one session, or of the SAC that it holds, alone."""
    algorithm = taught(labels=50, session_labels=50)
    return whole_run(algorithm if variant == "pebble" else algorithm.sac, "gym:HalfCheetah-v5", threads, stack, warm_up=1500)


def preference_loop(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Steps of PEBBLE with a session every 1,000; settings as those of the peer, whose fits do not stop early either."""
    never_early = learned.Config(epochs=10, target_accuracy=2.0)
    algorithm = taught(labels=NEVER, session_labels=20, session_every=1000, reward_model=never_early)
    return whole_run(algorithm, "gym:HalfCheetah-v5", threads, stack, warm_up=2000)


def bilevel(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Outer steps of Meta-Reward-Net, or full updates of its SAC, on one memory of 1,500 steps."""
    algorithm = taught(labels=50, session_labels=50, meta=MetaConfig(every=NEVER))
    never: dict[str, Any] = dict(evaluate_every=NEVER, checkpoint_every=NEVER, clips=0)
    config = RunConfig(algorithm, "gym:HalfCheetah-v5", NEVER, threads=threads, **never)
    run = stack.enter_context(Experiment(config, Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    for _ in range(1500):
        run.step()
    student, replay = run.learner, run.experience
    assert isinstance(student, pebble.Pebble)
    newest = student.lesson.comparisons(student.learned, algorithm.session_labels)
    assert newest is not None

    def steps(count: int) -> None:
        for _ in range(count):
            if variant == "sac":
                student.sac.update(replay, Progress(NEVER, NEVER))
            else:
                outer_step(algorithm.meta, student.ensemble, student.sac, replay, newest)

    steps(20)
    return steps


def ensemble(threads: int) -> learned.RewardEnsemble:
    """Three members of 3 x 256 that never stop early."""
    prepare(threads)
    config = learned.Config(members=MEMBERS, hidden=HIDDEN, batch_size=BATCH, epochs=1, target_accuracy=2.0)
    return learned.RewardEnsemble(config, OBSERVATION, ACTION, [torch.Generator().manual_seed(0)])


def reward_epochs(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Passes over the comparisons, of random numbers as the peer's are."""
    model, draw = ensemble(threads), torch.Generator().manual_seed(1)
    observation = torch.randn(1, COMPARISONS, 2, LENGTH, OBSERVATION, generator=draw)
    action = 2.0 * torch.rand(1, COMPARISONS, 2, LENGTH, ACTION, generator=draw) - 1.0
    label, weight = torch.randint(2, (1, COMPARISONS), generator=draw).float(), torch.ones(1, COMPARISONS)
    nothing = torch.zeros(1, COMPARISONS, dtype=torch.int64), torch.zeros(1, COMPARISONS, 2), torch.ones(1, COMPARISONS, dtype=torch.bool)
    comparisons = Comparisons(observation, action, label, weight, *nothing)

    def epochs(count: int) -> None:
        for _ in range(count):
            fit(model, comparisons)

    epochs(1)
    return epochs


def relabel(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """New rewards for a replay of a million transitions."""
    model, draw = ensemble(threads), torch.Generator().manual_seed(1)
    replay = Replay(TRANSITIONS, 1, 1, (OBSERVATION,), ACTION)
    replay.rows.normal_(generator=draw)
    replay.steps = TRANSITIONS

    def relabelings(count: int) -> None:
        for _ in range(count):
            replay.relabel(model.reward)

    replay.relabel(model.reward, newest=100_000)
    return relabelings


def particle(kind: str, copies: int, variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Steps of simple_spread under random actions, those of all copies together: one by one, or in compiled rollouts of 100."""
    prepare(threads)
    address, generator = f"particle:simple_spread?actions={kind}", torch.Generator().manual_seed(0)
    if variant == "compiled":
        world = make_world(address)
        rollout = compiled_rollout(world, ROLLOUT)
        state = world.start(stream_keys(range(copies)), torch.zeros(copies, dtype=torch.int64))

        def rollouts(count: int) -> None:
            nonlocal state
            for _ in range(count // (copies * ROLLOUT)):
                state, _ = rollout(state)

        rollouts(2 * copies * ROLLOUT)
        return rollouts
    game = make(address, copies)
    game.reset(seed=range(copies))

    def steps(count: int) -> None:
        for _ in range(count // copies):
            if kind == "discrete":
                action = torch.randint(5, (copies, AGENTS), generator=generator)
            else:
                action = 2.0 * torch.rand(copies, AGENTS, 2, generator=generator) - 1.0
            ended = game.step((action,)).boundary
            if ended.any():
                game.reset(where=ended)

    steps(copies * ROLLOUT)
    return steps


def many_agents(batch: int, width: int, seeds: int, compile: bool, threads: int) -> tuple[matd3.MATD3, Replay]:
    """Stacked learners of simple_spread (continuous), and random experience of theirs."""
    prepare(threads)
    players = make_world("particle:simple_spread?actions=continuous").players
    config = matd3.Config(batch_size=batch, hidden=(width, width), random_steps=0, update_every=1, compile=compile)
    learner = matd3.MATD3(config, players, [torch.Generator().manual_seed(seed) for seed in range(seeds)])
    replay, draw = learner.experience(2 * batch, 1), torch.Generator().manual_seed(0)
    never = torch.zeros(seeds, 1, AGENTS, dtype=torch.bool)
    for _ in range(2 * batch):
        seen, following = torch.randn(2, seeds, 1, learner.observation_width, generator=draw)
        action = 2.0 * torch.rand(seeds, 1, learner.action_width, generator=draw) - 1.0
        reward = torch.randn(seeds, 1, AGENTS, generator=draw)
        replay.add(Transition(seen, action, reward, following, following, never, never[..., 0], ~never))
    return learner, replay


def matd3_updates(batch: int, width: int, variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Updates on one batch, as the peers'."""
    learner, replay = many_agents(batch, width, 1, variant == "compiled", threads)
    given, [team] = replay.sample(batch, learner.generators), learner.teams

    def updates(count: int) -> None:
        for _ in range(count):
            team.update_on(given)

    updates(20)
    return updates


def matd3_loop(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """MATD3 with eight copies; settings as those of the peer, whose experiments begin when there is a batch."""
    algorithm = matd3.Config(random_steps=128, update_every=100 // 8, replay_capacity=100_000 // 8, compile=variant == "compiled")
    return whole_run(algorithm, "particle:simple_spread?actions=continuous", threads, stack, warm_up=2048, copies=8)


def matd3_seeds(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Updates with their sampling, those of five seeds together: stacked, or each in a process of its own, two at a time."""
    kind, _, compiled = variant.partition("-")
    if kind == "processes":
        command = [sys.executable, __file__, "matd3-seeds", f"alone-{compiled}"]
        workers = [Worker(command, threads) for _ in range(SEEDS)]
        for worker in workers:
            stack.callback(worker.close)
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def processes(count: int) -> None:
            halves = [workers[i % SEEDS] for i in range(2 * SEEDS)]  # so that there is always another for who has finished
            list(pool.map(lambda worker: worker.seconds(count // (2 * SEEDS)), halves))

        return processes
    seeds = SEEDS if kind == "stacked" else 1
    learner, replay = many_agents(1024, 64, seeds, bool(compiled), threads)

    def updates(count: int) -> None:
        for step in range(count // seeds):
            learner.update(replay, Progress(step + 1, 0))

    updates(20 * seeds)
    return updates


def matrix_products(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Products of two matrices of 1024 x 1024: what "the limit" means."""
    prepare(threads)
    a, b = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(a)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    products(20)
    return products


WORK = {
    "sac": sac_on_pendulum,
    "td3": td3_on_pendulum,
    "dqn": dqn_on_cartpole,
    "ppo": ppo_on_cartpole,
    "ppo-cheetah": ppo_on_cheetah,
    "trpo": trpo_on_cheetah,
    "preference-step": preference_steps,
    "preference-loop": preference_loop,
    "bilevel": bilevel,
    "reward-epoch": reward_epochs,
    "relabel": relabel,
    **{f"particle-{kind}-{copies}": partial(particle, kind, copies) for kind, copies in product(ACTIONS, COPIES)},
    **{name: partial(matd3_updates, *sizes) for name, sizes in NETS.items()},
    "matd3-loop": matd3_loop,
    "matd3-seeds": matd3_seeds,
    "matrix": matrix_products,
}

if __name__ == "__main__":
    measure, variant, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with ExitStack() as stack:
        serve(WORK[measure](variant, threads, stack))
