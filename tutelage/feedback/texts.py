"""Texts to people and back: groups of answers become queries of the rating room, and what was judged becomes rows to learn from.

One judgement is one row. A ranking stays whole, so that a reward model gets all its pairs as one element of a batch; `trl_rows` of
`exchange` is the form in which other libraries want the same answers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tutelage.experience.text_rows import Labeled, Ranked, Words
from tutelage.feedback.query import FeedbackError, Judgement, Query, Row, TextRecord, label_of, new_query, ranking_of, text_hash
from tutelage.feedback.store import Store

_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant", "tool": "Tool"}


def shown_words(prompt: Words) -> str:
    """A prompt as people read it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{_SPEAKERS[turn.role]}: {turn.content}" for turn in prompt)


def ask(store: Store, groups: Iterable[tuple[Words, Sequence[str]]], group: str, sampler: str, policy_step: int) -> list[Query]:
    """One query for each prompt with its answers: two are a pair, four to nine a ranking. Returns them when they are in the store.

    Asking the same again is the same query. Raises FeedbackError for another number of answers, for an empty one, for two that are
    the same, and for text that no store keeps.
    """
    rows: list[Row] = []
    queries: list[Query] = []
    for prompt, answers in groups:
        if len(set(answers)) < len(answers):
            raise FeedbackError(f"{answers[0][:40]!r} and its {len(answers) - 1} rivals are not all different; nobody can rank equal texts")
        items = [TextRecord(text_hash(answer), answer) for answer in answers]
        words = shown_words(prompt)
        context = [TextRecord(text_hash(words), words)] if words else []
        kind = "pair" if len(items) == 2 else "rank"
        ids = [item.id for item in items]
        queries.append(new_query(kind, ids, group, sampler, policy_step, prompt=context[0].id if context else None))
        rows += [*items, *context, queries[-1]]
    store.add(rows)
    return queries


def ranked_rows(store: Store, group: str | None = None, until: int | None = None, prompts: Iterable[Words] = ()) -> list[Ranked]:
    """Every ranking and every comparison of texts that was answered and not taken back, in the order of the answers.

    group: of one lesson only; until: answers up to this commit, which a resumed run remembers; prompts: conversations that were asked
    about, which come back as such and not as the text that people read. `columns` names the rater, the query and, where it was asked,
    the confidence. Ties are equal ranks; an answer "unknown" is no row.
    """
    found: list[Ranked] = []
    for judgement, query, prompt, texts in _judged(store, group, until, prompts):
        ranks = _ranks(judgement.answer, query)
        if ranks is not None:
            found.append(Ranked(prompt=prompt, texts=texts, ranks=ranks, **_place(store, judgement, len(found))))
    return found


def thumb_rows(store: Store, group: str | None = None, until: int | None = None, prompts: Iterable[Words] = ()) -> list[Labeled]:
    """Every text that got a thumb up or down, as `ranked_rows` does it."""
    found: list[Labeled] = []
    for judgement, _, prompt, texts in _judged(store, group, until, prompts):
        if judgement.answer in ("up", "down"):
            up = judgement.answer == "up"
            found.append(Labeled(prompt=prompt, answer=texts[0], desirable=up, **_place(store, judgement, len(found))))
    return found


def _ranks(answer: str, query: Query) -> tuple[int, ...] | None:
    if query.kind == "rank":
        tiers = ranking_of(answer, len(query.items))
        place = {item: rank for rank, tier in enumerate(tiers or [], start=1) for item in tier}
        return tuple(place[item] for item in range(len(query.items))) if place else None
    label = label_of(answer) if query.kind == "pair" else None
    return None if label is None else {1.0: (1, 2), 0.0: (2, 1)}.get(label, (1, 1))


def _judged(
    store: Store, group: str | None, until: int | None, prompts: Iterable[Words]
) -> list[tuple[Judgement, Query, Words, tuple[str, ...]]]:
    """Judgements that count, each with its query, prompt and texts."""
    asked: dict[str, Words] = {shown_words(prompt): prompt for prompt in prompts}
    judgements = store.judgements(group, until=until)
    replaced = {judgement.supersedes for judgement in judgements}
    queries = {query.id: query for query in store.queries(group, until=until)}
    wanted = {item for query in queries.values() for item in (*query.items, query.prompt) if item is not None}
    texts = {text.id: text.text for text in store.texts(sorted(wanted))}
    found: list[tuple[Judgement, Query, Words, tuple[str, ...]]] = []
    for judgement in judgements:
        query = queries[judgement.query]
        if judgement.id not in replaced and all(item in texts for item in query.items):
            shown = texts.get(query.prompt or "", "")
            found.append((judgement, query, asked.get(shown, shown), tuple(texts[item] for item in query.items)))
    return found


def _place(store: Store, judgement: Judgement, before: int) -> dict[str, Any]:
    told = {"rater": judgement.rater, "query": judgement.query, "confidence": judgement.confidence}
    return {"where": store.name, "number": before + 1, "columns": {name: value for name, value in told.items() if value is not None}}
