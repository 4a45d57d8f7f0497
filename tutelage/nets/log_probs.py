"""Log-probabilities of chosen tokens without the logits of all of them.

A batch of 8 x 1,024 tokens over 150,000 words has 5 GB of logits, and a softmax with its gradient keeps them three times. What a loss
needs is one number per token, so the rows are done in pieces: a piece's logits live until its numbers are known, and once more in the
backward pass, which computes them again. Value and gradient are those of the full log-softmax.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tutelage.nets.fast_linear import product

LOGITS_AT_ONCE = 2**22
"""Of one piece: 16 MB in single precision."""


def chosen_log_probs(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, "V"] | None,
    chosen: Int[Tensor, "N"],
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Float[Tensor, "N"]:
    """log softmax((W h + b) / temperature) at the chosen words, in single precision.

    chunk: rows of a piece; None: as many as `LOGITS_AT_ONCE` permits.
    """
    return _ChosenLogProbs.apply(hidden, weight, bias, chosen, temperature, chunk or _rows(weight))


def _rows(weight: Tensor) -> int:
    return max(LOGITS_AT_ONCE // len(weight), 1)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """In single precision whatever the products were computed in: a sum over all words needs the digits."""
    logits = product(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


class _ChosenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chosen: Tensor, temperature: float, chunk: int) -> Tensor:
        chosen_logit, norm = hidden.new_empty(len(hidden), dtype=torch.float32), hidden.new_empty(len(hidden), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            piece = slice(start, start + chunk)
            logits = _logits(hidden[piece], weight, bias, temperature)
            norm[piece] = logits.logsumexp(-1)
            chosen_logit[piece] = logits.gather(1, chosen[piece, None]).squeeze(1)
        last = logits if len(hidden) else None  # as large as any piece, and one piece less to compute again
        ctx.save_for_backward(hidden, weight, bias, chosen, norm, last)
        ctx.temperature, ctx.chunk = temperature, chunk
        return chosen_logit - norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """d log p(y) / d logits = (1[y] - p) / temperature."""
        hidden, weight, bias, chosen, norm, last = ctx.saved_tensors
        gradient = gradients[0] / ctx.temperature
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), ctx.chunk):
            piece = slice(start, start + ctx.chunk)
            g = gradient[piece, None]
            known = start + ctx.chunk >= len(hidden)
            logits = last if known else _logits(hidden[piece], weight, bias, ctx.temperature)
            to_logits = (logits - norm[piece, None]).exp_().mul_(-g)
            to_logits = to_logits.scatter_add_(1, chosen[piece, None], g).to(weight.dtype)
            to_hidden[piece] = product(to_logits, weight.T)
            if to_weight is not None:
                to_weight += product(to_logits.T, hidden[piece].T)
            if to_bias is not None:
                to_bias += to_logits.sum(0)
        return to_hidden, to_weight, to_bias, None, None, None
