"""What a frozen language model writes: how good by a gold score, how far from a reference, and what is the best at that distance.

KL has one definition here: log pi(y|x) - log pi_ref(y|x), summed over the answer's tokens, EOS included, both at the temperature that
the answer was drawn at; its mean over answers that pi drew estimates KL(pi || pi_ref) in nats per answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import pad

from tutelage.equations.divergences import kl_k1
from tutelage.equations.optimization_pressure import best_of_n_kl, best_of_n_mean, regularized_optimum
from tutelage.evaluate.win_rates import WinRate, outcomes, win_rate
from tutelage.experience.text import TextBatch, pad_left
from tutelage.nets.language import LanguageModel
from tutelage.nets.sampling import sample

Gold = Callable[[TextBatch], Float[Tensor, "B"]]
"""The score of every text of a batch: a world's, or a proxy's."""


@dataclass(frozen=True)
class Answers:
    """What a model wrote to N prompts, those to one prompt one after the other."""

    text: TextBatch
    """Prompts padded left, answers right."""
    logp: Float[Tensor, "N T"]
    """Of the model that wrote, at its temperature; 0 outside of the answers."""
    finished: Bool[Tensor, "N"]

    @property
    def length(self) -> Float[Tensor, "N"]:
        """Tokens of each answer, EOS included."""
        return self.text.response.sum(1).float()


@torch.no_grad()
def answer(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos: int,
    generator: Generator,
    temperature: float = 1.0,
    greedy: bool = False,
    samples: int = 1,
    microbatch: int = 512,
) -> Answers:
    """Answers to prompts of tokens, `samples` to each, at most `microbatch` texts at once."""
    batch = pad_left(prompts, eos).to(model.device)
    width, at_once = batch.tokens.shape[1] + max_new_tokens, max(microbatch // samples, 1)
    parts: list[Answers] = []
    for start in range(0, len(batch), at_once):
        part = batch[slice(start, start + at_once)]
        drawn = sample(
            model, part.tokens, part.attention, max_new_tokens, eos, generator, temperature=temperature, greedy=greedy, samples=samples
        )
        room = (0, width - drawn.tokens.shape[1])
        text = TextBatch(pad(drawn.tokens, room, value=eos), pad(drawn.attention, room), pad(drawn.response, room))
        parts.append(Answers(text, pad(drawn.logp, room), drawn.finished))
    join = lambda get: torch.cat([get(part) for part in parts])
    text = TextBatch(join(lambda a: a.text.tokens), join(lambda a: a.text.attention), join(lambda a: a.text.response))
    return Answers(text, join(lambda a: a.logp), join(lambda a: a.finished))


@torch.no_grad()
def answer_kl(answers: Answers, reference: LanguageModel, temperature: float = 1.0, microbatch: int = 512) -> Float[Tensor, "N"]:
    """log pi(y|x) - log pi_ref(y|x) of each answer, in nats; negative for some, on average not."""
    found: list[Tensor] = []
    for start in range(0, len(answers.text), microbatch):
        rows = slice(start, start + microbatch)
        part = answers.text[rows]
        theirs = reference.log_probs(part.tokens, part.attention, part.response, temperature)
        found.append(torch.where(part.response, kl_k1(answers.logp[rows], theirs), 0.0).sum(1))
    return torch.cat(found)


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    mean: float
    error: float


def mean_with_error(x: Float[Tensor, "N"]) -> Mean:
    """Of independent numbers; the error is the sample's standard deviation over sqrt(N)."""
    return Mean(float(x.mean()), float(x.std()) / len(x) ** 0.5 if len(x) > 1 else float("inf"))


@dataclass(frozen=True)
class Evaluation:
    """A model on some prompts, at one temperature."""

    gold: Mean
    kl: Mean
    """In nats per answer, from the reference."""
    win: WinRate
    """Against answers of the opponent to the same prompts, by gold."""
    length: float
    finished: float
    """Share of answers with EOS."""
    empty: float
    """Share of answers that are EOS and nothing else."""
    distinct: float
    """Different answers over all answers: near 0 for one answer to everything."""


def evaluate_model(
    model: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Sequence[int]],
    gold: Gold,
    opponent: Answers,
    max_new_tokens: int,
    eos: int,
    generator: Generator,
    temperature: float = 1.0,
) -> tuple[Evaluation, Answers]:
    """One answer to each prompt, scored, measured against the reference and matched with the opponent's answer to the same prompt."""
    answers = answer(model, prompts, max_new_tokens, eos, generator, temperature)
    score, other = gold(answers.text), gold(opponent.text)
    length, texts = answers.length, answers.text
    written = {tuple(tokens[mask].tolist()) for tokens, mask in zip(texts.tokens, texts.response, strict=True)}
    return Evaluation(
        mean_with_error(score),
        mean_with_error(answer_kl(answers, reference, temperature)),
        win_rate(outcomes(score, other), generator, length, opponent.length),
        float(length.mean()),
        float(answers.finished.float().mean()),
        float(((length <= 1) & answers.finished).float().mean()),
        len(written) / len(answers.text),
    ), answers


@torch.no_grad()
def reference_draws(
    reference: LanguageModel,
    prompts: Sequence[Sequence[int]],
    scores: Sequence[Gold],
    draws: int,
    max_new_tokens: int,
    eos: int,
    generator: Generator,
    microbatch: int = 2048,
) -> Float[Tensor, "S P draws"]:
    """Scores of many answers of the reference to each prompt, by each way of scoring: what a frontier and best-of-n are made of."""
    found: list[Tensor] = []
    for prompt in prompts:
        each = [min(microbatch, draws - start) for start in range(0, draws, microbatch)]
        parts = [answer(reference, [prompt], max_new_tokens, eos, generator, samples=count, microbatch=count).text for count in each]
        found.append(torch.stack([torch.cat([score(part) for part in parts]) for score in scores]))
    return torch.stack(found, 1)


@dataclass(frozen=True)
class FrontierPoint:
    """The best gold that any policy can have at this KL, over prompts of given shares."""

    beta: float
    kl: float
    gold: float
    error: float
    """Standard error of gold at this KL, from draws split in ten."""
    effective_draws: float
    """Of the prompt that has fewest; below 50 the point is too low."""


def exact_frontier(gold: Float[Tensor, "P draws"], betas: Sequence[float], shares: Float[Tensor, "P"] | None = None) -> list[FrontierPoint]:
    """The KL-regularized optimum at each price of a nat, from draws of the reference, averaged over prompts. shares: of the prompts."""
    weight = (gold.new_ones(len(gold)) if shares is None else shares.to(gold.device)).double()
    weight = weight / weight.sum()
    points: list[FrontierPoint] = []
    for beta in betas:
        whole = regularized_optimum(gold, beta)
        tenths = [regularized_optimum(part, beta) for part in gold.chunk(10, 1)]
        # At a fixed price a tenth that found more gold also went further: what counts is the distance from the tangent, of slope beta.
        above = torch.stack(
            [((part.gold - beta * part.kl) * weight).sum() if beta != float("inf") else part.gold @ weight for part in tenths]
        )
        error = float(above.std()) / len(tenths) ** 0.5
        points.append(FrontierPoint(beta, float(whole.kl @ weight), float(whole.gold @ weight), error, float(whole.effective_draws.min())))
    return points


def optimum_at(frontier: Sequence[FrontierPoint], kl: float, least_draws: float = 50.0) -> tuple[float, float] | None:
    """(gold, slope) that nothing exceeds at a KL; None beyond the last point that has enough draws.

    The frontier is concave and its slope at a point is the price beta, so that it lies below all of its tangents and above every chord.
    """
    known = [point for point in frontier if point.effective_draws >= least_draws and point.beta < float("inf")]
    if not known or kl > max(point.kl for point in known):
        return None
    return min((point.gold + point.beta * (kl - point.kl), point.beta) for point in known)


def excess(evaluation: Evaluation, frontier: Sequence[FrontierPoint]) -> float | None:
    """By how many standard errors a model lies above the best that is possible; None where the frontier is not known.

    More than three say that something is measured wrongly: a temperature, a masked EOS, a filter of the sampler, or a leak of gold.
    """
    best = optimum_at(frontier, max(evaluation.kl.mean, 0.0))
    if best is None:
        return None
    optimum, slope = best
    error = max(point.error for point in frontier)
    return (evaluation.gold.mean - optimum) / (evaluation.gold.error**2 + (slope * evaluation.kl.error) ** 2 + error**2) ** 0.5


def best_of_n_curve(
    proxy: Float[Tensor, "P draws"], gold: Float[Tensor, "P draws"], counts: Sequence[int], shares: Float[Tensor, "P"] | None = None
) -> list[tuple[float, float, float]]:
    """(KL, proxy, gold) of choosing the best of n by the proxy; KL is the bound log n - (n - 1) / n."""
    weight = (gold.new_ones(len(gold)) if shares is None else shares).to(gold)
    weight = weight / weight.sum()
    at_once = 512  # ties are looked for among all pairs of draws
    found: list[tuple[float, float, float]] = []
    for n in counts:
        means = [
            torch.stack([best_of_n_mean(p, x, n) for x in (p, g)], 1)
            for p, g in zip(proxy.split(at_once, 1), gold.split(at_once, 1), strict=True)
            if p.shape[1] >= n
        ]
        if not means:
            raise ValueError(f"n={n} was asked for with {gold.shape[1]} draws in parts of {at_once}; a smaller n is needed")
        by_proxy, by_gold = (torch.stack(means).mean(0).mT @ weight).tolist()
        found.append((best_of_n_kl(n), by_proxy, by_gold))
    return found
