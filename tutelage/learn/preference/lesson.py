"""A lesson: what was asked of a teacher, what has been answered, and the comparisons that this makes.

The same for every method that learns from comparisons of clips. Nothing here waits: questions are submitted, answers are
looked up, and whoever learns decides when there are enough.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.equations.statistics import calibration
from tutelage.experience.replay import Replay
from tutelage.experience.rollout import Anchor
from tutelage.experience.segments import SegmentArchive, cut
from tutelage.experience.trajectory import Segments
from tutelage.feedback.quality import rater_errors
from tutelage.feedback.query import Judgement, Query, SegmentRecord, from_row, label_of, new_query, to_row
from tutelage.feedback.raters import Rater, StoreRater
from tutelage.feedback.samplers import SAMPLERS
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.learned import RewardEnsemble
from tutelage.rewards.source import RewardSource


class Lesson:
    """Questions and answers of R seeds, each with a rater and a group of its own."""

    def __init__(
        self,
        raters: Sequence[Rater],
        groups: Sequence[str],
        generators: Sequence[Generator],
        archive: SegmentArchive,
        anchors: Sequence[Sequence[Anchor]],
        true_reward: RewardSource,
        game: str,
        weigh_raters: bool = False,
        most_awaited: int | None = None,
    ) -> None:
        """anchors: the rollout's, to draw clips from later. true_reward: what a scripted teacher goes by; it is kept with each
        clip and shown to nobody who learns. game: its address, for whoever draws the clips. weigh_raters: an answer counts 1 - 2 e,
        e its rater's error as the others' answers show it. most_awaited: questions of a seed that may lie unanswered."""
        self.weigh_raters, self.most_awaited = weigh_raters, most_awaited
        self.raters, self.groups, self.generators = list(raters), list(groups), list(generators)
        self.archive, self.anchors, self.true_reward, self.game = archive, anchors, true_reward, game
        self.queries: list[dict[str, Query]] = [{} for _ in raters]
        self.judgements: list[dict[str, Judgement]] = [{} for _ in raters]
        """What counts now: superseded judgements are gone."""
        self.fresh: list[list[str]] = [[] for _ in raters]
        """Judgements that no fit has used yet."""
        self.foretold: list[list[tuple[float, float]]] = [[] for _ in raters]
        """(P(left) as predicted before any fit knew the answer, the answer's label): the honest test of a reward model."""
        self.heard_before: list[Mapping[int, int]] = [{} for _ in raters]
        """On resume: steps at which the interrupted run heard something, with the label cursor it reached."""
        self.events: list[dict[str, Any]] = []
        """What happened since somebody last cleared the list, for the log."""

    @property
    def asked(self) -> list[int]:
        """Questions submitted, per seed; an answer "unknown" is paid for like any other."""
        return [len(queries) for queries in self.queries]

    @property
    def unheard(self) -> list[int]:
        """Answers that no fit has used yet, per seed."""
        return [len(own) for own in self.fresh]

    @property
    def awaited(self) -> list[int]:
        """Questions without an answer, per seed."""
        return [len(q) - len({j.query for j in js.values()}) for q, js in zip(self.queries, self.judgements, strict=True)]

    @property
    def room(self) -> list[int]:
        """How many more questions may be asked before others are answered, per seed."""
        return [sys.maxsize if self.most_awaited is None else max(self.most_awaited - awaited, 0) for awaited in self.awaited]

    def reliability(self, seed: int) -> dict[str, float]:
        """1 - 2 e of each rater, e from `rater_errors`: 1 for who never errs, 0 for a coin. Empty: all count alike."""
        if not self.weigh_raters:
            return {}
        answers: dict[str, dict[str, str]] = {}
        for judgement in self.judgements[seed].values():
            answers.setdefault(judgement.query, {})[judgement.rater] = judgement.answer
        return {rater: 1.0 - 2.0 * error for rater, error in rater_errors(answers).items()}

    def candidates(self, replay: Replay, count: int, length: int, episodes: int, margin: int = 0) -> tuple[Segments, Segments]:
        """`count` random pairs of clips for each seed, `[R, count, W, ...]`, from its newest episodes.

        W = length + 2 margin: with so many steps at either end that will not be shown.
        """
        length += 2 * margin
        drawn = replay.segments(replay.draw_starts(2 * count, length, episodes, self.generators), length)
        reward = self.true_reward.reward(drawn.observation, drawn.action, drawn.reward)
        drawn = Segments(drawn.observation, drawn.action, reward, drawn.start)
        left, right = (Segments(*(getattr(drawn, name)[:, side::2] for name in Segments.__slots__)) for side in (0, 1))
        return left, right

    def ask(
        self,
        seed: int,
        pairs: tuple[Segments, Segments],
        probabilities: Float[Tensor, "E N"],
        count: int,
        sampler: str,
        replay: Replay,
        margin: int = 0,
    ) -> None:
        """Let the sampler choose `count` of the candidate pairs, keep their clips and submit the questions.

        probabilities: each member's, that the left clip is preferred. margin: as the candidates were drawn with.
        """
        shown = [side.inner(margin) for side in pairs]
        inputs = {"candidates": probabilities.shape[-1], "generator": self.generators[seed], "probabilities": probabilities.cpu()}
        if "features" in SAMPLERS[sampler].inputs:
            inputs["features"] = torch.cat([side.observation[seed] for side in shown], 1).flatten(1).float().cpu()
            inputs["labeled"] = self._labeled_features(seed)
        chosen = SAMPLERS[sampler].choose(count=count, **{name: inputs[name] for name in SAMPLERS[sampler].inputs})
        length = shown[0].reward.shape[-1]
        queries: list[Query] = []
        for number in chosen.tolist():
            items = [self.archive.put(cut(replay, self.anchors, side, seed, number, margin)) for side in pairs]
            queries.append(new_query("pair", items, self.groups[seed], sampler, replay.steps, self.asked[seed] + len(queries)))
        rater = self.raters[seed]
        if isinstance(rater, StoreRater):  # others will want to draw the clips
            items = dict.fromkeys(item for query in queries for item in query.items)
            rater.store.add([SegmentRecord(item, f"{self.archive.directory.name}/{item}.safetensors", self.game, length) for item in items])
        rater.submit(queries)
        self.queries[seed].update({query.id: query for query in queries})
        self.events.append({"event": "queries", "seed": seed, "step": replay.steps, "queries": self.asked[seed], "sampler": sampler})

    def _labeled_features(self, seed: int) -> Tensor | None:
        pairs = [query.items for query in self.queries[seed].values()]
        if not pairs:
            return None
        return torch.stack([torch.cat([self.archive.get(item).observation for item in items]).flatten().float() for items in pairs])

    def listen(self, step: int, until: int | None = None) -> None:
        """Take in what has been answered; from a store nothing that was committed after number `until` (None: all)."""
        for seed, rater in enumerate(self.raters):
            for judgement in self._poll(seed, rater, step, until):
                if judgement.query in self.queries[seed]:
                    if judgement.supersedes is not None:
                        self.judgements[seed].pop(judgement.supersedes, None)
                    self.judgements[seed][judgement.id] = judgement
                    self.fresh[seed].append(judgement.id)

    def _poll(self, seed: int, rater: Rater, step: int, until: int | None) -> list[Judgement]:
        if not isinstance(rater, StoreRater):
            return rater.poll()
        known = self.heard_before[seed]
        if known and step <= max(known):  # a stretch that was lived through before the interruption: hear the same again
            judgements = rater.poll(until=known[step]) if step in known else []
        else:
            judgements = rater.poll(until)
        # Also when there was nothing: a resumed run must not hear at this step what was answered since.
        self.events.append({"event": "heard", "seed": seed, "step": step, "cursor": rater.cursor, "answers": len(judgements)})
        return judgements

    def comparisons(self, ready: Bool[Tensor, "R"], newest: int | None = None) -> Comparisons | None:
        """All labels of the seeds that `ready` marks (or their newest), or None when there is not one.

        A clip pair answered by several raters counts once for each, by `reliability`. "Unknown" gives no label.
        """
        usable: list[list[tuple[Judgement, float]]] = []
        for seed, judgements in enumerate(self.judgements):
            rows = [(j, label) for j in judgements.values() if ready[seed] and (label := label_of(j.answer)) is not None]
            usable.append(rows if newest is None else rows[-newest:])
        R, N = len(usable), max(len(rows) for rows in usable)
        if N == 0:
            return None
        clips = [
            [[self.archive.get(item) for item in self.queries[seed][j.query].items] for j, _ in rows] for seed, rows in enumerate(usable)
        ]
        example = next(pair[0] for rows in clips for pair in rows)
        observation = torch.zeros(R, N, 2, *example.whole[0].shape, dtype=example.observation.dtype)
        action = torch.zeros(R, N, 2, *example.whole[1].shape)
        true_return, label, weight = torch.zeros(R, N, 2), torch.zeros(R, N), torch.zeros(R, N)
        key, fresh = torch.zeros(R, N, dtype=torch.int64), torch.zeros(R, N, dtype=torch.bool)
        unheard = [set(own) for own in self.fresh]
        for seed, rows in enumerate(usable):
            reliability = self.reliability(seed)
            for number, ((judgement, value), pair) in enumerate(zip(rows, clips[seed], strict=True)):
                for side, clip in enumerate(pair):
                    observation[seed, number, side], action[seed, number, side] = clip.whole
                    true_return[seed, number, side] = clip.reward.sum()
                label[seed, number], weight[seed, number] = value, reliability.get(judgement.rater, 1.0)
                key[seed, number], fresh[seed, number] = judgement.number, judgement.id in unheard[seed]
        margin = (observation.shape[3] - len(example.reward)) // 2
        return Comparisons(observation, action, label, weight, key, true_return, fresh, margin)

    def count_as_heard(self, ready: Bool[Tensor, "R"]) -> None:
        """A fit has used all answers of these seeds."""
        self.fresh = [[] if heard else own for own, heard in zip(self.fresh, ready, strict=True)]

    def foretell(self, comparisons: Comparisons, probability: Float[Tensor, "R N"], known: Bool[Tensor, "R"]) -> None:
        """Keep what the model predicted about the fresh answers before it is fitted to them; `known`: seeds that have a model."""
        for seed, number in (comparisons.fresh & known[:, None]).nonzero().tolist():
            self.foretold[seed].append((float(probability[seed, number]), float(comparisons.label[seed, number])))

    def report(
        self, ready: Bool[Tensor, "R"], comparisons: Comparisons, ensemble: RewardEnsemble, fitted: Mapping[str, Tensor], step: int
    ) -> None:
        """Log a fit: how well the ensemble agrees with the labels, and its returns beside the true ones, clip by clip."""
        predicted = torch.stack([ensemble.reward(*comparisons.side(side)) for side in (0, 1)], 2).sum(-1).cpu()
        for seed in ready.nonzero().flatten().tolist():
            used, rater = comparisons.weight[seed] > 0, self.raters[seed]
            true, learned = comparisons.true_return[seed][used].flatten(), predicted[seed][used].flatten()
            correlation = float(torch.corrcoef(torch.stack([true, learned]))[0, 1]) if len(true) > 2 else None
            about = {"seed": seed, "step": step}
            self.events.append(
                {"event": "session", **about, "labels": len(self.judgements[seed]), "queries": self.asked[seed], "usable": int(used.sum())}
                | {name: float(value[seed]) for name, value in fitted.items()}
                | {"correlation": correlation, "cursor": rater.cursor if isinstance(rater, StoreRater) else None}
            )
            self.events.append({"event": "scatter", **about, "true": true.tolist(), "learned": learned.tolist()})
            if self.foretold[seed]:
                self.events.append({"event": "calibration", **about, **calibration(torch.tensor(self.foretold[seed], dtype=torch.float64))})

    def state(self) -> dict[str, Any]:
        """Questions, answers, generators and raters; the clips themselves lie in the archive."""
        return {
            "queries": [[to_row(query) for query in own.values()] for own in self.queries],
            "judgements": [[to_row(judgement) for judgement in own.values()] for own in self.judgements],
            "fresh": self.fresh,
            "foretold": [[list(pair) for pair in own] for own in self.foretold],
            "generators": [g.get_state() for g in self.generators],
            "raters": [rater.state() for rater in self.raters],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.queries = [{row["id"]: from_row(Query, row) for row in own} for own in state["queries"]]
        for seed, own in enumerate(self.queries):
            if own:  # a run whose directory was renamed hears and asks on under the name by which its questions are known
                self.groups[seed] = next(iter(own.values())).group
                rater = self.raters[seed]
                if isinstance(rater, StoreRater):
                    rater.group = self.groups[seed]
        self.judgements = [{row["id"]: from_row(Judgement, row) for row in own} for own in state["judgements"]]
        self.fresh = [[str(name) for name in own] for own in state["fresh"]]
        self.foretold = [[(float(p), float(label)) for p, label in own] for own in state["foretold"]]
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        for rater, saved in zip(self.raters, state["raters"], strict=True):
            rater.load(saved)
