"""Batches of text: tokens, which of them are real, and which of them are the answer; padding, buckets of lengths, packing.

Three facts about a token are kept in three tensors, as they are about a step of a game: `tokens` says what it is, `attention`
whether it is real, `response` whether it belongs to the answer (its EOS included). None is ever read off another: padding may have
the id of EOS, so both masks come from lengths.

A log-probability stands at the token that it is about. The first token of a text follows nothing, so nothing can be asked about it
and `response` is False there, also where the whole text is the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor


class TextError(ValueError):
    """Text that cannot be read, or cannot be learned from; one sentence: what was given, what was expected, where."""


@dataclass(frozen=True)
class Encoded:
    """One text as tokens, before it is padded."""

    tokens: tuple[int, ...]
    response: tuple[bool, ...]
    """Per token, whether it is learned from; False for the first."""

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.response):
            raise TextError(
                f"{len(self.tokens)} tokens with {len(self.response)} marks were given; as many, and one at least, were expected"
            )
        if self.response[0]:
            raise TextError("the first token was marked as a response; nothing comes before it, so that nothing can be learned from it")

    def __len__(self) -> int:
        return len(self.tokens)


def encoded(prompt: Sequence[int], answer: Sequence[int]) -> Encoded:
    """The tokens of a prompt and of its answer. Without a prompt the whole text is learned from, but for its first token."""
    response = [False] * len(prompt) + [True] * len(answer)
    if response:
        response[0] = False
    return Encoded((*prompt, *answer), tuple(response))


@dataclass(frozen=True)
class TextBatch:
    """B texts, padded to T tokens on one side."""

    tokens: Int[Tensor, "B T"]
    attention: Bool[Tensor, "B T"]
    """True on real tokens."""
    response: Bool[Tensor, "B T"]
    """True on the tokens of the answer, its EOS included."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Sequence[int] | Int[Tensor, "N"]) -> "TextBatch":
        """Some of the rows, as wide as before."""
        return TextBatch(self.tokens[rows], self.attention[rows], self.response[rows])

    def to(self, device: torch.device | str) -> "TextBatch":
        """The same on another device."""
        return TextBatch(self.tokens.to(device), self.attention.to(device), self.response.to(device))

    def rows(self) -> list[Encoded]:
        """The texts without their padding."""
        texts: list[Encoded] = []
        for row in range(len(self)):
            real = self.attention[row]
            tokens: list[int] = self.tokens[row][real].cpu().numpy().tolist()
            marks: list[bool] = self.response[row][real].cpu().numpy().tolist()
            texts.append(Encoded(tuple(tokens), tuple(marks)))
        return texts


def pad_right(texts: Sequence[Encoded], pad: int, width: int | None = None) -> TextBatch:
    """Texts of many lengths as one batch to learn from. pad: any id. width: None is the longest text's."""
    lengths = [len(text) for text in texts]
    width = max(lengths, default=0) if width is None else width
    if lengths and max(lengths) > width:
        raise TextError(f"text {lengths.index(max(lengths))} has {max(lengths)} tokens; the batch was to be {width} wide")
    tokens = torch.full((len(texts), width), pad, dtype=torch.int64)
    response = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text.tokens, dtype=torch.int64)
        response[row, : len(text)] = torch.tensor(text.response, dtype=torch.bool)
    return TextBatch(tokens, torch.arange(width) < torch.tensor(lengths, dtype=torch.int64)[:, None], response)


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> TextBatch:
    """Prompts of many lengths that end in one column, from which their answers go on. No token of theirs is a response."""
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise TextError(f"prompt {row} has no token; at least one is needed, for an answer to go on from")
    width = max(map(len, prompts), default=0)
    tokens = torch.full((len(prompts), width), pad, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.int64)
    lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    return TextBatch(tokens, torch.arange(width) >= width - lengths[:, None], torch.zeros(len(prompts), width, dtype=torch.bool))


def shuffled_batches(count: int, batch_size: int, generator: Generator) -> Iterator[Int[Tensor, "N"]]:
    """One epoch: every index once, in random order; the last batch may be smaller."""
    yield from torch.split(torch.randperm(count, generator=generator), batch_size)


def bucketed_batches(lengths: Sequence[int], batch_size: int, generator: Generator, buckets: int = 16) -> Iterator[Int[Tensor, "N"]]:
    """As `shuffled_batches`, but texts of like length share a batch, so that little of it is padding.

    Windows of `buckets` random batches are sorted by length and cut, and the batches are given in random order. Which texts meet
    still changes from epoch to epoch.
    """
    length = torch.tensor(lengths, dtype=torch.int64)
    batches: list[Tensor] = []
    for window in torch.split(torch.randperm(len(lengths), generator=generator), batch_size * buckets):
        batches += torch.split(window[length[window].argsort(stable=True)], batch_size)
    order: list[int] = torch.randperm(len(batches), generator=generator).numpy().tolist()
    yield from (batches[i] for i in order)


@dataclass(frozen=True)
class PackedBatch:
    """B rows of T tokens in which several texts lie behind one another and do not see one another."""

    tokens: Int[Tensor, "B T"]
    attention: Bool[Tensor, "B T"]
    """True on real tokens."""
    response: Bool[Tensor, "B T"]
    """True on the tokens of the answers; False on the first token of every text."""
    positions: Int[Tensor, "B T"]
    """Of every token within its own text; 0 on padding."""
    text: Int[Tensor, "B T"]
    """Which text of the row a token belongs to; -1 on padding."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def visible(self) -> Bool[Tensor, "B T T"]:
        """[b, t, s]: whether token t sees token s, a block of a lower triangle for every text.

        Padding sees itself, for a softmax over nothing is no number.
        """
        same = self.text[:, :, None] == self.text[:, None, :]
        causal = torch.ones(self.tokens.shape[1], self.tokens.shape[1], dtype=torch.bool, device=self.tokens.device).tril()
        return same & causal


def pack(texts: Sequence[Encoded], width: int, pad: int) -> PackedBatch:
    """Texts laid behind one another into as few rows of `width` tokens as best-fit-decreasing finds.

    No text is cut or split. Raises TextError for one that is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        length = len(texts[i])
        if length > width:
            raise TextError(f"text {i} has {length} tokens; a row has {width}")
        fitting = [row for row, left in enumerate(room) if left >= length]
        if fitting:
            row = min(fitting, key=lambda row: room[row])
        else:
            row = len(rows)
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= length
    padded = [pad_right([_joined([texts[i] for i in row])], pad, width) for row in rows]
    positions, text = torch.zeros(len(rows), width, dtype=torch.int64), torch.full((len(rows), width), -1)
    for row, members in enumerate(rows):
        lengths = [len(texts[i]) for i in members]
        within = torch.cat([torch.arange(length) for length in lengths])
        positions[row, : len(within)] = within
        text[row, : len(within)] = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    stacked = [torch.cat([getattr(batch, name) for batch in padded]) for name in ("tokens", "attention", "response")] if rows else []
    tokens, attention, response = stacked or [torch.zeros(0, width, dtype=kind) for kind in (torch.int64, torch.bool, torch.bool)]
    return PackedBatch(tokens, attention, response, positions, text)


def _joined(texts: Sequence[Encoded]) -> Encoded:
    return Encoded(tuple(token for text in texts for token in text.tokens), tuple(mark for text in texts for mark in text.response))
