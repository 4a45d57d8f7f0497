"""A session with a teacher: which clips to ask about, and what the reward model makes of the answers. The same for every method."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.preferences import preference_probability
from tutelage.experience.replay import Replay
from tutelage.learn.preference.lesson import Lesson
from tutelage.rewards.comparisons import Augment, Comparisons
from tutelage.rewards.fitting import fit
from tutelage.rewards.learned import RewardEnsemble

Sift = Callable[[Comparisons, Tensor], Comparisons]
"""Changes what is believed of (comparisons, the members' mean P(left) of each `[R, N]`)."""


def session_size(labels: int, sizes: Literal["constant", "falling", "rising"], steps: int, total_steps: int) -> int:
    """Questions in a session after so many steps: M, M (T - t) / T or M T / (T - t + 1), rounded. B-Pref's code, schedules 0 to 2."""
    left = total_steps - steps
    return round(labels * {"constant": 1.0, "falling": left / total_steps, "rising": total_steps / (left + 1)}[sizes])


def ask(
    lesson: Lesson,
    ensemble: RewardEnsemble,
    replay: Replay,
    counts: Sequence[int],
    samplers: Sequence[str],
    length: int,
    candidates: int,
    episodes: int,
    margin: int = 0,
) -> None:
    """Ask each seed's teacher so many questions, chosen by its sampler among `candidates` times as many pairs of its newest episodes.

    No more than there is room for while others lie unanswered. length: steps of a clip; margin: steps to keep around it that are not shown.
    """
    counts = [min(count, room) for count, room in zip(counts, lesson.room, strict=True)]
    if max(counts) <= 0:
        return
    pairs = lesson.candidates(replay, candidates * max(counts), length, episodes, margin)
    shown = [side.inner(margin) for side in pairs]
    logits = ensemble.logits(*((side.observation, side.action) for side in shown))
    probabilities = preference_probability(logits, ensemble.config.rater_error)
    for seed, (count, sampler) in enumerate(zip(counts, samplers, strict=True)):
        if count > 0:
            lesson.ask(seed, pairs, probabilities[seed], count, sampler, replay, margin)


def learn(
    lesson: Lesson,
    ensemble: RewardEnsemble,
    replay: Replay,
    comparisons: Comparisons,
    ready: Bool[Tensor, "R"],
    known: Bool[Tensor, "R"],
    augment: Augment | None = None,
    sift: Sift | None = None,
) -> None:
    """Fit the ensembles of the `ready` seeds, measure what their rewards are over memory, and report.

    known: seeds that had a model before; the inputs of the others are measured now. sift: what to believe of the labels (None: all).
    """
    fresh = ready & ~known
    if fresh.any():
        ensemble.measure_inputs(replay.observations(), replay.actions(), fresh)
    logits = ensemble.logits(comparisons.side(0), comparisons.side(1))
    foreseen: Float[Tensor, "R N"] = preference_probability(logits, ensemble.config.rater_error).mean(1).cpu()
    lesson.foretell(comparisons, foreseen, known)
    fitted = fit(ensemble, comparisons if sift is None else sift(comparisons, foreseen), augment)
    ensemble.measure_outputs(replay.observations(), replay.actions(), ready)
    lesson.report(ready, comparisons, ensemble, fitted, replay.steps)


def answered(
    lesson: Lesson, step: int, enough: int, newest: int | None = None, until: int | None = None
) -> tuple[Bool[Tensor, "R"], Comparisons | None]:
    """Hear what has been answered; which seeds have something to be fitted to, and all their comparisons (None: none has).

    enough: new answers that start a fit while others are awaited; when none is awaited, one is enough. newest: no more labels than these.
    until: as `Lesson.listen`.
    """
    lesson.listen(step, until)
    answers = zip(lesson.unheard, lesson.awaited, strict=True)
    ready = torch.tensor([new >= (enough if awaited else 1) for new, awaited in answers])
    comparisons = lesson.comparisons(ready, newest) if ready.any() else None
    lesson.count_as_heard(ready)
    if comparisons is not None:
        ready = ready & (comparisons.weight > 0).any(-1)  # a seed that heard only "unknown" has nothing to learn from
    return ready, comparisons
