"""PPO beside Stable-Baselines3's: from the same weights and data the first ten updates give the same weights.

Deliberate differences that this test has to arrange for: the shuffles, which are drawn from other generators; and time limits, which
SB3 pays as a reward of gamma V(final observation) where we bootstrap the true successor, which comes to the same.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO as TheirPPO
from stable_baselines3.common.env_util import make_vec_env
from torch import Generator, Tensor, nn

from tutelage.experience.trajectory import Transition
from tutelage.games.spec import Box, Discrete, Space
from tutelage.learn.deep.ppo import PPO, Config
from tutelage.learn.learner import Progress

T, B, EPOCHS, BATCH, UPDATES, TOTAL = 16, 4, 3, 24, 10, 10_000
GAMES = {"CartPole-v1": 4, "Pendulum-v1": 3}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "every option that both have": (
        dict(temperature=0.02, value_coefficient=0.6, clip_range=0.1, max_grad_norm=0.1, discount=0.9, gae_lambda=0.8, learning_rate=1e-3),
        dict(ent_coef=0.02, vf_coef=0.3, clip_range=0.1, max_grad_norm=0.1, gamma=0.9, gae_lambda=0.8, learning_rate=1e-3),
    ),
    "advantages as they are, and a KL limit": (
        dict(standardize_advantage=False, target_kl=1e-3, learning_rate=3e-3),
        dict(normalize_advantage=False, target_kl=1e-3, learning_rate=3e-3),
    ),
}


def copy_weights(theirs: Any, ours: PPO) -> None:
    with torch.no_grad():
        for net, layers in enumerate(layers_of(theirs)):
            for i, layer in enumerate(layers):
                ours.parameters.weights[f"weight_{i}"][0, net, :, : layer.out_features] = layer.weight.T
                ours.parameters.weights[f"bias_{i}"][0, net, 0, : layer.out_features] = layer.bias
        if "log_std" in ours.parameters.weights:
            ours.parameters.weights["log_std"][0] = theirs.log_std


def layers_of(policy: Any) -> tuple[list[nn.Linear], list[nn.Linear]]:
    extractor = policy.mlp_extractor
    linear = lambda net: [layer for layer in net if isinstance(layer, nn.Linear)]
    return [*linear(extractor.policy_net), policy.action_net], [*linear(extractor.value_net), policy.value_net]


def assert_equal_weights(theirs: Any, ours: PPO) -> None:
    for net, layers in enumerate(layers_of(theirs)):
        for i, layer in enumerate(layers):
            weight, bias = (ours.parameters.weights[f"{kind}_{i}"][0, net, :, : layer.out_features] for kind in ("weight", "bias"))
            torch.testing.assert_close(weight, layer.weight.detach().T, atol=1e-5, rtol=0.0)
            torch.testing.assert_close(bias[0], layer.bias.detach(), atol=1e-5, rtol=0.0)
    if "log_std" in ours.parameters.weights:
        torch.testing.assert_close(ours.parameters.weights["log_std"][0], theirs.log_std.detach(), atol=1e-5, rtol=0.0)


def draws(g: Generator, D: int, space: Space) -> Iterator[tuple[Tensor, ...]]:
    """A game of random numbers: observation, action, reward, successor, next observation, terminated, boundary, by step."""
    observation = torch.randn(B, D, generator=g)
    while True:
        action = torch.randint(2, (B, 1), generator=g).float() if isinstance(space, Discrete) else torch.randn(B, 1, generator=g)
        boundary = torch.rand(B, generator=g) < 0.2
        terminated = boundary & (torch.rand(B, generator=g) < 0.5)
        successor = torch.randn(B, D, generator=g)
        following = torch.where(boundary[:, None], torch.randn(B, D, generator=g), successor)
        yield observation, action, torch.randn(B, generator=g), successor, following, terminated, boundary
        observation = following


def fill(model: Any, window: list[tuple[Tensor, ...]], starts: Tensor) -> None:
    """Their buffer, as their collect_rollouts fills it."""
    buffer, policy = model.rollout_buffer, model.policy
    buffer.reset()
    for observation, action, reward, successor, _, terminated, boundary in window:
        with torch.no_grad():
            taken = action[:, 0].long() if isinstance(model.action_space, spaces.Discrete) else action
            value, logp, _ = policy.evaluate_actions(observation, taken)
            limited = (boundary & ~terminated).float() * model.gamma * policy.predict_values(successor)[:, 0]
        buffer.add(observation.numpy(), action.numpy(), (reward + limited).numpy(), starts.float().numpy(), value, logp)
        starts = boundary
    with torch.no_grad():
        last = policy.predict_values(window[-1][4])
    buffer.compute_returns_and_advantage(last_values=last, dones=starts.float().numpy())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("game", GAMES)
def test_ten_updates_from_the_same_weights_and_data(game: str, options: str, monkeypatch: pytest.MonkeyPatch):
    our_options, their_options = OPTIONS[options]
    theirs: Any = TheirPPO(
        "MlpPolicy", make_vec_env(game, B), n_steps=T, batch_size=BATCH, n_epochs=EPOCHS, device="cpu", seed=0, **their_options
    )  # fmt: skip
    theirs.learn(T * B)  # sets up its logger; the weights are then copied as they are
    D = GAMES[game]
    unbounded = np.full(D, np.inf, np.float32)
    space: Space = Discrete(2) if game == "CartPole-v1" else Box((1,), np.full(1, -2.0, np.float32), np.full(1, 2.0, np.float32))
    config = Config(window=T, epochs=EPOCHS, batch_size=BATCH, **our_options)
    ours = PPO(config, Box((D,), -unbounded, unbounded), space, [Generator().manual_seed(5)])
    copy_weights(theirs.policy, ours)
    theirs.policy.optimizer.state.clear()
    window, data, starts = ours.experience(TOTAL, B), draws(Generator().manual_seed(1), D, space), torch.ones(B, dtype=torch.bool)

    def their_permutation(count: int) -> np.ndarray:
        """Our next order in their numbers: ours are time x B + copy, theirs copy x T + time."""
        number = torch.randperm(count, generator=again)
        return (number % B * T + number // B).numpy()

    monkeypatch.setattr(np.random, "permutation", their_permutation)
    moved = ours.parameters.flat.clone()
    for update in range(UPDATES):
        steps = [next(data) for _ in range(T)]
        fill(theirs, steps, starts)
        starts = steps[-1][-1]
        again = Generator()
        again.set_state(ours.generators[0].get_state())
        theirs.train()
        for t, (observation, action, reward, successor, following, terminated, boundary) in enumerate(steps):
            every = torch.ones(1, B, dtype=torch.bool)
            window.add(
                Transition(
                    observation[None], action[None], reward[None], successor[None], following[None], terminated[None], boundary[None], every
                )
            )
            ours.update(window, Progress(update * T + t + 1, TOTAL))
        assert_equal_weights(theirs.policy, ours)
    assert (moved - ours.parameters.flat).abs().max() > 1e-3
