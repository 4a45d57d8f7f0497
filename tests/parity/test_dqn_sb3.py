"""Ten updates of DQN from the same weights and data as those of Stable-Baselines3.

Where the definitions agree: Huber's loss, Adam, the clipped norm, the copied target. Where they differ on purpose (docs): SB3 treats a
transition as final unless its replay knows of time limits, so the data here have terminations only; SB3 counts the time between two
copies of the target in steps of the game and its first copy comes at once, so the copies are made here by hand at the same updates.
"""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN as Peer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Generator

from tutelage.experience.trajectory import Batch
from tutelage.games.spec import Box, Discrete
from tutelage.learn.deep.dqn import DQN, Config

D, CHOICES, N, UPDATES = 4, 3, 32, 10


def data(step: int) -> dict[str, torch.Tensor]:
    g = Generator().manual_seed(step)
    return {
        "observations": torch.randn(N, D, generator=g),
        "actions": torch.randint(CHOICES, (N, 1), generator=g),
        "rewards": 3.0 * torch.randn(N, 1, generator=g),
        "next_observations": torch.randn(N, D, generator=g),
        "dones": (torch.rand(N, 1, generator=g) < 0.2).float(),
    }


class World(gymnasium.Env[np.ndarray, np.int64]):
    """Nothing but its spaces: it is never played."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (D,)), spaces.Discrete(CHOICES)


class Given:
    """A replay that hands out what it was told to."""

    def __init__(self) -> None:
        self.step = 0

    def sample(self, *_: object, **__: object) -> object:
        self.step += 1
        return ReplayBufferSamples(**data(self.step), discounts=None)


@pytest.mark.parametrize("clip", [10.0, 0.05])
def test_ten_updates_are_the_same(clip: float):
    peer = Peer("MlpPolicy", World(), learning_rate=1e-3, gamma=0.95, max_grad_norm=clip, device="cpu", seed=0)
    peer.set_logger(Logger(None, []))
    peer.replay_buffer = Given()  # type: ignore[assignment]
    config = Config(learning_rate=1e-3, discount=0.95, max_grad_norm=clip, target_every=4)
    ours = DQN(config, Box((D,), -np.ones(D), np.ones(D)), Discrete(CHOICES), [Generator()])
    weights = ours.train.weights("critic")
    layers = [layer for layer in peer.q_net.q_net if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        weights[f"weight_{i}"][0] = layer.weight.data.mT
        weights[f"bias_{i}"][0, 0] = layer.bias.data
    ours.target.copy()
    for update in range(1, UPDATES + 1):
        peer.train(gradient_steps=1, batch_size=N)
        if update % 4 == 0:
            peer.q_net_target.load_state_dict(peer.q_net.state_dict())
        x = data(update)
        ended = x["dones"].T > 0
        seen, after, reward = x["observations"][None], x["next_observations"][None], x["rewards"].T
        ours.update_on(Batch(seen, x["actions"][None].float(), reward, after, ended, torch.ones(1, N)))
        for i, layer in enumerate(layers):
            torch.testing.assert_close(weights[f"weight_{i}"][0].mT, layer.weight.data, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(weights[f"bias_{i}"][0, 0], layer.bias.data, atol=1e-5, rtol=1e-5)
    seen = data(99)["observations"]
    assert ours.act(seen[None])[0, :, 0].tolist() == peer.predict(seen.numpy(), deterministic=True)[0].tolist()
