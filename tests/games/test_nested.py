"""Trees of tensors: taken apart and put together, and flattened as an independent slow version does it."""

from typing import Any

import numpy as np
import pytest
import torch

from tutelage.games import nested
from tutelage.games.spec import Box, DictSpace, Discrete, GameError, MultiBinary, MultiDiscrete, TupleSpace


def box(*shape: int, dtype: str = "float32") -> Box:
    return Box(shape, np.full(shape, 0.0), np.full(shape, 1.0), dtype)


SPACE = DictSpace(
    (
        ("arm", TupleSpace((box(2, 3), Discrete(4)))),
        ("eyes", MultiBinary((2, 2))),
        ("gears", MultiDiscrete((2, 3))),
    )
)


def observations(lead: tuple[int, ...]) -> dict:
    g = torch.Generator().manual_seed(0)
    draw = lambda high, *shape: torch.randint(high, (*lead, *shape), generator=g)
    return {
        "gears": torch.stack([draw(2), draw(3)], -1),
        "arm": (torch.rand(*lead, 2, 3, generator=g), draw(4)),
        "eyes": draw(2, 2, 2).to(torch.int8),
    }


def test_leaves_come_in_the_order_of_the_space():
    tree = observations((5,))
    shapes = [tuple(leaf.shape) for leaf in nested.leaves(tree)]
    assert shapes == [(5, 2, 3), (5,), (5, 2, 2), (5, 2)]
    assert shapes == [(5, *nested.leaf_shape(leaf)) for leaf in nested.leaf_spaces(SPACE)]
    rebuilt = nested.from_leaves(SPACE, nested.leaves(tree))
    assert rebuilt["arm"][0] is tree["arm"][0] and rebuilt["gears"] is tree["gears"]


@pytest.mark.parametrize("dim", [0, 1])
def test_stack_and_unstack_are_inverse(dim):
    tree = observations((3, 4))
    parts = nested.unstack(tree, dim)
    assert len(parts) == (3, 4)[dim]
    again = nested.stack(parts, dim)
    assert all(torch.equal(a, b) for a, b in zip(nested.leaves(tree), nested.leaves(again), strict=True))


def test_map_takes_several_trees_and_refuses_different_ones():
    tree = observations((3,))
    doubled: Any = nested.map_leaves(lambda a, b: a + b, tree, tree)
    assert torch.equal(doubled["arm"][0], 2 * tree["arm"][0])
    with pytest.raises(ValueError):
        nested.map_leaves(lambda a, b: a + b, tree["arm"], tree["arm"][:1])


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_flatten_against_a_slow_version(lead):
    tree = observations(lead)
    flat = nested.flatten_observation(SPACE, tree)
    assert flat.shape == (*lead, nested.flat_width(SPACE)) and flat.dtype == torch.float32
    for index in np.ndindex(*lead):
        box_part, discrete = tree["arm"][0][index], int(tree["arm"][1][index])
        gears = [int(gear) for gear in tree["gears"][index]]
        expected = [float(x) for row in box_part for x in row]
        expected += [float(i == discrete) for i in range(4)]
        expected += [float(bit) for row in tree["eyes"][index] for bit in row]
        expected += [float(i == gears[0]) for i in range(2)] + [float(i == gears[1]) for i in range(3)]
        assert flat[index].tolist() == expected


def test_a_vector_of_floats_is_not_copied():
    vector = torch.rand(4, 3)
    assert nested.flatten_observation(box(3), vector).data_ptr() == vector.data_ptr()


def test_bytes_are_flattened_and_images_are_refused():
    memory = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert nested.flatten_observation(box(2, dtype="uint8"), memory).tolist() == [[0.0, 255.0]]
    image = DictSpace((("camera", box(8, 8, 3, dtype="uint8")),))
    with pytest.raises(GameError, match=r"\(8, 8, 3\) bytes is an image, and an MLP needs vectors"):
        nested.flat_width(image)
    with pytest.raises(GameError, match="an MLP needs vectors"):
        nested.flatten_observation(image, {"camera": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)})


ACTION = TupleSpace((Discrete(3), box(2), DictSpace((("gears", MultiDiscrete((2, 4))), ("lamps", MultiBinary((2,)))))))


def test_actions_travel_as_one_vector_and_come_back():
    lamps = torch.tensor([[0, 1], [1, 1]], dtype=torch.int8)
    tree = (torch.tensor([2, 0]), torch.tensor([[0.5, 0.75], [1.0, 0.25]]), {"gears": torch.tensor([[1, 3], [0, 2]]), "lamps": lamps})
    vector = nested.flatten_action(ACTION, tree)
    assert vector.tolist() == [[2.0, 0.5, 0.75, 1.0, 3.0, 0.0, 1.0], [0.0, 1.0, 0.25, 0.0, 2.0, 1.0, 1.0]]
    assert nested.action_width(ACTION) == 7 and nested.legal_width(ACTION) == 3 + 2 + 4
    again = nested.unflatten_action(ACTION, vector)
    for one, two in zip(nested.leaves(tree), nested.leaves(again), strict=True):
        assert torch.equal(one, two) and one.dtype == two.dtype
    plain = torch.rand(4, 2)
    assert torch.equal(nested.leaves(nested.unflatten_action(box(2), plain))[0], plain)
    for space, flat, expected in ((Discrete(3), [[2.0], [1.0]], [2, 1]), (box(2, 2), [0.0, 0.25, 0.5, 1.0], [[0.0, 0.25], [0.5, 1.0]])):
        assert nested.leaves(nested.unflatten_action(space, torch.tensor(flat)))[0].tolist() == expected


def test_an_image_is_encoded_as_its_bytes_and_anything_else_as_a_vector():
    picture = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    space = box(1, 3, 4, dtype="uint8")
    assert nested.observation_shape(space) == (1, 3, 4) and nested.encode_observation(space, picture) is picture
    assert nested.observation_shape(SPACE) == (nested.flat_width(SPACE),)
    assert torch.equal(nested.encode_observation(SPACE, observations((2,))), nested.flatten_observation(SPACE, observations((2,))))
    with pytest.raises(GameError, match="is an image"):
        nested.observation_shape(TupleSpace((space, box(2))))


@pytest.mark.parametrize("space", [Discrete(2), box(2, 2), Box((1,), np.array([-np.inf]), np.array([1.0])), TupleSpace((box(1),))])
def test_bounds_belong_to_vectors_of_bounded_reals(space):
    low, high = nested.action_bounds(Box((2,), np.array([-2.0, 0.0]), np.array([1.0, 3.0])), "TD3")
    assert (low.tolist(), high.tolist()) == ([-2.0, 0.0], [1.0, 3.0])
    with pytest.raises(GameError, match="^TD3 needs a vector of bounded continuous actions; this game's actions are"):
        nested.action_bounds(space, "TD3")


def test_actions_outside_a_box_come_to_lie_on_its_edge():
    low, high = np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, 2.0, np.inf], np.float32)
    box, vector = Box((3,), low, high), torch.tensor([[-3.0, -9.0, -1.0], [0.5, 5.0, 7.0]])
    inside = torch.tensor([[-1.0, -9.0, 0.0], [0.5, 2.0, 7.0]])
    plain: Any = nested.unflatten_action(box, vector)
    assert torch.equal(plain, inside)
    tree: Any = nested.unflatten_action(TupleSpace((Discrete(4), box)), torch.cat([torch.full((2, 1), 3.0), vector], 1))
    assert tree[0].tolist() == [3, 3] and torch.equal(tree[1], inside)
    free = Box((3,), np.full(3, -np.inf, np.float32), np.full(3, np.inf, np.float32))
    assert nested.unflatten_action(free, vector) is vector
    assert torch.equal(vector[0], torch.tensor([-3.0, -9.0, -1.0]))
