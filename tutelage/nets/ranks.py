"""One net in several processes: each holds a slice of every weight and of the optimizer's moments, and learns from its share of each batch.

`torchrun --nproc-per-node 2 -m tutelage train ...` starts the processes (ranks). All of them build the same net and draw the same batches;
`shard` cuts the net up (FSDP2), so that a layer's weights are whole only while the layer is at work, and `share` gives each rank its
rows. Gradients are summed over ranks: a loss that is divided by what the whole batch holds has the gradient of one process.
Without torchrun there is one rank, and each function here does nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

Row = TypeVar("Row")

FORWARD = ("hidden", "logits_of", "logits", "log_probs", "scores", "values")
"""Methods of our nets that need whole weights."""


class RankLost(RuntimeError):
    """Another process of the run is gone; one sentence says how to go on."""


@contextmanager
def joined(seconds: float = 600.0) -> Iterator[int]:
    """Meet the other ranks that torchrun started, if it did, and part at the end; gives this process's rank.

    seconds: how long a rank waits for another one. Raises RankLost when one of them ends early. Inside another `joined` it does nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield rank()
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))
    try:
        yield rank()
    except RuntimeError as error:
        if not any(word in str(error) for word in ("onnection", "imed out", "NCCL", "peer")):
            raise
        raise RankLost(
            f"rank {rank()} of {ranks()} lost another process of the run; the newest checkpoint is whole, and `resume` continues from it, "
            f"with as many processes or with fewer ({str(error).strip().partition(chr(10))[0][:100]})"
        ) from None
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process; rank 0 writes the run."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    """How many processes share the work."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shard(*nets: nn.Module | None) -> None:
    """Cut the weights of LanguageModels and ScoreModels up, layer by layer, in place; None is passed over. One rank leaves them whole.

    Whoever learns calls it before its optimizer looks at the weights and after it has taken its copies: what is cut up cannot be copied.
    """
    for net in nets if ranks() > 1 else ():
        if net is not None and not isinstance(net, FSDPModule):
            _shard(net)


def _shard(net: nn.Module) -> None:
    if getattr(net, "adapted", None) is not None:
        raise ValueError("a model with adapters was to be cut up over processes; adapters learn in one process, or without them in many")
    body: Any = getattr(net, "module", None) or net.backbone
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (ranks(),))
    how: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True}
    for layer in [part for part in body.modules() if type(part).__name__ in (body._no_split_modules or ())]:
        fully_shard(layer, **how)
    fully_shard(net, **how)
    for part in net.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo can do nothing else
    for name in FORWARD:
        if hasattr(net, name):
            register_fsdp_forward_method(net, name)


@contextmanager
def gathered(net: nn.Module) -> Iterator[None]:
    """Every rank has whole weights inside, so that each may go through the net as often as it likes, as in writing texts of its own."""
    parts = [part for part in net.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def share(rows: Sequence[Row]) -> Sequence[Row]:
    """Every how-many-th row, from this rank's number on; none where a batch has fewer rows than there are ranks."""
    return rows[rank() :: ranks()]


def total(number: float) -> float:
    """The sum over all ranks."""
    if ranks() == 1:
        return number
    return float(summed(torch.tensor(number, dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")))


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, entry by entry. What each rank fills in at its own places, and leaves 0 elsewhere, comes together so."""
    if ranks() == 1:
        return tensor
    both = tensor.to(torch.int8) if tensor.dtype == torch.bool else tensor.clone()
    distributed.all_reduce(both)
    return both.to(tensor.dtype)


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Numbers that each rank measured on its share, as their means over ranks."""
    return {name: total(value) / ranks() for name, value in metrics.items()}


def whole(tree: Any) -> Any:
    """The same tree with every slice of a weight replaced by the whole weight; tied ones stay one. All ranks must call it."""
    found: dict[int, Tensor] = {}

    def walk(part: Any) -> Any:
        if isinstance(part, DTensor):
            if id(part) not in found:
                with torch.no_grad():
                    found[id(part)] = part.full_tensor()
            return found[id(part)]
        if isinstance(part, Mapping):
            return {name: walk(value) for name, value in part.items()}
        return [walk(value) for value in part] if isinstance(part, list) else part

    return walk(tree)


def like(value: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor cut up as `weight` is, or as it is where that is whole."""
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
