"""Preflight: what would go wrong hours later as bad text is said now, in one sentence each, with the numbers of the rows.

It reads the data, the tokenizer and the numbers of the model that matter (context, vocabulary, dropout); no weight is touched.
What is refused cannot be learned from as it stands; what is warned of can, and somebody should know it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tutelage.equations.statistics import wilson_interval
from tutelage.experience.text import Encoded, TextError
from tutelage.experience.text_data import ASSISTANT, HUMAN, SHOWN, TextData
from tutelage.experience.text_encoding import TextEncoder, TooLongError, row_numbers
from tutelage.experience.text_rows import Labeled, Message, Pair, Ranked, TextRow, fingerprint

Level = Literal["refuse", "warn", "note"]

WELL_KNOWN_MARKERS = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>", "<|start_header_id|>", "<|eot_id|>", HUMAN, ASSISTANT)
"""What chat templates put around a turn; inside of one it says that a template was applied before."""

BIASED = 0.05
"""How far from one half the share of longer chosen answers must surely be before it is worth a warning."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model has to do with data."""

    context: int
    """Tokens that a text may have."""
    vocabulary: int | None = None
    """Tokens that it has embeddings for; None: as many as the tokenizer has."""
    dropout: Mapping[str, float] = field(default_factory=dict)
    """Rates in its config that are not 0, by name."""


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know."""

    level: Level
    check: str
    """What was looked at, in a word or two."""
    sentence: str
    rows: tuple[int, ...] = ()
    """Numbers of the rows that it is about; empty where it is about all or about none."""

    def __str__(self) -> str:
        return f"{self.level}: {self.sentence}"


@dataclass(frozen=True)
class Preflight:
    """What was found."""

    data: str
    kind: str
    """What the rows are, such as Pair."""
    rows: int
    """That can be read."""
    sampled: int
    """Of them, that were put into tokens."""
    findings: tuple[Finding, ...]
    numbers: Mapping[str, float]
    """Lengths in tokens and shares, by name."""

    @property
    def refused(self) -> bool:
        """Whether anything stands against learning from this."""
        return any(finding.level == "refuse" for finding in self.findings)

    def told(self) -> str:
        """For a terminal: refusals first."""
        order = ("refuse", "warn", "note")
        lines = [str(finding) for level in order for finding in self.findings if finding.level == level]
        measured = [f"{name} {value:,.4g}" for name, value in self.numbers.items()]
        counts = ", ".join(f"{sum(f.level == level for f in self.findings)} {word}" for level, word in zip(order, ("refused", "warned of", "noted"), strict=True))
        head = f"{self.data}: {self.rows} rows, each a {self.kind}; {self.sampled} of them were put into tokens"
        return "\n".join([head, *(["; ".join(measured)] if measured else []), *lines, counts])

    def to_json(self) -> str:
        """The same for a program."""
        return json.dumps(asdict(self) | {"numbers": dict(self.numbers), "refused": self.refused})


def preflight(data: TextData, tokenizer: Any, model: ModelFacts, sample: int = 2000) -> Preflight:
    """Looks at data with the tokenizer and the model that are to learn from it.

    sample: rows that are put into tokens, evenly spaced; everything that can be seen without tokens is looked for in all rows.
    """
    step = max(1, -(-len(data.rows) // max(1, sample)))
    sampled = data.rows[::step]
    findings = [*_unreadable(data), *_of_tokenizer(tokenizer, model), *_of_rows(data.rows)]
    numbers: dict[str, float] = {}
    if tokenizer.eos_token_id is not None and sampled:
        encoder = TextEncoder(tokenizer, 2**31, too_long="refuse")
        findings += _of_template(encoder, data.rows)
        findings += _of_tokens(encoder, sampled, model, numbers)
    return Preflight(data.name, data.kind, len(data.rows), len(sampled), tuple(findings), MappingProxyType(numbers))


def _about(level: Level, check: str, rows: Sequence[TextRow], what: str, of: int) -> Iterator[Finding]:
    """A finding about rows, if there are any. what: goes on after "3 of 300 rows "."""
    if rows:
        yield Finding(level, check, f"{len(rows)} of {of} rows {what} ({row_numbers(rows)})", tuple(row.number for row in rows))


# --- without tokens --------------------------------------------------------------------------------------------------------


def _unreadable(data: TextData) -> Iterator[Finding]:
    for sentence in data.refused[:SHOWN]:
        number = sentence.removeprefix(f"{data.name}, row ").partition(":")[0]
        yield Finding("refuse", "rows", sentence, (int(number),) if number.isdigit() else ())
    if len(data.refused) > SHOWN:
        yield Finding("refuse", "rows", f"{data.name}: {len(data.refused) - SHOWN} more rows cannot be read")
    if not data.rows:
        yield Finding("refuse", "rows", f"{data.name} holds no row that can be read")


def _of_tokenizer(tokenizer: Any, model: ModelFacts) -> Iterator[Finding]:
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if eos is None:
        yield Finding("refuse", "eos", "the tokenizer has no EOS token, so that no answer can end; set tokenizer.eos_token and save it again")
    elif pad is None:
        yield Finding(
            "warn", "pad", "the tokenizer has no PAD token: batches are filled with EOS, which is right here, where masks come from lengths,"
            " and wrong in a library that looks for PAD; set tokenizer.pad_token to a token of its own"
        )  # fmt: skip
    elif pad == eos:
        yield Finding(
            "warn", "pad", f"PAD is EOS (both are id {eos}): masks come from lengths here, so that EOS is learned, but a library that masks by"
            " id never learns to stop, and reads scores before EOS; set tokenizer.pad_token to a token of its own"
        )  # fmt: skip
    if model.vocabulary is not None and len(tokenizer) > model.vocabulary:
        yield Finding("refuse", "vocabulary", f"the tokenizer has {len(tokenizer)} tokens and the model {model.vocabulary}; they do not fit together")
    if model.dropout:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in model.dropout.items())
        yield Finding("note", "dropout", f"the model's config has dropout ({rates}); it is switched off here unless SFT is asked for it")


def _of_rows(rows: Sequence[TextRow]) -> Iterator[Finding]:
    of = len(rows)
    best = [row for row in rows if row.answers and not _preferred(row).strip()]
    other = [row for row in rows if row not in best and any(not answer.strip() for answer in row.answers)] if of < 100_000 else []
    yield from _about("warn", "empty answers", best, "have an empty answer that is to be imitated or preferred: it teaches to say nothing", of)
    yield from _about("warn", "empty answers", other, "have an empty answer", of)
    same = [row for row in rows if len(row.answers) > 1 and len(set(row.answers)) < len(row.answers)]
    yield from _about("warn", "same answers", same, "compare an answer with itself, which teaches nothing", of)
    tied = [row for row in rows if isinstance(row, Ranked) and not row.preferences()]
    yield from _about("warn", "ties", tied, "are rankings of which all answers are tied: they give no pair", of)
    repeated = [row for row in rows if isinstance(row.prompt, str) and row.prompt.strip() and any(a.startswith(row.prompt) for a in row.answers)]
    yield from _about("refuse", "prompts", repeated, "repeat their prompt at the beginning of an answer, where the model would read it twice", of)
    turns = [row for row in rows if any(HUMAN in answer for answer in row.answers)]
    yield from _about(
        "warn", "prompts", turns, "have prompts that differ within the pair, or a transcript as an answer: an answer goes on with another"
        ' turn of "Human:"', of,
    )  # fmt: skip
    bare = [row for row in rows if isinstance(row, Pair) and not row.prompt]
    yield from _about("warn", "prompts", bare, "are pairs that have no prompt in common", of)
    yield from _spaces(rows)
    yield from _repetitions(rows)
    yield from _thumbs(rows)


def _preferred(row: TextRow) -> str:
    """The answer that is to be imitated; a thumb down is not."""
    if isinstance(row, Ranked):
        return row.texts[row.ranks.index(min(row.ranks))]
    return "not to be imitated" if isinstance(row, Labeled) and not row.desirable else row.answers[0]


def _spaces(rows: Sequence[TextRow]) -> Iterator[Finding]:
    plain = [(row, row.prompt, answer) for row in rows if isinstance(row.prompt, str) and row.prompt for answer in row.answers if answer]
    glued = {row.number: row for row, prompt, answer in plain if prompt[-1].isalnum() and answer[0].isalnum()}
    doubled = {row.number: row for row, prompt, answer in plain if prompt[-1] == " " and answer[0] == " "}
    yield from _about("warn", "spaces", list(glued.values()), "glue the answer's first word to the prompt's last: no space is between them", len(rows))
    yield from _about("warn", "spaces", list(doubled.values()), "have a space at the end of the prompt and at the beginning of an answer", len(rows))


def _repetitions(rows: Sequence[TextRow]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    again: list[TextRow] = []
    for row in rows:
        if seen.setdefault(fingerprint([row]), row.number) != row.number:
            again.append(row)
    yield from _about("warn", "repetitions", again, "stand there twice: a held-out part would not be held out", len(rows))
    preferred: dict[tuple[object, str, str], TextRow] = {}
    against: list[TextRow] = []
    for row in rows:
        if isinstance(row, Pair) and row.chosen != row.rejected:
            if (row.prompt, row.rejected, row.chosen) in preferred:
                against.append(row)
            preferred[(row.prompt, row.chosen, row.rejected)] = row
    yield from _about("warn", "contradictions", against, "prefer what an earlier row rejects", len(rows))


def _thumbs(rows: Sequence[TextRow]) -> Iterator[Finding]:
    thumbs = [row.desirable for row in rows if isinstance(row, Labeled)]
    if thumbs and len(set(thumbs)) == 1:
        yield Finding("refuse", "labels", f"all {len(thumbs)} labels are {str(thumbs[0]).lower()}; both kinds are needed to tell them apart")
    elif thumbs and not 0.25 <= (share := sum(thumbs) / len(thumbs)) <= 0.75:
        yield Finding("warn", "labels", f"{share:.0%} of the labels are true; KTO's weights are to bring both kinds to between 1 : 1 and 4 : 3")


# --- with tokens -----------------------------------------------------------------------------------------------------------


def _of_template(encoder: TextEncoder, rows: Sequence[TextRow]) -> Iterator[Finding]:
    conversations = [row for row in rows if not isinstance(row.prompt, str)]
    plain = [row for row in rows if isinstance(row.prompt, str)]
    try:
        around = _markers(encoder)
    except TextError as error:
        yield Finding("refuse", "template", str(error))
        return
    inside = (*around, *WELL_KNOWN_MARKERS)
    twice = [row for row in conversations if any(marker in text for text in _said(row) for marker in inside)]
    twice += [row for row in plain if any(marker + marker in text.replace(" ", "").replace("\n", "") for text in _said(row) for marker in _stripped(inside))]
    yield from _about("refuse", "template", twice, "hold a chat template's own marks inside of a turn: a template would be applied twice", len(rows))
    if conversations and encoder.tokenizer.chat_template is None:
        yield Finding("note", "template", 'the tokenizer has no chat template: turns are written after "Human:" and "Assistant:"')
    if plain and any(row.prompt for row in plain) and any(marker in encoder.template for marker in WELL_KNOWN_MARKERS[:7]):
        yield Finding("note", "template", "the tokenizer has a chat template and the prompts are plain text: nothing is put around them")
    tail = encoder.text((Message("user", "question"),), "answer").partition("answer")[2].strip()
    if conversations and tail and encoder.tokenizer.eos_token not in tail:
        yield Finding(
            "warn", "eos", f"the chat template ends an answer with {tail!r} and EOS is {encoder.tokenizer.eos_token!r}: answers end with both;"
            " make the first one the tokenizer's eos_token if sampling is to stop there"
        )  # fmt: skip


def _markers(encoder: TextEncoder) -> list[str]:
    """What the template writes before a turn of the user, and special tokens: text that no turn holds by itself."""
    whole = encoder.text((Message("user", "first question"), Message("assistant", "first answer"), Message("user", "second question")), "end")
    around = [whole.partition("first question")[0], whole.partition("first answer")[2].partition("second question")[0]]
    special = [token for token in encoder.tokenizer.all_special_tokens if token]
    return sorted({mark.strip() for mark in around if len(mark.strip()) > 3 and not mark.strip().isalpha()} | set(special) - {"Human:"})


def _stripped(markers: Iterable[str]) -> list[str]:
    return ["".join(marker.split()) for marker in markers]


def _said(row: TextRow) -> list[str]:
    turns = [row.prompt] if isinstance(row.prompt, str) else [turn.content for turn in row.prompt]
    return [*turns, *row.answers] if not isinstance(row.prompt, str) else [row.prompt]


def _of_tokens(encoder: TextEncoder, rows: Sequence[TextRow], model: ModelFacts, numbers: dict[str, float]) -> list[Finding]:
    findings: list[Finding] = []
    texts: list[tuple[TextRow, list[int], tuple[Encoded, ...]]] = []
    refused: list[tuple[TextRow, str]] = []
    for row in rows:
        try:
            texts.append((row, encoder.prompt(row.prompt), encoder.encode(row)[0]))
        except TextError as error:
            refused.append((row, str(error)))
    for row, sentence in refused[:SHOWN]:
        findings.append(Finding("refuse", "tokens", f"{row.place}: {sentence}", (row.number,)))
    if len(refused) > SHOWN:
        findings += _about("refuse", "tokens", [row for row, _ in refused[SHOWN:]], "more cannot be put into tokens", len(rows))
    if texts:
        findings += _lengths(texts, model, numbers)
        findings += _ids(encoder, texts)
        findings += _length_bias([(row, answers) for row, _, answers in texts], numbers)
        findings += _score_position(encoder, texts, model)
    return findings


def _lengths(texts: Sequence[tuple[TextRow, list[int], tuple[Encoded, ...]]], model: ModelFacts, numbers: dict[str, float]) -> Iterator[Finding]:
    prompts = sorted(len(prompt) for _, prompt, _ in texts)
    answers = sorted(len(answer) - len(prompt) for _, prompt, encoded in texts for answer in encoded)
    for name, lengths in (("prompt", prompts), ("answer", answers)):
        if lengths:
            numbers[f"{name} tokens, median"] = float(lengths[len(lengths) // 2])
            numbers[f"{name} tokens, 95th percentile"] = float(lengths[int(0.95 * (len(lengths) - 1))])
            numbers[f"{name} tokens, longest"] = float(lengths[-1])
    of, context = len(texts), model.context
    full = [row for row, prompt, _ in texts if len(prompt) >= context]
    yield from _about(
        "refuse" if len(full) == of else "warn", "context", full, f"have a prompt that fills the context of {context} tokens: no answer fits"
        " behind it, and the row is dropped", of,
    )  # fmt: skip
    long = [row for row, prompt, answers in texts if len(prompt) < context and any(len(answer) > context for answer in answers)]
    level: Level = "refuse" if len(full) + len(long) == of else "warn"
    yield from _about(
        level, "context", long, f"are longer than the context of {context} tokens with their answer: they are dropped; too_long=cut_prompt"
        " would keep their end, and too_long=cut_answer would cut off the EOS of each", of,
    )  # fmt: skip
    numbers["share that fits"] = 1.0 - (len(full) + len(long)) / of


def _ids(encoder: TextEncoder, texts: Sequence[tuple[TextRow, list[int], tuple[Encoded, ...]]]) -> Iterator[Finding]:
    unknown, bos = encoder.tokenizer.unk_token_id, encoder.special.bos
    if unknown is not None and unknown not in (encoder.special.eos, bos):
        lost = [row for row, _, answers in texts if any(unknown in answer.tokens for answer in answers)]
        yield from _about("warn", "unknown words", lost, f"hold words that the tokenizer writes as {encoder.tokenizer.unk_token!r}", len(texts))
    twice = [row for row, prompt, _ in texts if bos is not None and prompt[:2] == [bos, bos]]
    yield from _about("refuse", "template", twice, "begin with BOS twice: data and template both bring it", len(texts))


def _length_bias(texts: Sequence[tuple[TextRow, tuple[Encoded, ...]]], numbers: dict[str, float]) -> Iterator[Finding]:
    compare: Callable[[Encoded, Encoded], tuple[int, int]] = lambda better, worse: (len(better), len(worse))
    lengths = [compare(answers[0], answers[1]) for row, answers in texts if isinstance(row, Pair)]
    lengths += [compare(answers[i], answers[j]) for row, answers in texts if isinstance(row, Ranked) for i, j in row.preferences()]
    decided = [(better, worse) for better, worse in lengths if better != worse]
    if not decided:
        return
    interval = wilson_interval(sum(better > worse for better, worse in decided), len(decided))
    share = interval.estimate
    numbers["share of longer preferred answers"] = share
    rule, right = ("longer", share) if share >= 0.5 else ("shorter", 1.0 - share)
    low, high = (interval.low, interval.high) if share >= 0.5 else (1.0 - interval.high, 1.0 - interval.low)
    level: Level = "warn" if low > 0.5 + BIASED else "note"
    yield Finding(
        level, "length bias", f'"prefer the {rule}" is right in {right:.1%} of {len(decided)} comparisons ({low:.1%} to {high:.1%});'
        " a reward model must beat it, and may learn nothing else"
    )  # fmt: skip


def _score_position(encoder: TextEncoder, texts: Sequence[tuple[TextRow, list[int], tuple[Encoded, ...]]], model: ModelFacts) -> Iterator[Finding]:
    """Where a score is read: at the last real token, EOS. Others look for the last token that is not PAD."""
    judged = [(row, answers) for row, _, answers in texts if answers]
    special, pad = encoder.special, encoder.tokenizer.pad_token_id
    early = [row for row, answers in judged if any(answer.tokens[-1] == pad for answer in answers)]
    yield from _about(
        "warn", "score position", early, "end in the id of PAD: scores are read at EOS here, and one token too early in libraries that look for"
        " the last token that is not PAD", len(texts),
    )  # fmt: skip
    unfinished = [row for row, answers in judged if any(answer.tokens[-1] != special.eos for answer in answers)]
    yield from _about("refuse", "score position", unfinished, "do not end in EOS, where scores are read", len(texts))
