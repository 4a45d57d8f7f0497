"""Batches of text: masks come from lengths, padding changes nothing, a pack is its texts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from tutelage.experience.text import (
    Encoded,
    TextError,
    bucketed_batches,
    encoded,
    pack,
    pad_left,
    pad_right,
    shuffled_batches,
)

TEXTS = st.lists(
    st.tuples(st.lists(st.integers(0, 3), max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=5)).map(
        lambda pair: encoded(*pair)
    ),
    max_size=6,
)


def test_the_worked_example():
    # EOS is 2 and so is PAD: the EOS of the answer is real, learned from, and no padding.
    batch = pad_right([encoded([5, 6], [7, 2]), encoded([], [8, 9, 2])], pad=2, width=5)
    assert batch.tokens.tolist() == [[5, 6, 7, 2, 2], [8, 9, 2, 2, 2]]
    assert batch.attention.tolist() == [[True] * 4 + [False], [True] * 3 + [False] * 2]
    assert batch.response.tolist() == [[False, False, True, True, False], [False, True, True, False, False]]


@given(TEXTS, st.integers(0, 3))
def test_padding_is_undone(texts: list[Encoded], pad: int):
    batch = pad_right(texts, pad)
    assert batch.rows() == texts
    assert not (batch.response & ~batch.attention).any() and not batch.response[:, :1].any()
    assert batch[torch.arange(len(texts)).flip(0)].rows() == texts[::-1]
    wider = pad_right(texts, pad, width=12)
    assert wider.rows() == texts and wider.tokens.shape[1] == 12


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=5))
def test_prompts_end_in_one_column(prompts: list[list[int]]):
    batch = pad_left(prompts, pad=0)
    assert [text.tokens for text in batch.rows()] == [tuple(prompt) for prompt in prompts]
    assert not batch.response.any() and bool(batch.attention[:, -1:].all())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: encoded([], []), "0 tokens with 0 marks were given; as many, and one at least, were expected"),
        (lambda: Encoded((1, 2), (True, True)), "the first token was marked as a response; nothing comes before it"),
        (lambda: pad_right([encoded([1], [2, 3])], 0, width=2), "text 0 has 3 tokens; the batch was to be 2 wide"),
        (lambda: pad_left([[1], []], 0), "prompt 1 has no token; at least one is needed"),
        (lambda: pack([encoded([1], [2, 3])], 2, 0), "text 0 has 3 tokens; a row has 2"),
    ],
)
def test_what_cannot_be_a_batch(make, sentence: str):
    with pytest.raises(TextError, match=sentence):
        make()


def test_every_text_is_in_one_batch():
    lengths = [int(n) for n in torch.randint(1, 60, (157,), generator=Generator().manual_seed(0))]
    for batches in (
        shuffled_batches(157, 8, Generator().manual_seed(1)),
        bucketed_batches(lengths, 8, Generator().manual_seed(1), buckets=4),
    ):
        seen = torch.cat(list(batches))
        assert sorted(seen.tolist()) == list(range(157))
    again = [batch.tolist() for batch in bucketed_batches(lengths, 8, Generator().manual_seed(1), buckets=4)]
    assert again == [batch.tolist() for batch in bucketed_batches(lengths, 8, Generator().manual_seed(1), buckets=4)]
    assert again != [batch.tolist() for batch in bucketed_batches(lengths, 8, Generator().manual_seed(2), buckets=4)]


def test_buckets_pad_less():
    lengths = [int(n) for n in torch.randint(1, 200, (512,), generator=Generator().manual_seed(0))]
    padded = lambda batches: sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    plain = padded(batch.tolist() for batch in shuffled_batches(512, 16, Generator().manual_seed(0)))
    bucketed = padded(batch.tolist() for batch in bucketed_batches(lengths, 16, Generator().manual_seed(0)))
    assert bucketed < 1.15 * sum(lengths) < 1.7 * sum(lengths) < plain


@given(TEXTS)
def test_a_pack_is_its_texts(texts: list[Encoded]):
    batch = pack(texts, width=12, pad=0)
    found: list[Encoded] = []
    for row in range(len(batch)):
        for text in range(int(batch.text[row].max()) + 1):
            own = batch.text[row] == text
            found.append(Encoded(tuple(batch.tokens[row][own].tolist()), tuple(batch.response[row][own].tolist())))
            assert batch.positions[row][own].tolist() == list(range(int(own.sum())))
    assert sorted(found, key=repr) == sorted(texts, key=repr)
    assert torch.equal(batch.attention, batch.text >= 0)
    assert batch.attention.sum() == sum(map(len, texts))


@settings(max_examples=25)
@given(TEXTS.filter(bool))
def test_packed_texts_do_not_see_one_another(texts: list[Encoded]):
    batch = pack(texts, width=12, pad=0)
    for row in range(len(batch)):
        for t in range(12):
            for s in range(12):
                expected = s <= t and bool(batch.text[row, s] == batch.text[row, t])  # slow, as it is said
                assert bool(batch.visible[row, t, s]) == expected


def test_best_fit_fills_rows():
    texts = [encoded([0], [1] * (length - 1)) for length in (7, 3, 5, 5, 2, 8)]
    assert len(pack(texts, width=10, pad=0)) == 3  # 30 tokens: 8 + 2, 7 + 3, 5 + 5
