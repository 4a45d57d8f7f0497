"""How disks move, beside a slow loop over pairs and numbers worked out by hand."""

import math

import pytest
import torch

from tutelage.games.particle.physics import Bodies, State, contact, length, move, reaches


def state_of(position, velocity=None, place=None):
    """[entities][2] lists -> one copy."""
    column = lambda rows: torch.tensor(rows, dtype=torch.float64).view(-1, 2).t()[:, :, None].contiguous()
    position = column(position)
    empty = torch.zeros(2, 0, 1, dtype=torch.float64)
    number = torch.zeros(1, dtype=torch.int64)
    return State(
        position,
        torch.zeros_like(position) if velocity is None else column(velocity),
        empty if place is None else column(place),
        torch.zeros(0, 1, dtype=torch.int64),
        number,
        number,
        number,
    )


def reach_of(agents, landmarks=(), collide=None, obstacles=False):
    solid = collide or [True] * len(agents)
    return reaches(list(agents), list(landmarks), solid, obstacles=obstacles, device=torch.device("cpu"), dtype=torch.float64)


def test_moves_with_the_velocity_of_before():
    bodies = Bodies(torch.tensor([[5.0]], dtype=torch.float64), None, None)
    state = state_of([[0.0, 0.0]])
    thrust = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)
    seen = []
    for _ in range(3):
        state = move(state, thrust, bodies)
        seen.append((state.position[0, 0, 0].item(), state.velocity[0, 0, 0].item()))
    # v: 0.5, 0.75 * 0.5 + 0.5, ...; the first push moves nobody
    assert seen == [(0.0, 0.5), (pytest.approx(0.05), 0.875), (pytest.approx(0.1375), 1.15625)]
    assert int(state.steps) == 3


def test_top_speed_keeps_the_direction():
    bodies = Bodies(torch.tensor([[0.0], [0.0]], dtype=torch.float64), None, torch.tensor([[1.0], [9.0]], dtype=torch.float64))
    state = move(state_of([[0, 0], [1, 1]], [[3.0, 4.0], [3.0, 4.0]]), torch.zeros(2, 2, 1, dtype=torch.float64), bodies)
    torch.testing.assert_close(state.velocity[:, :, 0].t(), torch.tensor([[0.6, 0.8], [2.25, 3.0]], dtype=torch.float64))
    still = move(state_of([[0, 0], [1, 1]]), torch.zeros(2, 2, 1, dtype=torch.float64), bodies)
    assert still.velocity.abs().max() == 0.0


def test_contact_against_the_loop_over_pairs():
    g = torch.Generator().manual_seed(0)
    position, place = (0.3 * torch.randn(2, n, 50, generator=g, dtype=torch.float64) for n in (3, 2))
    sizes, solid = [0.1, 0.2, 0.3, 0.25, 0.15], [True, True, False, True, True]
    force = contact(position, place, reach_of(sizes[:3], sizes[3:], solid[:3], obstacles=True))
    everything = torch.cat([position, place], 1)
    for b in range(50):
        for i in range(3):
            total = [0.0, 0.0]
            for j in range(5):
                if i == j or not (solid[i] and solid[j]):
                    continue
                away = [float(everything[axis, i, b] - everything[axis, j, b]) for axis in range(2)]
                distance = math.hypot(*away)
                z = (sizes[i] + sizes[j] - distance) / 1e-3
                depth = 1e-3 * (z if z > 50 else math.log1p(math.exp(z)))
                total = [total[axis] + 100.0 * depth * away[axis] / distance for axis in range(2)]
            assert force[:, i, b].tolist() == pytest.approx(total, abs=1e-9)
    assert force[:, 2].abs().max() == 0.0


def test_equal_and_opposite_and_no_direction_at_one_place():
    reach = reach_of([0.2, 0.2])
    force = contact(state_of([[0.0, 0.0], [0.1, 0.2]]).position, torch.zeros(2, 0, 1, dtype=torch.float64), reach)
    torch.testing.assert_close(force[:, 0], -force[:, 1])
    assert float(force[0, 0, 0]) < 0.0
    assert contact(state_of([[0.3, 0.3], [0.3, 0.3]]).position, torch.zeros(2, 0, 1, dtype=torch.float64), reach).abs().max() == 0.0


def test_length():
    assert length(torch.tensor([[3.0, 0.0], [4.0, 0.0]])).tolist() == [5.0, 0.0]
