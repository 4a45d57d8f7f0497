"""Products of stacked matrices in compiled updates, by oneDNN where MKL does not use the processor's widest vectors.

MKL, which PyTorch calls for a batched product on CPUs, keeps to AVX2 on AMD's processors; oneDNN, which comes with PyTorch too, takes
AVX-512 wherever it is (Zen 5, one thread, 6 x 256 x 256 x 256: 2.3 ms by MKL, 1.1 ms by oneDNN). It has no batched product that PyTorch
would hand out, so that a compiled graph is rewritten: each large product becomes one call for each member, in single precision as before.
"""

from functools import cache
from math import prod

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph
from torch.library import Library

SMALLEST, LEAST_WORK = 32, 2_000_000
"""Of the three sizes of a product, and multiplications of one member: below, the calls cost more than they save. One thread of a Zen 5,
widths of 64: 256 rows take 21 microseconds by MKL and 23 so, 1,024 rows 82 and 53, 32 rows 4 and 16."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm` of `[M, N, K]` and `[M, K, O]`, by oneDNN, without gradient."""
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return torch.stack([multiply(x, y, None, "none", [], "") for x, y in zip(a.unbind(0), b.mT.unbind(0), strict=True)])


@cache
def operators() -> Library:
    """`products` as an operator that a compiled graph may call, for as long as this process lives."""
    library = Library("tutelage", "DEF")
    library.define("products(Tensor a, Tensor b) -> Tensor")
    library.impl("products", products, "CPU")
    torch.library.register_fake("tutelage::products", lambda a, b: a.new_empty(a.shape[0], a.shape[1], b.shape[2]), lib=library)
    return library


class ByOneDNN(CustomGraphPass):
    """Replaces large single-precision products of a compiled graph."""

    def __init__(self) -> None:
        self._operators = operators()

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        aten = torch.ops.aten
        targets = (aten.bmm.default, aten.baddbmm.default)
        for node in [node for target in targets for node in graph.find_nodes(op="call_function", target=target)]:
            *added, a, b = node.args
            x, y = a.meta["val"], b.meta["val"]
            sizes = (*x.shape[1:], y.shape[2])
            small = min(sizes) < SMALLEST or prod(sizes) < LEAST_WORK
            if node.kwargs or small or x.device.type != "cpu" or x.dtype != torch.float32:
                continue
            with graph.inserting_before(node):
                new = graph.call_function(torch.ops.tutelage.products.default, (a, b))
                new.meta["val"] = node.meta["val"]
                if added:
                    new = graph.call_function(aten.add.Tensor, (new, added[0]))
                    new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            graph.erase_node(node)

    def uuid(self) -> bytes:
        """Of what is compiled with this pass, for the compiler's cache."""
        return get_hash_for_files((__file__,))
