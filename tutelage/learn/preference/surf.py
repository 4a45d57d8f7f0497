"""SURF: a reward model learns from many clip pairs that nobody has judged, and from each pair in many crops.

Park et al. 2022 (arXiv 2203.10050). PEBBLE with two changes to how its reward model is fitted, and nothing else. Where a member is sure
which of two unjudged clips is better, that is a label like any other (eqs. 4 and 5); and every clip is cut to a random part of itself
before it is scored, both clips of a pair to the same length, so that there are never two equal gradients.

Where we depart from the paper
- Pairs that nobody judged are kept as places in the replay, not as copies: those that the replay has forgotten drop out.
- All members see the same unjudged pairs at a step, each with labels of its own; the authors shuffle for each member.
Left out: the branch for images.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.preferences import preference_logit, preference_probability
from tutelage.experience.replay import Replay
from tutelage.feedback.query import FeedbackError
from tutelage.rewards.comparisons import Augment, Rows
from tutelage.rewards.learned import RewardEnsemble


@dataclass(frozen=True)
class Config:
    """What SURF adds. Each half can be had without the other."""

    unlabeled_ratio: int = 0
    """Pairs that nobody judges, for each question asked (SURF: 100 on DeepMind Control, 10 on Meta-World). 0: no pseudo-labels."""
    unlabeled_batch: int = 4
    """How many times the labeled batch the unlabeled one is (SURF's commands: 4)."""
    threshold: float = 0.99
    """How sure a member must be to take its own prediction for a label (SURF's commands: 0.99)."""
    unlabeled_weight: float = 1.0
    """lambda, of the unlabeled pairs' loss (SURF: 1)."""
    crop_shortest: int = 0
    """Steps of the shortest crop (SURF: 45 of clips of 50; QPA: 35)."""
    crop_longest: int = 0
    """Steps of the longest; where that is longer than a clip, the steps around it are kept for the purpose (SURF: 55; QPA: 45). 0: none."""

    def __post_init__(self) -> None:
        if self.crop_longest and not 0 < self.crop_shortest <= self.crop_longest:
            given = f"crops of {self.crop_shortest} to {self.crop_longest} steps"
            raise FeedbackError(f"{given} were asked for; the shortest first, and at least one step, were expected")

    def margin(self, length: int) -> int:
        """Steps to keep at either end of a clip of `length` steps."""
        return max(self.crop_longest - length, 0)


def pseudo_labels(probability: Float[Tensor, "*n"], threshold: float) -> tuple[Float[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """What a member takes for the truth about pairs that nobody judged, and where it is sure enough of it.

    y = 1[p > 1/2],   1[max(p, 1 - p) > tau],   p = P(left preferred) of this member, without gradient.

    SURF, eq. 4.
    """
    probability = probability.detach()
    return (probability > 0.5).float(), torch.maximum(probability, 1.0 - probability) > threshold


def temporal_crop(
    pairs: tuple[int, ...], steps: int, shortest: int, longest: int, generators: Sequence[Generator]
) -> Bool[Tensor, "R *n 2 L"]:
    """Which steps of both clips of each pair are scored: one length for the pair, a start of its own for each clip.

    l ~ U{shortest..longest},   start_j ~ U{0..steps - l}.   pairs: (R, *n); seed r draws from generators[r].

    SURF, section 4.2: two lengths in a pair would let the longer clip win by its length.
    """
    draws = torch.stack([torch.rand(*pairs[1:], 3, generator=g) for g in generators])
    length = shortest + (draws[..., :1] * (longest - shortest + 1)).long()
    start = (draws[..., 1:] * (steps - length + 1)).long()
    time = torch.arange(steps)
    return (time >= start[..., None]) & (time < (start + length)[..., None])


class Surf:
    """Pairs that nobody judged, and what one gradient step sees of them and of the crops."""

    def __init__(self, config: Config, length: int, generators: Sequence[Generator]) -> None:
        """length: steps of a clip as raters see it. generators: one per seed."""
        self.config, self.generators = config, generators
        self.length, self.margin = length, config.margin(length)
        self.places: list[Tensor] = [torch.zeros(0, 2, 2, dtype=torch.int64) for _ in generators]
        """Of each seed `[M, 2 clips, (time, copy)]`, where its unlabeled clips begin; time counts from the start of the run."""

    def collect(self, replay: Replay, counts: Sequence[int], episodes: int) -> None:
        """Draw `unlabeled_ratio` times as many unlabeled pairs as questions were asked, uniformly from the newest episodes."""
        if not self.config.unlabeled_ratio or not max(counts):
            return
        pairs = [self.config.unlabeled_ratio * count for count in counts]
        starts = replay.draw_starts(2 * max(pairs), self.length + 2 * self.margin, episodes, self.generators)
        newest, slot = replay.steps - 1, starts // replay.copies
        places = torch.stack([newest - (newest - slot) % replay.slots, starts % replay.copies], -1).unflatten(1, (-1, 2))
        self.places = [torch.cat([own, new[:count]]) for own, new, count in zip(self.places, places, pairs, strict=True)]

    def augment(self, ensemble: RewardEnsemble, replay: Replay, ready: Bool[Tensor, "R"] | None = None) -> Augment | None:
        """What a fit shall see: crops, and behind the labeled rows the unlabeled ones. None where neither is asked for.

        ready: the seeds that are fitted (None: all); the generators of the others are left alone.
        """
        config, oldest = self.config, replay.steps - len(replay)
        held = [own[(own[..., 0] >= oldest).all(-1)] for own in self.places]
        if not config.crop_longest and not all(map(len, held)):
            return None
        # A stream for each fit: how many steps another seed takes shall not change what a seed draws.
        chosen = [True] * len(self.generators) if ready is None else ready.tolist()
        streams = [
            Generator().manual_seed(int(torch.randint(2**62, (), generator=g)) if fitted else 0)
            for g, fitted in zip(self.generators, chosen, strict=True)
        ]

        def augmented(rows: Rows) -> Rows:
            if all(map(len, held)):
                rows = self._with_unlabeled(rows, held, ensemble, replay, streams)
            if not config.crop_longest:
                return rows
            mask = temporal_crop(rows.label.shape, rows.x.shape[-2], config.crop_shortest, config.crop_longest, streams)
            return replace(rows, mask=mask.to(rows.x.device))

        return augmented

    def _with_unlabeled(
        self, rows: Rows, held: Sequence[Tensor], ensemble: RewardEnsemble, replay: Replay, streams: Sequence[Generator]
    ) -> Rows:
        (R, E, labeled), config = rows.label.shape, self.config
        count = config.unlabeled_batch * labeled
        places = torch.stack([own[torch.randint(len(own), (count,), generator=g)] for own, g in zip(held, streams, strict=True)])
        starts = places[..., 0] % replay.slots * replay.copies + places[..., 1]  # [R, count, 2]
        clips = replay.segments(starts.flatten(1), self.length + 2 * self.margin)
        x = ensemble.inputs(clips.observation, clips.action).view(R, 1, count, *rows.x.shape[3:]).expand(R, E, count, *rows.x.shape[3:])
        label, sure = pseudo_labels(self._probability(ensemble, x), config.threshold)
        added = (x, label, config.unlabeled_weight * sure / count, torch.zeros(R, E, count, 2, device=x.device))
        return Rows(*(torch.cat(both, 2) for both in zip((rows.x, rows.label, rows.weight, rows.true_return), added, strict=True)))

    @torch.no_grad()
    def _probability(self, ensemble: RewardEnsemble, x: Float[Tensor, "R E n 2 L width"]) -> Float[Tensor, "R E n"]:
        """Of the clips as a rater would see them, not of a crop."""
        shown = x[..., self.margin : x.shape[-2] - self.margin, :]
        rewards = ensemble.outputs(shown.flatten(2, 4)).view(shown.shape[:-1])
        return preference_probability(preference_logit(rewards[..., 0, :], rewards[..., 1, :]))

    def state(self) -> dict[str, Any]:
        """Where the unlabeled pairs lie."""
        return {"places": list(self.places)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.places = [own.clone() for own in state["places"]]
