"""Trees of states, split into named tensors and JSON and put together again."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(tree: Any) -> tuple[dict[str, Tensor], str]:
    """Tensors by path, and a JSON text in which each of them is replaced by a reference.

    Leaves are tensors, numpy arrays, numbers, strings, booleans or None; inner nodes dicts with string keys, lists and
    tuples (which come back as lists). Raises TypeError, naming the path, for anything else.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, np.ndarray):
            node = torch.from_numpy(node)
        if isinstance(node, Tensor):
            tensors[path] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"$tensor": path}
        if isinstance(node, Mapping):
            return {str(key): walk(value, f"{path}/{key}") for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [walk(value, f"{path}/{i}") for i, value in enumerate(node)]
        if isinstance(node, np.generic):
            return node.item()
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"a state holds a {type(node).__name__} at {path or 'its root'}; tensors, numbers, strings, dicts and lists can be saved")

    return tensors, json.dumps(walk(tree, ""))


def unpack(tensors: Mapping[str, Tensor], text: str) -> Any:
    """The inverse of `pack`. Raises KeyError when a tensor that the text refers to is missing."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            if node.keys() == {"$tensor"}:
                return tensors[node["$tensor"]]
            return {key: walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    return walk(json.loads(text))
