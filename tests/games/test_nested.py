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
