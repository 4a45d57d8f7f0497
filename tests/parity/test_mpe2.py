"""The particle worlds beside mpe2 1.1.1: 500 random episodes of each of three scenarios, with discrete and with continuous actions.

mpe2 is driven through its own world, scenario and action code, without the wrappers that hand agents round one by one. A third of the
episodes begin in heavy overlap, where contact forces are largest. Whole episodes are compared in double precision, as mpe2 computes;
in single precision contacts amplify the last bit along an episode, so there every step starts from mpe2's state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from mpe2 import simple_adversary_v3, simple_spread_v3, simple_tag_v3

from tutelage.games.particle.address import make_world

EPISODES, STEPS = 500, 25
PEERS = {"simple_spread": simple_spread_v3, "simple_adversary": simple_adversary_v3, "simple_tag": simple_tag_v3}


def peer_of(name, continuous):
    return PEERS[name].parallel_env(continuous_actions=continuous).unwrapped


@dataclass
class Played:
    """What mpe2 did. Arrays [STEPS (+ 1), EPISODES, ...]."""

    position: np.ndarray
    velocity: np.ndarray
    place: np.ndarray
    goal: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    observation: list[np.ndarray]
    """Of each agent."""


def play(name, continuous):
    rng = np.random.default_rng(0)
    peer = peer_of(name, continuous)
    agents, landmarks = peer.world.agents, peer.world.landmarks
    N, T = len(agents), STEPS + 1
    widths = [peer.observation_space(agent.name).shape[0] for agent in agents]
    played = Played(
        np.zeros((T, EPISODES, N, 2)),
        np.zeros((T, EPISODES, N, 2)),
        np.zeros((T, EPISODES, len(landmarks), 2)),
        np.zeros((T, EPISODES, 1 if name == "simple_adversary" else 0), np.int64),
        rng.random((STEPS, EPISODES, N, 5)) if continuous else rng.integers(5, size=(STEPS, EPISODES, N)),
        np.zeros((STEPS, EPISODES, N)),
        [np.zeros((T, EPISODES, width)) for width in widths],
    )
    for e in range(EPISODES):
        peer.reset(seed=e)
        if e % 3 == 0:
            for entity in peer.world.entities:
                entity.state.p_pos *= 0.2
        if name == "simple_adversary":
            played.goal[:, e] = landmarks.index(agents[0].goal_a)
        for t in range(T):
            if t:
                peer.current_actions = list(played.action[t - 1, e])
                peer._execute_world_step()
                played.reward[t - 1, e] = [peer.rewards[agent.name] for agent in agents]
            played.position[t, e] = [agent.state.p_pos for agent in agents]
            played.velocity[t, e] = [agent.state.p_vel for agent in agents]
            played.place[t, e] = [landmark.state.p_pos for landmark in landmarks]
            for i, agent in enumerate(agents):
                played.observation[i][t, e] = peer.scenario.observation(agent, peer.world)
    return played


def state_of(world, position, velocity, place, goal):
    """Ours, from mpe2's arrays [B, entities, 2] and [B, M]."""
    B = len(position)
    state = world.start(torch.zeros(B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64))
    parts = [torch.as_tensor(part).permute(2, 1, 0).to(world.dtype) for part in (position, velocity, place)]
    return state._replace(position=parts[0], velocity=parts[1], place=parts[2], memory=torch.as_tensor(goal.T.copy()))


def joint(world, action):
    return tuple(torch.as_tensor(action[:, list(group.agents)]) for group in world.players.groups)


def assert_sees(world, observation, expected, tolerance):
    """observation: per group [B, n, D]; expected: of each agent [B, D]."""
    for k, group in enumerate(world.players.groups):
        for j, agent in enumerate(group.agents):
            np.testing.assert_allclose(observation[k][:, j].numpy(), expected[agent], rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("name", list(PEERS))
def test_500_random_episodes(name, continuous):
    played = play(name, continuous)
    options = {"actions": "box5" if continuous else "discrete"}

    world = make_world(f"particle:{name}", options, torch.float64)
    state = state_of(world, played.position[0], played.velocity[0], played.place[0], played.goal[0])
    assert_sees(world, world.look(state), [seen[0] for seen in played.observation], 1e-12)
    for t in range(STEPS):
        state, outcome = world.advance(state, joint(world, played.action[t]))
        np.testing.assert_allclose(outcome.reward.numpy(), played.reward[t], rtol=0.0, atol=1e-10)
        assert_sees(world, outcome.observation, [seen[t + 1] for seen in played.observation], 1e-10)
        assert bool(outcome.boundary.all()) == bool(outcome.boundary.any()) == (t == STEPS - 1)

    world = make_world(f"particle:{name}", options)
    for t in range(STEPS):
        state = state_of(world, played.position[t], played.velocity[t], played.place[t], played.goal[t])
        _, outcome = world.advance(state, joint(world, played.action[t]))
        np.testing.assert_allclose(outcome.reward.numpy(), played.reward[t], rtol=0.0, atol=1e-5)
        assert_sees(world, outcome.observation, [seen[t + 1] for seen in played.observation], 1e-5)


def test_two_numbers_push_as_five_do():
    """Thrust in [-1, 1]^2 reaches mpe2 as (0, left, right, down, up)."""
    rng = np.random.default_rng(1)
    peer = peer_of("simple_spread", True)
    world = make_world("particle:simple_spread", {"actions": "continuous"}, torch.float64)
    peer.reset(seed=0)
    start = [np.array([[entity.state.p_pos for entity in entities]]) for entities in (peer.world.agents, peer.world.landmarks)]
    state = state_of(world, start[0], np.zeros_like(start[0]), start[1], np.zeros((1, 0), np.int64))
    for _ in range(STEPS):
        push = rng.uniform(-1.0, 1.0, (3, 2))
        peer.current_actions = [np.array([0.0, max(-x, 0.0), max(x, 0.0), max(-y, 0.0), max(y, 0.0)]) for x, y in push]
        peer._execute_world_step()
        state, outcome = world.advance(state, (torch.as_tensor(push)[None],))
        np.testing.assert_allclose(outcome.reward[0].numpy(), [peer.rewards[agent.name] for agent in peer.world.agents], atol=1e-10)
    np.testing.assert_allclose(state.position[..., 0].T.numpy(), [agent.state.p_pos for agent in peer.world.agents], atol=1e-10)


def test_who_plays():
    for name in PEERS:
        peer, players = peer_of(name, False), make_world(f"particle:{name}").players
        assert list(players.names) == peer.possible_agents
        for group in players.groups:
            for agent in group.agents:
                seen: Any = group.observation_space
                assert seen.shape == peer.observation_space(players.names[agent]).shape
