"""Trees of states, split into named tensors and JSON and put together again."""

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

REFERENCE = "$tensor"


def pack(tree: Any) -> tuple[dict[str, Tensor], str]:
    """Tensors by path, and a JSON text in which each of them is replaced by a reference.

    Leaves are tensors, numpy arrays, numbers, strings, booleans or None; inner nodes dicts with string keys, lists and
    tuples (which come back as lists). Raises TypeError, naming the path, for anything else.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, np.ndarray):
            node = torch.as_tensor(np.array(cast("Any", node)))  # a copy: torch takes neither read-only nor backward arrays as they are
        if isinstance(node, Tensor):
            tensors[path] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {REFERENCE: path}
        if isinstance(node, Mapping):
            entries = cast("Mapping[Any, Any]", node)
            for key in entries:
                if not isinstance(key, str) or key == REFERENCE:
                    raise TypeError(f"a state has the key {key!r} at {path or 'its root'}; strings other than {REFERENCE!r} can be saved")
            return {key: walk(value, f"{path}/{_escape(key)}") for key, value in entries.items()}
        if isinstance(node, list | tuple):
            return [walk(value, f"{path}/{i}") for i, value in enumerate(cast("list[Any]", node))]
        if isinstance(node, np.generic):
            node = cast("Any", node).item()
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(
            f"a state holds a {type(node).__name__} at {path or 'its root'}; tensors, numbers, strings, dicts and lists can be saved"
        )

    return tensors, json.dumps(walk(tree, ""))


def unpack(tensors: Mapping[str, Tensor], text: str) -> Any:
    """The inverse of `pack`. Raises KeyError when a tensor that the text refers to is missing, ValueError when it is no JSON."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            entries = cast("dict[str, Any]", node)
            if entries.keys() == {REFERENCE}:
                return tensors[entries[REFERENCE]]
            return {key: walk(value) for key, value in entries.items()}
        return [walk(value) for value in cast("list[Any]", node)] if isinstance(node, list) else node

    return walk(json.loads(text))


def _escape(key: str) -> str:
    """As JSON pointers do (RFC 6901): {"a/b": x} and {"a": {"b": y}} have different paths."""
    return key.replace("~", "~0").replace("/", "~1")
