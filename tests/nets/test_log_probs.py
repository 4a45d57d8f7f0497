"""Log-probabilities in pieces against the full log-softmax: the same numbers, the same gradients."""

import pytest
import torch
from torch import Tensor

from tutelage.nets.log_probs import chosen_log_probs


def layer(rows: int = 7, width: int = 5, words: int = 11, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(rows, width, generator=g), torch.randn(words, width, generator=g)
    return hidden, weight, torch.randn(words, generator=g), torch.randint(words, (rows,), generator=g)


def test_hand_constants():
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 3)
    for temperature, expected in ((1.0, [-0.4076, -1.4076, -2.4076]), (0.7, [-0.2601, -1.6887, -3.1173])):
        logp = chosen_log_probs(logits, torch.eye(3), None, torch.arange(3), temperature)
        torch.testing.assert_close(logp, torch.tensor(expected), atol=5e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("biased", [False, True])
def test_pieces_equal_the_full_log_softmax_in_value_and_gradient(chunk: int | None, temperature: float, biased: bool):
    hidden, weight, bias, chosen = layer()
    ours = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    full = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    weights = torch.linspace(-1.0, 2.0, len(hidden))  # so that every row's gradient differs
    logp = chosen_log_probs(ours[0], ours[1], ours[2] if biased else None, chosen, temperature, chunk)
    logits = torch.nn.functional.linear(full[0], full[1], full[2] if biased else None) / temperature
    expected = logits.log_softmax(-1).gather(1, chosen[:, None]).squeeze(1)
    torch.testing.assert_close(logp, expected, atol=1e-6, rtol=1e-6)
    (logp * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(ours[: 2 + biased], full, strict=False):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-6)


def test_gradient_check_in_double_precision():
    # Values are in single precision, so the check compares derivatives, not their digits beyond it.
    hidden, weight, _, chosen = layer(rows=3)
    hidden = hidden.requires_grad_()
    (gradient,) = torch.autograd.grad(chosen_log_probs(hidden, weight, None, chosen, chunk=2).sum(), hidden)
    step = 1e-2
    for row, column in ((0, 0), (2, 4)):
        ahead, behind = hidden.detach().clone(), hidden.detach().clone()
        ahead[row, column] += step
        behind[row, column] -= step
        change = chosen_log_probs(ahead, weight, None, chosen).sum() - chosen_log_probs(behind, weight, None, chosen).sum()
        assert gradient[row, column].item() == pytest.approx(change.item() / (2 * step), abs=2e-3)


def test_a_frozen_layer_gets_no_gradient():
    hidden, weight, _, chosen = layer()
    chosen_log_probs(hidden.requires_grad_(), weight, None, chosen, chunk=3).sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_no_rows():
    hidden, weight, _, chosen = layer()
    empty = hidden[:0].requires_grad_()
    chosen_log_probs(empty, weight, None, chosen[:0]).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 5)


def test_half_precision_adds_up_in_single():
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(4, 16, generator=g).bfloat16(), torch.randn(5000, 16, generator=g).bfloat16()
    chosen = torch.tensor([0, 10, 4999, 7])
    expected = (hidden @ weight.T).float().log_softmax(-1)[torch.arange(4), chosen]
    torch.testing.assert_close(chosen_log_probs(hidden, weight, None, chosen, chunk=3), expected, atol=1e-5, rtol=1e-5)
