"""A reward model of texts: a score for each answer, fitted to orders that raters gave to several answers to one prompt.

Stiennon et al. 2020 (arXiv 2009.01325), section 3.4, for pairs; Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), eq. 1, for orders of
K answers. A language model's body gets a head of one number, read at the last token, EOS included. All pairs of a prompt are one element
of the batch: K passes of the net and one mean, where shuffled pairs would teach each answer up to K - 1 times per pass and overfit.
After the fit a constant is added so that demonstrations have the mean score 0.

Where we depart from the paper
- Pairs are orders of two: one loss, one Learner. The prompts of a batch weigh the same, however many answers each has.
- Ties may be kept: as half a preference each way, or as an answer of their own; the paper drops them.
- Several members are several models, each with its own head and its own order of the data, for disagreement.
Left out: the gain of Ziegler et al. 2019 (the shift is all that later papers keep), mixing in their tasks of public sets.
Landscape: model-free, off-policy, offline; discrete actions; scale: deep
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from tutelage.equations.preferences import bradley_terry_loss
from tutelage.equations.rankings import ordered_pairs, pairwise_ranking_loss, plackett_luce_loss, weak_preference_loss
from tutelage.experience.text import Encoded, pad_right
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, mean_metrics, pieces, set_dropout, shared, spawned
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import ScoreModel
from tutelage.nets.ranks import ranks, shard


@dataclass(frozen=True)
class Config(Settings):
    """Settings of a reward model."""

    members: int = 1
    """Models of an ensemble, each from its own head and order (Coste et al. 2023: 5)."""
    epochs: int = 1
    """Passes over the prompts (InstructGPT: 1, and it is very sensitive to more; 1,300 prompts of a toy language want 6)."""
    batch_size: int = 64
    """Prompts per update (InstructGPT, Stiennon: 64)."""
    microbatch: int | None = None
    """Prompts through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 1.5e-5
    """At its highest (Stiennon for 1.3B: 1.5e-5; InstructGPT: 9e-6; TRL: 1e-4; a net of 30,000 weights wants 1e-3)."""
    optimizer: Optimization = field(default_factory=Optimization)
    """Schedule, moments, clipping."""
    loss: Literal["pairs", "plackett-luce"] = "pairs"
    """The mean over a prompt's pairs (InstructGPT), or the likelihood of the whole order."""
    ties: Literal["dropped", "half", "weak"] = "dropped"
    """Of pairs that were ranked alike: no pair (InstructGPT); half a preference each way; an answer of its own (Rao & Kupper)."""
    tie_threshold: float = 0.5
    """With ties "weak": gap of scores, in nats, up to which "about equal" is likely (no source)."""
    rater_error: float = 0.0
    """With ties "half": share of answers given at random, inside the likelihood (Christiano: 0.1; InstructGPT: 0)."""
    center: float = 0.0
    """Coefficient of the squared sum of the best and the worst score, which keeps scores near 0 (TRL: 0.01 where it is on)."""
    shuffled_pairs: bool = False
    """Every pair is an element of its own, as InstructGPT warns against; to measure what it costs. A batch is then so many pairs."""
    bootstrap: bool = False
    """Every member draws its own prompts with replacement."""


class Ranking(NamedTuple):
    """Several answers to one prompt, each with its prompt before it, and their order."""

    texts: tuple[Encoded, ...]
    ranks: tuple[int, ...]
    """Per text: 1 is best, equal numbers are a tie."""
    margin: float = 0.0
    """Of a pair: the gap that the scores should have at least."""


def reward_model_loss(
    score: Float[Tensor, "P K"],
    rank: Int[Tensor, "P K"],
    mask: Bool[Tensor, "P K"],
    margin: Float[Tensor, "P"],
    config: Config,
) -> Float[Tensor, "P"]:
    """Of each prompt, not reduced. mask: places that hold an answer. margin: taken off the best score, so off the gap of a pair."""
    best = torch.where(mask, rank, rank.max() + 1).amin(1, keepdim=True)
    shifted = score - torch.where(rank == best, margin[:, None], 0.0)
    if config.loss == "plackett-luce":
        loss = plackett_luce_loss(shifted, rank, mask)
    elif config.ties == "dropped":
        loss = pairwise_ranking_loss(shifted, ordered_pairs(rank, mask))
    else:
        loss = _with_ties(shifted, rank, mask, config)
    if config.center:
        worst = torch.where(mask, rank, 0).amax(1, keepdim=True)
        ends = [torch.where((rank == end) & mask, score, 0.0).sum(1) / ((rank == end) & mask).sum(1).clamp(min=1) for end in (best, worst)]
        loss = loss + config.center * (ends[0] + ends[1]).square()
    return loss


def _with_ties(score: Tensor, rank: Tensor, mask: Tensor, config: Config) -> Float[Tensor, "P"]:
    """The mean over all pairs of a prompt, those that were ranked alike too."""
    upper = torch.ones(rank.shape[1], rank.shape[1], dtype=torch.bool, device=rank.device).triu(1)
    pairs = mask[:, :, None] & mask[:, None, :] & upper
    logit = torch.where(pairs, score[:, :, None] - score[:, None, :], 0.0)
    label = 0.5 + 0.5 * (rank[:, None, :] - rank[:, :, None]).sign().to(score.dtype)
    if config.ties == "weak":
        loss = weak_preference_loss(logit, label, config.tie_threshold)
    else:
        loss = bradley_terry_loss(logit, label, config.rater_error)
    return torch.where(pairs, loss, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def in_pairs(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Every pair of every prompt as an order of two; ties are left out."""
    found: list[Ranking] = []
    for ranking in rankings:
        for i, j in combinations(range(len(ranking.texts)), 2):
            if ranking.ranks[i] != ranking.ranks[j]:
                better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
                found.append(Ranking((ranking.texts[better], ranking.texts[worse]), (1, 2), ranking.margin))
    return found


class RewardModel:
    """E score models and the orders that they learn from."""

    def __init__(self, config: Config, models: Sequence[ScoreModel], rankings: Sequence[Ranking], generator: Generator) -> None:
        """models: one per member, their heads fresh. Raises TrainingError for a prompt that orders nothing."""
        if len(models) != config.members:
            raise TrainingError(f"{len(models)} models were given for members={config.members}; one each is needed")
        for number, ranking in enumerate(rankings):
            if len(ranking.texts) != len(ranking.ranks) or len(ranking.texts) < 2:
                raise TrainingError(
                    f"prompt {number} has {len(ranking.texts)} answers and {len(ranking.ranks)} ranks; two or more of each are needed"
                )
            if config.ties == "dropped" and len(set(ranking.ranks)) < 2:
                raise TrainingError(
                    f"prompt {number} has only answers that are ranked alike, which orders nothing; leave it out, or keep ties"
                )
        for model in models:
            set_dropout(model, 0.0)
        shard(*models)
        self.config, self.models, self.rankings = config, list(models), list(rankings)
        self.elements = in_pairs(rankings) if config.shuffled_pairs else self.rankings  # of a batch
        count = len(self.elements)
        self.passes = [Passes(count, config.batch_size, spawned(generator)) for _ in models]
        drawn = lambda: torch.randint(count, (count,), generator=generator).tolist()
        self.rows = [drawn() if config.bootstrap else list(range(count)) for _ in models]  # which elements are each member's
        self.descents = [Descent(dict(model.named_parameters()), config.learning_rate, config.optimizer) for model in models]
        self.updates, self.total = 0, config.epochs * self.passes[0].per_pass

    def update(self) -> dict[str, float]:
        """One step of every member on its next batch."""
        members = zip(self.models, self.passes, self.rows, self.descents, strict=True)
        found = [self._step(model, [self.elements[rows[i]] for i in own.take()], descent) for model, own, rows, descent in members]
        self.updates += 1
        return mean_metrics(found)

    def _step(self, model: ScoreModel, batch: Sequence[Ranking], descent: Descent) -> dict[str, float]:
        scores, gaps, loss = [], [], 0.0
        for part, weight in shared(batch, self.config.microbatch):
            score, rank, mask, margin = score_rankings(model, part)
            piece = weight * reward_model_loss(score, rank, mask, margin, self.config).sum() / len(batch)
            piece.backward()
            loss += ranks() * float(piece.detach())
            score = score.detach()
            scores.append(score[mask])
            gaps.append((score[:, :, None] - score[:, None, :])[ordered_pairs(rank, mask)])
        metrics = {"loss": loss} | _measures(torch.cat(scores), torch.cat(gaps))
        return metrics | descent.step(self.updates, self.total)

    @torch.no_grad()
    def evaluate(self, rankings: Sequence[Ranking]) -> dict[str, float]:
        """Loss and, where any order is no tie, accuracy on orders that were not learned from, the mean over the members."""
        found: list[dict[str, float]] = []
        for model in self.models:
            parts = [score_rankings(model, part) for part in pieces(rankings, self.config.microbatch or self.config.batch_size)]
            losses = [reward_model_loss(*part, self.config).sum() for part in parts]
            gaps = [(score[:, :, None] - score[:, None, :])[ordered_pairs(rank, mask)] for score, rank, mask, _ in parts]
            scores = torch.cat([score[mask] for score, _, mask, _ in parts])
            found.append({"loss": float(sum(losses)) / len(rankings)} | _measures(scores, torch.cat(gaps)))
        untold = ("accuracy", "margin") if not any(gap.numel() for gap in gaps) else ()
        return {name: value for name, value in mean_metrics(found).items() if name not in untold}

    @torch.no_grad()
    def shift_to(self, demonstrations: Sequence[Encoded]) -> list[float]:
        """Take off each member the constant that gives demonstrations the mean score 0; returns it. It is saved with the models.

        Only a shift: no order, accuracy or gap changes, and nothing is divided by a deviation (InstructGPT, section 3.5).
        """
        shifts: list[float] = []
        for model in self.models:
            scores = torch.cat([_score(model, part) for part in pieces(demonstrations, self.config.batch_size)])
            model.shift += scores.double().mean().to(model.shift.dtype)  # what is taken off every score
            shifts.append(float(model.shift))
        return shifts

    def nets(self) -> dict[str, Any]:
        """The model, or model-0, model-1, ... of an ensemble."""
        if len(self.models) == 1:
            return {"model": self.models[0]}
        return {f"model-{number}": model for number, model in enumerate(self.models)}

    def state(self) -> dict[str, Any]:
        """Of every member weights, moments and order; and the count of updates."""
        return {
            "descents": [descent.state() for descent in self.descents],
            "shifts": [model.shift for model in self.models],
            "passes": [own.state() for own in self.passes],
            "rows": torch.tensor(self.rows) if self.config.bootstrap else None,
            "updates": self.updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        for part, saved in [*zip(self.descents, state["descents"], strict=True), *zip(self.passes, state["passes"], strict=True)]:
            part.load(saved)
        for model, shift in zip(self.models, state["shifts"], strict=True):
            model.shift.copy_(shift)
        if self.config.bootstrap:
            self.rows = state["rows"].tolist()
        self.updates = int(state["updates"])


def score_rankings(model: ScoreModel, rankings: Sequence[Ranking]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores `[P, K]` of the answers of P prompts, their ranks, which places hold an answer, and the margins `[P]`."""
    K = max(len(ranking.texts) for ranking in rankings)
    rank, mask = torch.zeros(len(rankings), K, dtype=torch.int64), torch.zeros(len(rankings), K, dtype=torch.bool)
    for row, ranking in enumerate(rankings):
        rank[row, : len(ranking.ranks)] = torch.tensor(ranking.ranks)
        mask[row, : len(ranking.ranks)] = True
    flat = _score(model, [text for ranking in rankings for text in ranking.texts])
    rank, mask = rank.to(flat.device), mask.to(flat.device)
    score = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device).masked_scatter(mask, flat)
    return score, rank, mask, torch.tensor([ranking.margin for ranking in rankings], dtype=flat.dtype, device=flat.device)


def _score(model: ScoreModel, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
    batch = pad_right(texts, 0).to(model.device)
    return model.scores(batch.tokens, batch.attention)


def _measures(score: Tensor, gap: Tensor) -> dict[str, float]:
    return {
        "accuracy": float((gap > 0).float().mean()),
        "margin": float(gap.mean()),
        "score/mean": float(score.mean()),
        "score/std": float(score.std(correction=0)),
        "score/min": float(score.min()),
        "score/max": float(score.max()),
    }
