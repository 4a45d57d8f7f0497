"""Trees of tensors: nested observations and actions, taken apart, put together and flattened for an MLP.

A tree is one tensor, or a tuple or dict of trees (`spec.Nested`). Leaves are always visited in the order of the
space: tuples by position, dicts by sorted name.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from tutelage.games.spec import Box, DictSpace, Discrete, GameError, MultiBinary, MultiDiscrete, Nested, Space, TupleSpace

LeafSpace = Box | Discrete | MultiDiscrete | MultiBinary


def leaves(nested: Nested) -> list[Tensor]:
    """All tensors of the tree, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    branches = nested if isinstance(nested, tuple) else (nested[name] for name in sorted(nested))
    return [leaf for branch in branches for leaf in leaves(branch)]


def map_leaves(function: Callable[..., Tensor], first: Nested, *rest: Nested) -> Nested:
    """The tree whose leaves are function(leaf of first, leaf of each of the rest); all trees have one structure."""
    if isinstance(first, Tensor):
        return function(first, *rest)
    if isinstance(first, tuple):
        return tuple(map_leaves(function, *branches) for branches in zip(first, *rest, strict=True))
    return {name: map_leaves(function, first[name], *(tree[name] for tree in rest)) for name in sorted(first)}  # type: ignore[index]  # dicts, as `first` is


def stack(items: Sequence[Nested], dim: int = 0) -> Nested:
    """One tree from many of equal structure, stacked along a new dimension."""
    return map_leaves(lambda *tensors: torch.stack(tensors, dim), *items)


def unstack(nested: Nested, dim: int = 0) -> list[Nested]:
    """The inverse of `stack`: one tree per entry of dimension `dim`; the leaves are views."""

    def entry(i: int) -> Nested:
        def select(leaf: Tensor) -> Tensor:
            return leaf.select(dim, i)

        return map_leaves(select, nested)

    return [entry(i) for i in range(leaves(nested)[0].shape[dim])]


def leaf_spaces(space: Space) -> list[LeafSpace]:
    """The spaces of the leaves, in the order of `leaves`."""
    if isinstance(space, TupleSpace):
        return [leaf for child in space.spaces for leaf in leaf_spaces(child)]
    if isinstance(space, DictSpace):
        return [leaf for _, child in sorted(space.spaces) for leaf in leaf_spaces(child)]
    return [space]


def leaf_values(space: Space, value: Any) -> list[Any]:
    """As `leaves`, for a tree whose leaves may also be arrays or numbers. TypeError, KeyError or ValueError for another structure."""
    if isinstance(space, TupleSpace):
        if not isinstance(value, tuple | list):
            raise TypeError(f"{len(space.spaces)} entries in a tuple are expected, not {type(value).__name__}")
        branches = cast("Sequence[Any]", value)
        return [leaf for child, branch in zip(space.spaces, branches, strict=True) for leaf in leaf_values(child, branch)]
    if isinstance(space, DictSpace):
        if not isinstance(value, Mapping):
            raise TypeError(f"{len(space.spaces)} entries in a dict are expected, not {type(value).__name__}")
        named = cast("Mapping[str, Any]", value)
        return [leaf for name, child in sorted(space.spaces) for leaf in leaf_values(child, named[name])]
    return [value]


def from_leaves(space: Space, values: Sequence[Any]) -> Any:
    """The tree of `space` with these leaves (tensors give a Nested)."""

    def build(space: Space, remaining: Iterator[Any]) -> Any:
        if isinstance(space, TupleSpace):
            return tuple(build(child, remaining) for child in space.spaces)
        if isinstance(space, DictSpace):
            return {name: build(child, remaining) for name, child in sorted(space.spaces)}
        return next(remaining)

    return build(space, iter(values))


def leaf_shape(space: LeafSpace) -> tuple[int, ...]:
    """Shape of one value of a leaf space, as a tensor."""
    if isinstance(space, Discrete):
        return ()
    return (len(space.sizes),) if isinstance(space, MultiDiscrete) else space.shape


def leaf_dtype(space: LeafSpace) -> torch.dtype:
    """uint8 boxes stay uint8, every other box is float32; integers are int64 and binaries int8."""
    if isinstance(space, Box):
        return torch.uint8 if space.dtype == "uint8" else torch.float32
    return torch.int8 if isinstance(space, MultiBinary) else torch.int64


def observation_shape(space: Space) -> tuple[int, ...]:
    """Shape of `encode_observation` without its leading axes: (C, H, W) where the space is one image, else (D,).

    Raises GameError where an image lies among other entries.
    """
    return space.shape if _is_image(space) else (flat_width(space),)


def encode_observation(space: Space, nested: Nested) -> Tensor:
    """What nets are given: an image as its bytes `[*lead, C, H, W]`, anything else as one float vector `[*lead, D]`."""
    return cast(Tensor, nested) if _is_image(space) else flatten_observation(space, nested)


def action_width(space: Space) -> int:
    """A, the width of `flatten_action`."""
    return sum(math.prod(leaf_shape(leaf)) for leaf in leaf_spaces(space))


def flatten_action(space: Space, nested: Nested) -> Float[Tensor, "*lead A"]:
    """One float vector per action: the numbers of every leaf in order, an integer as the float that equals it (exact below 2^24).

    nested: leaves [*lead, *shape of the leaf's space]; A = action_width(space).
    """
    vectors: list[Tensor] = []
    for leaf_space, leaf in zip(leaf_spaces(space), leaves(nested), strict=True):
        shape = leaf_shape(leaf_space)
        vectors.append(leaf.reshape(*leaf.shape[: leaf.dim() - len(shape)], math.prod(shape)).float())
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def unflatten_action(space: Space, vector: Float[Tensor, "*lead A"]) -> Nested:
    """The inverse of `flatten_action`: what the game takes. Reals outside their box come to lie on its edge.

    A policy whose density has no bounds may choose beyond them, and learns from what it has chosen; the game never sees it.
    """
    if isinstance(space, Box) and len(space.shape) == 1 and space.dtype != "uint8":
        return _into_box(space, vector)
    if isinstance(space, Discrete):  # as below, in half the time; every step of a game passes here
        return vector[..., 0].long()
    spaces = leaf_spaces(space)
    pieces = torch.split(vector, [math.prod(leaf_shape(leaf)) for leaf in spaces], dim=-1)
    shaped = [
        piece.reshape(*vector.shape[:-1], *leaf_shape(leaf)).to(leaf_dtype(leaf)) for leaf, piece in zip(spaces, pieces, strict=True)
    ]  # fmt: skip
    return cast(Nested, from_leaves(space, [_into_box(leaf, piece) for leaf, piece in zip(spaces, shaped, strict=True)]))


def _into_box(space: LeafSpace, piece: Tensor) -> Tensor:
    bounds = _finite_bounds(space) if isinstance(space, Box) and space.dtype != "uint8" else None
    return piece if bounds is None else piece.clamp(bounds[0].to(piece.device), bounds[1].to(piece.device))


@lru_cache(maxsize=256)
def _finite_bounds(space: Box) -> tuple[Tensor, Tensor] | None:
    if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        return None
    return torch.as_tensor(space.low).float(), torch.as_tensor(space.high).float()


def action_bounds(space: Space, who: str) -> tuple[Float[Tensor, "A"], Float[Tensor, "A"]]:
    """Lowest and highest action of a vector of bounded reals. Raises GameError, naming who needs one, for any other space."""
    if isinstance(space, Box) and len(space.shape) == 1 and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return torch.as_tensor(space.low).float(), torch.as_tensor(space.high).float()
    raise GameError(f"{who} needs a vector of bounded continuous actions; this game's actions are {space}")


def legal_width(space: Space) -> int:
    """K, the width of a mask of legal actions: one entry per choice of every discrete leaf, in order."""
    return sum(
        leaf.n if isinstance(leaf, Discrete) else sum(leaf.sizes)
        for leaf in leaf_spaces(space)
        if isinstance(leaf, Discrete | MultiDiscrete)
    )


def flat_width(space: Space) -> int:
    """D, the width of `flatten_observation`. Raises GameError for an image."""
    return sum(_leaf_width(leaf) for leaf in leaf_spaces(space))


def flatten_observation(space: Space, nested: Nested) -> Float[Tensor, "*lead D"]:
    """One vector per observation: boxes flattened, integers one-hot, binaries as floats, in the order of `leaves`.

    nested: leaves [*lead, *shape of the leaf's space]; D = flat_width(space). Raises GameError for an image.
    """
    if isinstance(space, Box | Discrete) and isinstance(nested, Tensor):  # as below, without taking the tree apart
        return _flatten_leaf(space, nested)
    vectors = [_flatten_leaf(leaf_space, leaf) for leaf_space, leaf in zip(leaf_spaces(space), leaves(nested), strict=True)]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


def _is_image(space: Space) -> TypeGuard[Box]:
    return isinstance(space, Box) and space.dtype == "uint8" and len(space.shape) == 3


def _leaf_width(space: LeafSpace) -> int:
    if _is_image(space):
        raise GameError(f"an observation of {space.shape} bytes is an image, and an MLP needs vectors: use a convolutional body")
    if isinstance(space, Discrete):
        return space.n
    return sum(space.sizes) if isinstance(space, MultiDiscrete) else math.prod(space.shape)


def _flatten_leaf(space: LeafSpace, leaf: Tensor) -> Tensor:
    width = _leaf_width(space)
    if isinstance(space, Discrete):
        return one_hot(leaf.long(), width).float()
    if isinstance(space, MultiDiscrete):
        return torch.cat([one_hot(leaf[..., i].long(), size) for i, size in enumerate(space.sizes)], dim=-1).float()
    lead = leaf.shape[: leaf.dim() - len(space.shape)]
    return leaf.reshape(*lead, width).float()
