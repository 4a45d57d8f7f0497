"""Products by oneDNN: the same numbers as torch.bmm to rounding, and put into compiled graphs where they are large enough."""

from typing import Any

import pytest
import torch
from torch import Generator

from tutelage.nets.products import LEAST_WORK, SMALLEST, ByOneDNN


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_they_equal_those_of_torch(transposed: tuple[bool, bool]):
    g = Generator().manual_seed(0)
    a, b = torch.randn(3, 256, 256, generator=g), torch.randn(3, 256, 48, generator=g)
    assert LEAST_WORK <= 256 * 256 * 48
    a, b = (x.mT.contiguous().mT if turned else x for x, turned in zip((a, b), transposed, strict=True))
    compiled = torch.compile(torch.bmm, fullgraph=True, dynamic=False, options={"post_grad_custom_post_pass": ByOneDNN()})
    ours = compiled(a, b)
    torch.testing.assert_close(ours, torch.bmm(a.double(), b.double()).float(), atol=1e-4, rtol=1e-5)
    alone = torch.compile(torch.bmm, fullgraph=True, dynamic=False, options={"post_grad_custom_post_pass": ByOneDNN()})(a[1:2], b[1:2])
    assert torch.equal(ours[1:2], alone), "a member's bits depend on who is beside it"


def test_only_large_products_in_single_precision_are_replaced():
    class Counted(ByOneDNN):
        def __call__(self, graph: Any) -> None:
            super().__call__(graph)
            calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
            found.append((sum("products" in call for call in calls), sum("bmm" in call for call in calls)))

    def both(bias: Any, a: Any, b: Any) -> Any:
        return torch.baddbmm(bias, a, b), torch.bmm(a, b)

    # A graph that lies in torch's cache on disk, from an earlier run of the tests, would be taken without this pass being called.
    options = {"post_grad_custom_post_pass": Counted(), "fx_graph_cache": False}
    compiled = torch.compile(both, fullgraph=True, dynamic=False, options=options)
    g = Generator().manual_seed(0)
    rows = LEAST_WORK // (128 * SMALLEST) + 1
    large = (rows, SMALLEST, torch.float32)
    for N, width, dtype in (
        large,
        (rows, SMALLEST - 1, torch.float32),
        (rows, SMALLEST, torch.float64),
        (rows - 1, SMALLEST, torch.float32),
    ):
        found: list[tuple[int, int]] = []
        bias, a, b = (torch.randn(2, n, m, generator=g, dtype=dtype) for n, m in ((1, width), (N, 128), (128, width)))
        for one, other in zip(compiled(bias, a, b), both(bias, a, b), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
        assert found == [(2, 0) if (N, width, dtype) == large else (0, 2)]
