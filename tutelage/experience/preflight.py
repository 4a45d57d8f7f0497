"""Preflight: what would show hours later as bad text is said now, in one sentence each, with the numbers of the rows.

It reads the data, the tokenizer and the numbers of the model that matter (context, vocabulary, dropout); no weight is touched.
What is refused cannot be learned from as it stands; what is warned of can, and somebody should know it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from tutelage.equations.statistics import wilson_interval
from tutelage.experience.text import Encoded, TextError
from tutelage.experience.text_data import ASSISTANT, HUMAN, SHOWN, TextData
from tutelage.experience.text_encoding import TextEncoder, TooLong, TooLongError, row_numbers
from tutelage.experience.text_rows import Labeled, Message, Pair, Ranked, TextRow, fingerprint, texts_of

Level = Literal["refuse", "warn", "note"]

MARKERS = ("<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<start_of_turn>", "<|start_header_id|>", "<|eot_id|>")
"""What well-known chat templates put around a turn; inside of one it says that a template was applied before."""

BIASED = 0.05
"""How far from one half the share of longer preferred answers must surely be before it is worth a warning."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model has to do with data."""

    context: int
    """Tokens that a text may have."""
    vocabulary: int | None = None
    """Tokens that it has embeddings for; None: as many as the tokenizer has."""
    dropout: Mapping[str, float] = field(default_factory=dict[str, float])
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
        words: dict[Level, str] = {"refuse": "refused", "warn": "warned of", "note": "noted"}
        lines = [str(finding) for level in words for finding in self.findings if finding.level == level]
        measured = "; ".join(f"{name} {value:,.4g}" for name, value in self.numbers.items())
        counts = ", ".join(f"{sum(finding.level == level for finding in self.findings)} {word}" for level, word in words.items())
        head = f"{self.data}: {self.rows} rows, each a {self.kind}; {self.sampled} of them were put into tokens"
        return "\n".join([head, *([measured] if measured else []), *lines, counts])

    def to_json(self) -> str:
        """The same for a program."""
        findings = [asdict(finding) for finding in self.findings]
        whole = {"data": self.data, "kind": self.kind, "rows": self.rows, "sampled": self.sampled, "refused": self.refused}
        return json.dumps(whole | {"findings": findings, "numbers": dict(self.numbers)})


def preflight(data: TextData, tokenizer: Any, model: ModelFacts, sample: int = 2000, too_long: TooLong = "drop") -> Preflight:
    """Looks at data with the tokenizer and the model that are to learn from it.

    sample: rows that are put into tokens, evenly spaced; what can be seen without tokens is looked for in all rows. too_long: what
    training will do with rows that the context does not hold.
    """
    if sample < 1:
        raise TextError(f"a sample of {sample} rows was asked for; one at least is needed")
    sampled = data.rows[:: -(-len(data.rows) // sample) or 1]
    findings = [*_unreadable(data), *_of_tokenizer(tokenizer, model), *_of_rows(data.rows)]
    numbers: dict[str, float] = {}
    if tokenizer.eos_token_id is not None and sampled:
        encoder = TextEncoder(tokenizer, 2**31, too_long="refuse")  # the context is compared here, not there
        findings += [*_of_template(encoder, data.rows), *_spaces(encoder, data.rows)]
        findings += _of_tokens(encoder, sampled, TextEncoder(tokenizer, model.context, too_long), numbers)
    return Preflight(data.name, data.kind, len(data.rows), len(sampled), tuple(findings), MappingProxyType(numbers))


def _about(level: Level, check: str, rows: Sequence[TextRow], of: int, what: str) -> Iterator[Finding]:
    """A finding about rows, if there are any. what: goes on after "3 of 300 rows "."""
    if rows:
        yield Finding(level, check, f"{len(rows)} of {of} rows {what} ({row_numbers(rows)})", tuple(row.number for row in rows))


# --- without tokens --------------------------------------------------------------------------------------------------------


def _unreadable(data: TextData) -> Iterator[Finding]:
    for sentence in data.refused[:SHOWN]:
        number = sentence.removeprefix(f"{data.name}, row ").partition(":")[0]
        yield Finding("refuse", "rows", sentence, (int(number),))
    if len(data.refused) > SHOWN:
        yield Finding("refuse", "rows", f"{data.name}: {len(data.refused) - SHOWN} more rows cannot be read")
    if not data.rows:
        yield Finding("refuse", "rows", f"{data.name} holds no row that can be read")


def _of_tokenizer(tokenizer: Any, model: ModelFacts) -> Iterator[Finding]:
    eos, pad, size = tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)
    of_its_own = "set tokenizer.pad_token to a token of its own"
    if eos is None:
        yield Finding(
            "refuse", "eos", "the tokenizer has no EOS token, so that no answer can end; set tokenizer.eos_token and save it again"
        )
    elif pad is None:
        says = "the tokenizer has no PAD token: batches are filled with EOS, which is right here, where masks come from lengths, and wrong"
        yield Finding("warn", "pad", f"{says} in a library that looks for PAD; {of_its_own}")
    elif pad == eos:
        says = f"PAD is EOS (both are id {eos}): masks come from lengths here, so that EOS is learned, but a library that masks by id"
        yield Finding("warn", "pad", f"{says} never learns to stop; {of_its_own}")
    if model.vocabulary is not None and size > model.vocabulary:
        says = f"the tokenizer has {size} tokens and the model {model.vocabulary}; they do not belong together"
        yield Finding("refuse", "vocabulary", says)
    if model.dropout:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in model.dropout.items())
        says = "it is switched off here unless SFT is asked for it, for with dropout no probability ratio is 1 before the first step"
        yield Finding("note", "dropout", f"the model's config has dropout ({rates}); {says}")


def _of_rows(rows: Sequence[TextRow]) -> Iterator[Finding]:
    of, answered = len(rows), [row for row in rows if row.answers]
    best = [row for row in answered if not _preferred(row).strip()]
    other = [row for row in answered if _preferred(row).strip() and not all(answer.strip() for answer in row.answers)]
    yield from _about("warn", "empty answers", best, of, "teach to say nothing: the answer to be imitated or preferred is empty")
    yield from _about("warn", "empty answers", other, of, "have an empty answer beside one that is not")
    same = [row for row in answered if len(set(row.answers)) < len(row.answers)]
    yield from _about("warn", "same answers", same, of, "compare an answer with itself, which teaches nothing")
    tied = [row for row in answered if isinstance(row, Ranked) and not row.preferences()]
    yield from _about("warn", "ties", tied, of, "are rankings in which all answers are tied: they give no pair")
    plain = [(row, row.prompt) for row in answered if isinstance(row.prompt, str) and row.prompt.strip()]
    repeated = [row for row, prompt in plain if any(answer.startswith(prompt) for answer in row.answers)]
    yield from _about("refuse", "prompts", repeated, of, "repeat the prompt at the beginning of an answer: the model would read it twice")
    turns = [row for row in answered if any(HUMAN in answer for answer in row.answers)]
    says = 'have prompts that differ, or a transcript as an answer: behind the answer comes another turn of "Human:"'
    yield from _about("warn", "prompts", turns, of, says)
    bare = [row for row in rows if isinstance(row, Pair) and not row.prompt]
    yield from _about("warn", "prompts", bare, of, "are pairs without a prompt in common")
    yield from _repetitions(rows)
    yield from _thumbs(rows)


def _preferred(row: TextRow) -> str:
    """The answer that is to be imitated; one with a thumb down is none."""
    if isinstance(row, Labeled) and not row.desirable:
        return "not imitated"
    return row.texts[row.ranks.index(min(row.ranks))] if isinstance(row, Ranked) else row.answers[0]


def _repetitions(rows: Sequence[TextRow]) -> Iterator[Finding]:
    seen: set[str] = set()
    again: list[TextRow] = []
    preferred: set[tuple[object, str, str]] = set()
    against: list[TextRow] = []
    for row in rows:
        content = fingerprint([row])
        again += [row] if content in seen else []
        seen.add(content)
        if isinstance(row, Pair) and row.chosen != row.rejected:
            against += [row] if (row.prompt, row.rejected, row.chosen) in preferred else []
            preferred.add((row.prompt, row.chosen, row.rejected))
    yield from _about("warn", "repetitions", again, len(rows), "repeat an earlier row: a part that is held out would not be")
    yield from _about("warn", "contradictions", against, len(rows), "prefer what an earlier row rejects")


def _thumbs(rows: Sequence[TextRow]) -> Iterator[Finding]:
    thumbs = [row.desirable for row in rows if isinstance(row, Labeled)]
    if not thumbs:
        return
    up = sum(thumbs)
    if up in (0, len(thumbs)):
        says = f"all {len(thumbs)} labels are {'true' if up else 'false'}; both kinds are needed to tell them apart"
        yield Finding("refuse", "labels", says)
    elif not 0.25 <= up / len(thumbs) <= 0.75:
        says = f"{up} of {len(thumbs)} labels are true; KTO's weights are to bring true and false to between 1 : 1 and 3 : 2"
        yield Finding("warn", "labels", says)


# --- with tokens -----------------------------------------------------------------------------------------------------------


def _of_template(encoder: TextEncoder, rows: Sequence[TextRow]) -> Iterator[Finding]:
    tokenizer, of = encoder.tokenizer, len(rows)
    talks = [row for row in rows if not isinstance(row.prompt, str)]
    plain = [(row, row.prompt) for row in rows if isinstance(row.prompt, str)]
    try:
        marks = [*_marks(encoder), *MARKERS, HUMAN, ASSISTANT]
        tail = encoder.text((Message("user", "question"),), "answer").partition("answer")[2].strip()
    except TextError as error:
        if talks:
            yield Finding("refuse", "template", str(error))
        return
    twice = [row for row in talks if any(mark in said for said in texts_of(row) for mark in marks)]
    doubled = ["".join((mark + mark).split()) for mark in marks]
    twice += [row for row, prompt in plain if any(mark in "".join(prompt.split()) for mark in doubled)]
    yield from _about("refuse", "template", twice, of, "hold the marks of a chat template inside of a turn: it would be applied twice")
    if talks and tokenizer.chat_template is None:
        yield Finding("note", "template", 'the tokenizer has no chat template: turns are written after "Human:" and "Assistant:"')
    if any(prompt for _, prompt in plain) and any(mark in encoder.template for mark in MARKERS):
        yield Finding("note", "template", "the tokenizer has a chat template and the prompts are plain text: nothing is put around them")
    if talks and tail and tokenizer.eos_token not in tail:
        says = f"the chat template ends an answer with {tail!r} and EOS is {tokenizer.eos_token!r}: answers end with both"
        yield Finding("warn", "eos", f"{says}; make the first the tokenizer's eos_token if sampling is to stop there")


def _marks(encoder: TextEncoder) -> list[str]:
    """What the template writes before a turn of the user, and special tokens: no turn holds that by itself."""
    turns = (Message("user", "first question"), Message("assistant", "first answer"), Message("user", "second question"))
    whole = encoder.text(turns, "end")
    around = [whole.partition("first question")[0], whole.partition("first answer")[2].partition("second question")[0]]
    # "Human:" alone is met in ordinary text; with its empty line it is looked for anyway.
    return [mark.strip() for mark in (*around, *encoder.tokenizer.all_special_tokens) if set(mark) & set("<>[]|")]


def _spaces(encoder: TextEncoder, rows: Sequence[TextRow]) -> Iterator[Finding]:
    plain = [(row, row.prompt, answer) for row in rows if isinstance(row.prompt, str) and row.prompt for answer in row.answers if answer]
    glued = {row.number: row for row, prompt, answer in plain if prompt[-1].isalnum() and answer[0].isalnum()}
    doubled = {row.number: row for row, prompt, answer in plain if prompt[-1] == " " and answer[0] == " "}
    if any(_splits_words(encoder.tokenizer, prompt, answer) for _, prompt, answer in plain[:1]):
        return
    says = "glue the first word of an answer to the last of the prompt: no space is between them"
    yield from _about("warn", "spaces", list(glued.values()), len(rows), says)
    says = "have a space at the end of the prompt and another at the beginning of an answer"
    yield from _about("warn", "spaces", list(doubled.values()), len(rows), says)


def _splits_words(tokenizer: Any, prompt: str, answer: str) -> bool:
    """Whether a tokenizer of whole words puts a space between two texts itself."""
    try:
        tokens = [token for text in (prompt, answer) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    except Exception:  # a word that it does not know, which has a sentence of its own
        return True
    return (prompt + answer).strip() not in tokenizer.decode(tokens)


@dataclass(frozen=True)
class _Sampled:
    row: TextRow
    prompt: list[int]
    answers: tuple[Encoded, ...]
    """Each behind its prompt."""


def _of_tokens(encoder: TextEncoder, rows: Sequence[TextRow], cutter: TextEncoder, numbers: dict[str, float]) -> Iterator[Finding]:
    """encoder: with an endless context; cutter: with the model's."""
    sampled: list[_Sampled] = []
    refused: list[TextRow] = []
    for row in rows:
        try:
            sampled.append(_Sampled(row, encoder.prompt(row.prompt), encoder.encode(row)[0]))
        except TextError as error:
            refused.append(row)
            if len(refused) <= SHOWN:
                yield Finding("refuse", "tokens", f"{row.place}: {error}", (row.number,))
    yield from _about("refuse", "tokens", refused[SHOWN:], len(rows), "more cannot be put into tokens")
    if sampled:
        yield from _lengths(sampled, cutter, numbers)
        yield from _ids(encoder, sampled)
        yield from _length_bias(sampled, numbers)


def _lengths(sampled: Sequence[_Sampled], cutter: TextEncoder, numbers: dict[str, float]) -> Iterator[Finding]:
    of, context = len(sampled), cutter.context
    prompts = sorted(len(own.prompt) for own in sampled)
    answers = sorted(len(answer) - len(own.prompt) for own in sampled for answer in own.answers)
    for name, lengths in (("prompt", prompts), ("answer", answers)):
        if lengths:
            numbers[f"{name} tokens, median"] = float(lengths[len(lengths) // 2])
            numbers[f"{name} tokens, 95th percentile"] = float(lengths[int(0.95 * (len(lengths) - 1))])
            numbers[f"{name} tokens, longest"] = float(lengths[-1])
    full, long, endless, shorter = list[TextRow](), list[TextRow](), list[TextRow](), list[TextRow]()
    for own in sampled:
        whole = max(len(own.prompt) + 1, *(len(answer) for answer in own.answers), 0)
        if whole <= context and cutter.too_long != "cut":
            continue
        try:
            texts, cut = cutter.encode(own.row)
        except TooLongError:
            (full if len(own.prompt) >= context else long).append(own.row)
            continue
        if any(text.tokens[-1] != cutter.special.eos for text in texts):
            endless.append(own.row)
        elif cut:
            shorter.append(own.row)
    numbers["share that fits"] = 1.0 - (len(full) + len(long) + len(endless) + len(shorter)) / of
    level: Level = "refuse" if len(full) + len(long) == of else "warn"
    fate = "that stops training" if cutter.too_long == "refuse" else "they are dropped"
    says = f"have a prompt that fills the context of {context} tokens: no answer has room behind it, and {fate}"
    yield from _about(level, "context", full, of, says)
    says = f"do not fit into the context of {context} tokens with their answers: {fate}"
    yield from _about(level, "context", long, of, says)
    says = f"lose the EOS of an answer to the context of {context} tokens: no end is learned there, and scores are read in mid-sentence"
    yield from _about("warn", "context", endless, of, says)
    yield from _about("note", "context", shorter, of, f"lose the beginning of the prompt to the context of {context} tokens")


def _ids(encoder: TextEncoder, sampled: Sequence[_Sampled]) -> Iterator[Finding]:
    tokenizer, bos, eos, of = encoder.tokenizer, encoder.special.bos, encoder.special.eos, len(sampled)
    unknown = tokenizer.unk_token_id
    if unknown not in (None, bos, eos):
        lost = [own.row for own in sampled if unknown in own.prompt or any(unknown in answer.tokens for answer in own.answers)]
        yield from _about("warn", "unknown words", lost, of, f"hold words that the tokenizer writes as {tokenizer.unk_token!r}")
    twice = [own.row for own in sampled if bos is not None and own.prompt[:2] == [bos, bos]]
    yield from _about("refuse", "template", twice, of, "begin with BOS twice: the data and the template both bring it")
    # Scores are read at the last real token. transformers' own classifiers look for the last token that is not PAD.
    early = [own.row for own in sampled if any(answer.tokens[-1] == tokenizer.pad_token_id for answer in own.answers)]
    says = "end in the id of PAD: scores are read at EOS here, and a token too early where the last token that is not PAD is looked for"
    yield from _about("warn", "score position", early, of, says)


def _length_bias(sampled: Sequence[_Sampled], numbers: dict[str, float]) -> Iterator[Finding]:
    lengths: list[tuple[int, int]] = []
    for own in sampled:
        pairs = [(0, 1)] if isinstance(own.row, Pair) else own.row.preferences() if isinstance(own.row, Ranked) else []
        lengths += [(len(own.answers[better]), len(own.answers[worse])) for better, worse in pairs]
    decided = [better > worse for better, worse in lengths if better != worse]
    if not decided:
        return
    longer = sum(decided)
    rule, right = ("longer", longer) if 2 * longer >= len(decided) else ("shorter", len(decided) - longer)
    interval = wilson_interval(right, len(decided))
    numbers["share of longer preferred answers"] = longer / len(decided)
    says = f'"prefer the {rule}" is right in {interval.estimate:.1%} of {len(decided)} comparisons of unequal length'
    between = f"({interval.low:.1%} to {interval.high:.1%})"
    level: Level = "warn" if interval.low > 0.5 + BIASED else "note"
    yield Finding(level, "length bias", f"{says} {between}; a reward model must beat that, and may learn nothing else")
