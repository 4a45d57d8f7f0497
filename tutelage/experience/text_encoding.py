"""From rows to tokens: where a prompt ends, where an answer ends, and what becomes of a text that is too long.

A prompt is encoded by itself and its answer by itself. So the prompt's tokens do not depend on the answer, the two prompts of a pair
are the same, and training sees the very tokens from which sampling goes on. An answer ends in one EOS, which is learned from.

Nothing is cut in silence: what was dropped or cut is counted, with the numbers of the rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tutelage.experience.text import Encoded, TextError, encoded
from tutelage.experience.text_rows import Message, TextRow, Words
from tutelage.experience.tokenizers import PLAIN_TEMPLATE, special_tokens

TooLong = Literal["refuse", "drop", "cut_prompt", "cut_answer", "cut"]
"""What becomes of a row that the context does not hold: an error, nothing, the end of its prompt, the beginnings of its answers; or,
with `cut`, of every row: the end of the prompt in a third of the context, the beginnings of the answers in the rest."""
Learned = Literal["answer", "assistant", "everything"]
"""Which tokens are learned from: those of the answer, of all turns of the assistant, or all but the first."""


class TooLongError(TextError):
    """A row that does not fit into the context."""


@dataclass(frozen=True)
class EncodedRows:
    """What became of some rows."""

    rows: tuple[TextRow, ...]
    """Those that are kept."""
    texts: tuple[tuple[Encoded, ...], ...]
    """Per row that is kept, its prompt with each of its answers, in the order of `row.answers`."""
    dropped: tuple[TextRow, ...] = ()
    """Too long."""
    cut: tuple[TextRow, ...] = ()
    """Kept, but not whole."""

    def told(self) -> str:
        """One sentence on what is missing; empty where nothing is."""
        whole = len(self.rows) + len(self.dropped)
        parts = [(self.dropped, "did not fit into the context and were dropped"), (self.cut, "did not fit into the context and were cut")]
        return "; ".join(f"{len(rows)} of {whole} rows {what} ({row_numbers(rows)})" for rows, what in parts if rows)


def row_numbers(rows: Sequence[TextRow], most: int = 8) -> str:
    """ "rows 3, 17 and 5 more", for a sentence."""
    numbers = [str(row.number) for row in rows]
    if len(numbers) <= most:
        return f"row{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
    return f"rows {', '.join(numbers[:most])} and {len(numbers) - most} more"


class TextEncoder:
    """A tokenizer with a context, and the rules above."""

    def __init__(self, tokenizer: Any, context: int, too_long: TooLong = "drop", learned: Learned = "answer") -> None:
        """context: tokens that a prompt and its answer may have together. Raises TextError for a tokenizer without EOS."""
        if context < 2:
            raise TextError(f"a context of {context} tokens was given; a prompt and an answer need two at least")
        self.tokenizer, self.context, self.too_long, self.learned = tokenizer, context, too_long, learned
        self.special = special_tokens(tokenizer)
        self.template: str = tokenizer.chat_template or PLAIN_TEMPLATE

    def prompt(self, prompt: Words) -> list[int]:
        """A prompt as tokens, from which an answer goes on. One that is empty is BOS, or EOS where there is no BOS (as in GPT-2)."""
        return [token for piece, _ in self._prompt(prompt) for token in piece]

    def text(self, prompt: Words, answer: str) -> str:
        """What the model reads, as text: for people, and for other libraries."""
        return "".join(piece for piece, _ in self._pieces(prompt)) + self._answer_text(prompt, answer)

    def answer(self, prompt: Words, answer: str) -> list[int]:
        """An answer as tokens, with its EOS."""
        eos = self.special.eos
        tokens = self._tokens(self._answer_text(prompt, answer))
        if eos in tokens:
            end = tokens.index(eos)
            after = self.tokenizer.decode(tokens[end + 1 :])
            if after.strip():
                raise TextError(f"the answer holds EOS before its end, and {after[:40]!r} behind it; one answer ends once")
            tokens = tokens[:end]
        return [*tokens, eos]

    def encode(self, row: TextRow) -> tuple[tuple[Encoded, ...], bool]:
        """A row's texts, and whether they were cut. Raises TooLongError, and TextError for an answer with an EOS inside."""
        pieces = self._prompt(row.prompt)
        answers = [self.answer(row.prompt, answer) for answer in row.answers]
        length, longest = sum(len(tokens) for tokens, _ in pieces), max((len(answer) for answer in answers), default=1)
        if self.too_long == "cut":  # whatever the other one needs: any prompt then has room for any answer
            room = max(self.context // 3, 1)
            cut = length > room or longest > self.context - room
            pieces = self._cut(pieces, length - room) if length > room else pieces
            answers = [answer[: self.context - room] for answer in answers]
        elif cut := length + longest > self.context:
            if self.too_long == "cut_prompt" and longest < self.context:
                pieces = self._cut(pieces, length + longest - self.context)
            elif self.too_long == "cut_answer" and length < self.context:
                answers = [answer[: self.context - length] for answer in answers]
            else:
                given = f"a prompt of {length} tokens and an answer of {longest} were given"
                raise TooLongError(f"{given}; the context holds {self.context}")
        return tuple(self._marked(pieces, answer) for answer in answers), cut

    def encode_all(self, rows: Iterable[TextRow]) -> EncodedRows:
        """Many rows; those that are too long are dropped, cut or refused as was asked. Raises TextError that names the row."""
        kept: list[tuple[TextRow, tuple[Encoded, ...]]] = []
        dropped: list[TextRow] = []
        cut: list[TextRow] = []
        for row in rows:
            try:
                texts, shorter = self.encode(row)
            except TooLongError as error:
                if self.too_long == "refuse":
                    raise TooLongError(f"{row.place}: {error}") from error
                dropped.append(row)
                continue
            except TextError as error:
                raise TextError(f"{row.place}: {error}") from error
            if shorter and len(set(texts)) < len(set(row.answers)):  # what told two answers apart was cut off
                dropped.append(row)
                continue
            kept.append((row, texts))
            if shorter:
                cut.append(row)
        if dropped and not kept:
            raise TooLongError(f"all {len(dropped)} rows are longer than the context of {self.context} tokens; none is left to learn from")
        return EncodedRows(tuple(row for row, _ in kept), tuple(texts for _, texts in kept), tuple(dropped), tuple(cut))

    def prompts(self, rows: Iterable[TextRow], longest: int) -> tuple[list[TextRow], list[list[int]], list[TextRow], list[TextRow]]:
        """(kept rows, their prompts as tokens, rows dropped for a longer prompt, kept rows whose prompt was cut), to sample answers to."""
        kept: list[TextRow] = []
        tokens: list[list[int]] = []
        dropped: list[TextRow] = []
        cut: list[TextRow] = []
        for row in rows:
            prompt = self.prompt(row.prompt)
            if len(prompt) > longest:
                if self.too_long == "refuse":
                    raise TooLongError(f"{row.place}: the prompt has {len(prompt)} tokens; {longest} leave room for an answer")
                if self.too_long not in ("cut_prompt", "cut"):
                    dropped.append(row)
                    continue
                prompt = [token for piece, _ in self._cut([(prompt, False)], len(prompt) - longest) for token in piece]
                cut.append(row)
            kept.append(row)
            tokens.append(prompt)
        if dropped and not kept:
            raise TooLongError(f"all {len(dropped)} prompts are longer than {longest} tokens; none is left to answer")
        return kept, tokens, dropped, cut

    def _tokens(self, text: str) -> list[int]:
        try:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # the tokenizers library raises plain Exception for a word that it does not know
            if type(error) is not Exception:
                raise
            raise TextError(f"the tokenizer cannot write {text[:60]!r} ({str(error).splitlines()[0]})") from error

    def _prompt(self, prompt: Words) -> list[tuple[list[int], bool]]:
        """Tokens piece by piece, and whether a piece is by the assistant."""
        pieces = [(self._tokens(text), own) for text, own in self._pieces(prompt)]
        first = pieces[0][0] if pieces else []
        bos, eos = self.special.bos, self.special.eos
        if not any(tokens for tokens, _ in pieces):
            return [([eos if bos is None else bos], False)]
        if bos is not None and self.special.begins and first[:1] != [bos]:
            return [([bos], False), *pieces]
        return pieces

    def _pieces(self, prompt: Words) -> list[tuple[str, bool]]:
        """The text of a prompt, cut where a turn of the assistant begins or ends.

        A conversation grows turn by turn, so its tokens must not depend on where it is cut later.
        """
        if isinstance(prompt, str):
            return [(prompt, False)]
        whole, at = self._rendered(prompt, True), 0
        pieces: list[tuple[str, bool]] = []
        for i, turn in enumerate(prompt):
            if turn.role == "assistant":
                begin, end = self._rendered(prompt[:i], True) if i else "", self._rendered(prompt[: i + 1], False)
                if not (whole.startswith(end) and end.startswith(begin) and len(begin) >= at):
                    break  # a template that rewrites earlier turns: the rest is one piece
                ends = end.rfind(self.tokenizer.eos_token, len(begin))  # what a template puts behind EOS is not by the assistant
                stop = len(end) if ends < 0 else ends + len(self.tokenizer.eos_token)
                pieces += [(whole[at : len(begin)], False), (whole[len(begin) : stop], True)]
                at = stop
        return [*pieces, (whole[at:], False)]

    def _answer_text(self, prompt: Words, answer: str) -> str:
        if isinstance(prompt, str):
            return answer
        before, after = self._rendered(prompt, True), self._rendered((*prompt, Message("assistant", answer)), False)
        if not after.startswith(before):
            raise TextError("the chat template writes the prompt in another way once an answer follows; one that only appends is needed")
        return after[len(before) :]

    def _rendered(self, turns: Sequence[Message], goes_on: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, chat_template=self.template, tokenize=False, add_generation_prompt=goes_on)
        except Exception as error:  # templates raise whatever their author chose
            raise TextError(
                f"the chat template refuses this conversation ({(str(error).splitlines() or ['no reason given'])[0][:120]})"
            ) from error

    def _cut(self, pieces: list[tuple[list[int], bool]], surplus: int) -> list[tuple[list[int], bool]]:
        """The prompt without its first `surplus` tokens; BOS stays where it was the first and another token can stay with it."""
        flat = [(token, own) for tokens, own in pieces for token in tokens]
        begin = flat[0][0] == self.special.bos and len(flat) - surplus > 1
        kept = [flat[0], *flat[surplus + 1 :]] if begin else flat[surplus:]
        return [([token], own) for token, own in kept]

    def _marked(self, pieces: Sequence[tuple[list[int], bool]], answer: Sequence[int]) -> Encoded:
        plain = encoded([token for tokens, _ in pieces for token in tokens], answer)
        if self.learned == "answer":
            return plain
        marks = [own or self.learned == "everything" for tokens, own in pieces for _ in tokens] + [True] * len(answer)
        return Encoded(plain.tokens, (False, *marks[1:]))
