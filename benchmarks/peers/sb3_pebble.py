"""PEBBLE as one would write it around SAC of Stable-Baselines3, after the loop of B-Pref: HalfCheetah-v5, settings as ours.py's.

Each member of the reward model is a module of its own, as there; a session every 1,000 steps asks 20 questions of 200 candidates, fits for
ten passes and relabels the memory, in pieces of 1,000.
"""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/sb3.

import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from protocol import serve
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from torch import nn

LENGTH, QUESTIONS, CANDIDATES, PASSES, BATCH, MEMBERS = 50, 20, 10, 10, 128, 3

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
draw = np.random.default_rng(0)
world: Any = gymnasium.make("HalfCheetah-v5")
model: Any = SAC(
    "MlpPolicy", world, learning_rate=3e-4, batch_size=256, buffer_size=100_000, learning_starts=0, target_update_interval=2,
    ent_coef="auto_0.1", device="cpu", seed=0,
)  # fmt: skip
model.set_logger(configure(None, []))
width = sum(int(np.prod(space.shape)) for space in (world.observation_space, world.action_space))


def member() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(width, 256), nn.LeakyReLU()]
    for _ in range(2):
        layers += [nn.Linear(256, 256), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 1), nn.Tanh())


members = [member() for _ in range(MEMBERS)]
optimizer = torch.optim.Adam([p for net in members for p in net.parameters()], lr=3e-4)
inputs: list[np.ndarray] = []
rewards: list[float] = []
starts: list[int] = []
lefts: list[np.ndarray] = []
rights: list[np.ndarray] = []
labels: list[int] = []
observation, _ = world.reset(seed=0)
taken = 0


def predicted(rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        x = torch.as_tensor(rows, dtype=torch.float32)
        return torch.stack([net(x) for net in members]).mean(0).squeeze(-1).numpy()


def session() -> None:
    """Ask, fit, relabel."""
    memory, paid = np.stack(inputs), np.array(rewards)
    begun = np.array(starts)
    begun = begun[begun + 1000 <= len(memory)]
    first = draw.choice(begun, 2 * QUESTIONS * CANDIDATES) + draw.integers(0, 1000 - LENGTH, 2 * QUESTIONS * CANDIDATES)
    clips = np.stack([memory[i : i + LENGTH] for i in first])
    with torch.no_grad():
        x = torch.as_tensor(clips, dtype=torch.float32)
        totals = torch.stack([net(x).sum((1, 2)) for net in members])
        half = QUESTIONS * CANDIDATES
        spread = torch.sigmoid(totals[:, :half] - totals[:, half:]).std(0)
    for i in spread.topk(QUESTIONS).indices.tolist():
        j = i + half
        lefts.append(clips[i])
        rights.append(clips[j])
        labels.append(int(paid[first[i] : first[i] + LENGTH].sum() < paid[first[j] : first[j] + LENGTH].sum()))
    left, right = (torch.as_tensor(np.stack(side), dtype=torch.float32) for side in (lefts, rights))
    wanted = torch.tensor(labels)
    for _ in range(PASSES):
        orders = [torch.randperm(len(labels)) for _ in members]
        for k in range(0, len(labels), BATCH):
            optimizer.zero_grad()
            loss = torch.zeros(())
            for net, order in zip(members, orders, strict=True):
                rows = order[k : k + BATCH]
                logits = torch.cat([net(left[rows]).sum(1), net(right[rows]).sum(1)], -1)
                loss = loss + nn.functional.cross_entropy(logits, wanted[rows])
            loss.backward()
            optimizer.step()
    buffer = model.replay_buffer
    for k in range(0, len(memory), 1000):
        buffer.rewards[k : k + 1000, 0] = predicted(memory[k : k + 1000])


def steps(count: int) -> None:
    global observation, taken
    for _ in range(count):
        if taken < 500:
            action = world.action_space.sample()
        else:
            action, _ = model.predict(observation, deterministic=False)
        following, paid, terminated, truncated, _ = world.step(action)
        if not starts:
            starts.append(0)
        row = np.concatenate([observation, action])
        inputs.append(row)
        rewards.append(float(paid))
        model.replay_buffer.add(
            observation[None], following[None], model.policy.scale_action(action)[None], predicted(row[None]),
            np.array([terminated]), [{"TimeLimit.truncated": truncated}],
        )  # fmt: skip
        taken += 1
        if terminated or truncated:
            observation, _ = world.reset()
            starts.append(taken)
        else:
            observation = following
        if taken % 1000 == 0:
            session()
        if taken > 500:
            model.train(gradient_steps=1, batch_size=256)


steps(2000)
serve(steps)
