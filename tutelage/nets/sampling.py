"""Sampling from a language model, with the log-probability of every token that was drawn.

The library owns this loop because its log-probabilities must be those of the training pass: the same temperature, the same precision,
no filter that nobody recorded. The prompts are read once, each into a cache of keys and values; the cache is repeated for the samples
of a prompt; then one token is drawn per step and text, and texts that have ended leave the batch.
"""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from tutelage.nets.cache import roomy_cache
from tutelage.nets.language import LanguageModel, ModelError, real_positions


@dataclass(frozen=True)
class Sampled:
    """Prompts, padded left, each followed by its answer, padded right. The samples of a prompt lie one after the other."""

    tokens: Int[Tensor, "B T"]
    attention: Bool[Tensor, "B T"]
    """True on real tokens."""
    response: Bool[Tensor, "B T"]
    """True on the answer, its EOS included."""
    logp: Float[Tensor, "B T"]
    """Of each token of the answer under the model at the temperature, without filters; 0 elsewhere."""
    finished: Bool[Tensor, "B"]
    """The answer ended with EOS."""


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Int[Tensor, "N P"],
    attention: Bool[Tensor, "N P"],
    max_new_tokens: int,
    eos: int,
    generator: Generator | Float[Tensor, "max_new B"],
    temperature: float = 1.0,
    greedy: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    samples: int = 1,
) -> Sampled:
    """Draw answers until EOS or max_new_tokens. The model should be in the mode that it is scored in; dropout would make it another.

    attention: true on the prompts' real tokens, which end each row. generator: of one number per step and text, which decides what is
    drawn; or these numbers themselves, uniform in double precision. greedy: the most probable token, and nothing is drawn.
    top_k (0: off), top_p (1: off) and min_new_tokens bend the distribution away from the one that is reported, which earns a warning.
    Raises ModelError where a prompt is empty or not padded left, or does not leave room for an answer.
    """
    _check(model, prompts, attention, max_new_tokens, temperature)
    if (top_k or top_p < 1.0 or min_new_tokens) and not greedy:
        warnings.warn(
            f"sampling with top_k={top_k}, top_p={top_p}, min_new_tokens={min_new_tokens}: the log-probabilities are the whole "
            "distribution's, which these tokens were not drawn from, so that a KL estimated from them may be negative",
            stacklevel=2,
        )
    width, texts = prompts.shape[1], len(prompts) * samples
    real = attention.new_zeros(texts, width + max_new_tokens)
    real[:, :width] = attention.repeat_interleave(samples, 0)
    tokens = prompts.new_full(real.shape, eos)
    tokens[:, :width] = prompts.repeat_interleave(samples, 0)
    logp = torch.zeros(real.shape, device=prompts.device)
    finished = attention.new_zeros(texts)

    cache = roomy_cache(model.config, width + max_new_tokens)
    hidden = model.hidden(prompts, attention, real_positions(attention), cache)[:, -1]
    if samples > 1:
        cache.batch_repeat_interleave(samples)
        hidden = hidden.repeat_interleave(samples, 0)
    alive = torch.arange(texts, device=prompts.device)  # the rows that are still being written
    for t in range(width, width + max_new_tokens):
        logits = model.logits_of(hidden)
        if temperature != 1.0:
            logits = logits / temperature
        filtered = _filtered(logits, top_k, top_p, eos if t - width < min_new_tokens else None)
        # One number per text, also for those that ended: what is drawn does not depend on who else is still there.
        uniform = None if greedy else _uniform(generator, t - width, texts).to(prompts.device)
        drawn = filtered.argmax(-1) if uniform is None else _draw(filtered, uniform[alive])
        tokens[alive, t], real[alive, t] = drawn, True
        logp[alive, t] = logits.gather(1, drawn[:, None]).squeeze(1) - logits.logsumexp(-1)
        ends = drawn == eos
        finished[alive] = ends
        if ends.any():
            stay = (~ends).nonzero().squeeze(1)
            alive, drawn = alive[stay], drawn[stay]
            cache.batch_select_indices(stay)
        if len(alive) == 0 or t == width + max_new_tokens - 1:
            break
        sofar = real[alive, : t + 1]
        hidden = model.hidden(drawn[:, None], sofar, (sofar.sum(1) - 1)[:, None], cache)[:, -1]
    length = t + 1
    response = real.clone()
    response[:, :width] = False
    return Sampled(tokens[:, :length], real[:, :length], response[:, :length], logp[:, :length], finished)


def _filtered(logits: Tensor, top_k: int, top_p: float, forbidden: int | None) -> Tensor:
    """Logits with -inf where a token may not be drawn."""
    if forbidden is not None:
        logits = logits.clone()
        logits[:, forbidden] = -torch.inf
    if 0 < top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p  # the smallest set whose probability reaches top_p stays
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return logits


def _uniform(generator: Generator | Tensor, step: int, texts: int) -> Float[Tensor, "B"]:
    if isinstance(generator, Tensor):
        return generator[step]
    return torch.rand(texts, generator=generator, device=generator.device, dtype=torch.float64)


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """The first token at which the cumulative probability exceeds a uniform number."""
    cumulative = logits.softmax(-1).double().cumsum(-1)  # in single precision words late in a large vocabulary would add nothing
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)


def _check(model: LanguageModel, prompts: Tensor, attention: Tensor, max_new_tokens: int, temperature: float) -> None:
    if not attention[:, -1].all() or (attention[:, :-1] & ~attention[:, 1:]).any():
        row = int((~attention[:, -1] | (attention[:, :-1] & ~attention[:, 1:]).any(1)).nonzero()[0])
        raise ModelError(f"prompt {row} is empty or has padding after a real token; prompts to sample from are padded on the left")
    longest = int(attention.sum(1).max())
    if longest + max_new_tokens > model.context:
        raise ModelError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into the model's context of {model.context}"
        )
    if max_new_tokens < 1 or temperature <= 0.0:
        raise ModelError(f"max_new_tokens={max_new_tokens}, temperature={temperature}; both must be positive (greedy=True takes the best)")
