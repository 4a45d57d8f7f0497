"""What run.py measures of this library: `ours.py MEASURE VARIANT THREADS`, spoken to as peers/protocol.py says."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peers.protocol import serve

from tutelage.experience.replay import Replay
from tutelage.experiment.config import RunConfig
from tutelage.experiment.run import Experiment
from tutelage.learn.deep import dqn, ppo, sac, td3, trpo
from tutelage.rewards import learned

OBSERVATION, ACTION, MEMBERS, HIDDEN = 17, 6, 3, (256, 256, 256)
COMPARISONS, LENGTH, BATCH = 500, 50, 32
TRANSITIONS = 1_000_000
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


def ensemble(threads: int) -> learned.RewardEnsemble:
    """Three members of 3 x 256 that never stop early."""
    torch.set_num_threads(threads)
    config = learned.Config(members=MEMBERS, hidden=HIDDEN, batch_size=BATCH, epochs=1, target_accuracy=2.0)
    return learned.RewardEnsemble(config, OBSERVATION, ACTION, [torch.Generator().manual_seed(0)])


def reward_epochs(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Passes over the comparisons, of random numbers as the peer's are."""
    model, draw = ensemble(threads), torch.Generator().manual_seed(1)
    sides = [
        (
            torch.randn(1, COMPARISONS, LENGTH, OBSERVATION, generator=draw),
            2.0 * torch.rand(1, COMPARISONS, LENGTH, ACTION, generator=draw) - 1.0,
        )
        for _ in range(2)
    ]
    label, weight = torch.randint(2, (1, COMPARISONS), generator=draw).float(), torch.ones(1, COMPARISONS)

    def epochs(count: int) -> None:
        for _ in range(count):
            model.fit(sides[0], sides[1], label, weight)

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


def matrix_products(variant: str, threads: int, stack: ExitStack) -> Callable[[int], object]:
    """Products of two matrices of 1024 x 1024: what "the limit" means."""
    torch.set_num_threads(threads)
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
    "reward-epoch": reward_epochs,
    "relabel": relabel,
    "matrix": matrix_products,
}

if __name__ == "__main__":
    measure, variant, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with ExitStack() as stack:
        serve(WORK[measure](variant, threads, stack))
