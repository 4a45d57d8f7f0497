"""Our sampler against transformers' and against the scoring pass."""

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tutelage.nets.language import LanguageModel, ModelError, make_model
from tutelage.nets.sampling import Sampled, _draw, sample

WORDS, EOS = 40, 2
SIZES = "layers=2&width=32&heads=4&context=64"
KINDS = (f"gpt2?{SIZES}", f"llama?{SIZES}&kv_heads=2", f"qwen2?{SIZES}&sliding_window=8&use_sliding_window=true&max_window_layers=1")


def a_model(kind: str = KINDS[0]) -> LanguageModel:
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}))
    return make_model(kind, torch.Generator().manual_seed(0), PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{EOS}"))


def prompts() -> tuple[Tensor, Tensor]:
    """Three of 9, 5 and 7 tokens, padded left."""
    tokens = torch.randint(3, WORDS, (3, 9), generator=torch.Generator().manual_seed(1))
    real = torch.ones(3, 9, dtype=torch.bool)
    for row, length in enumerate((9, 5, 7)):
        real[row, : 9 - length] = False
    return torch.where(real, tokens, 0), real


def restless(kind: str) -> LanguageModel:
    """Of probabilities that are not all nearly equal."""
    model = a_model(kind)
    with torch.no_grad():
        for p in model.parameters():
            p *= 4.0
    return model


def drawn(model: LanguageModel, seed: int = 0, new: int = 20, eos: int = EOS, **options: Any) -> Sampled:
    return sample(model, *prompts(), new, eos, torch.Generator().manual_seed(seed), **options)


def ending(model: LanguageModel, **options: Any) -> tuple[Sampled, int]:
    """Answers of which some end, and by what: a token that came up in the middle of the first takes the part of EOS."""
    eos = int(drawn(model, **options).tokens[0, 19])
    out = drawn(model, eos=eos, **options)
    assert out.finished.any()
    return out, eos


@pytest.fixture(params=KINDS, ids=["gpt2", "llama", "windowed"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return restless(request.param)


def test_greedy_answers_are_those_of_transformers(model: LanguageModel):
    tokens, real = prompts()
    for eos in (EOS, *drawn(model, greedy=True).tokens[:, 12].tolist()):  # tokens that do come up end answers early
        ours = sample(model, tokens, real, 20, eos, torch.Generator(), greedy=True)
        theirs = model.eval().module.generate(
            input_ids=tokens, attention_mask=real.long(), do_sample=False, max_new_tokens=20, eos_token_id=eos, pad_token_id=eos
        )
        assert torch.equal(ours.tokens, theirs[:, : ours.tokens.shape[1]])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("samples", [1, 3])
def test_log_probs_are_those_of_the_scoring_pass(model: LanguageModel, temperature: float, samples: int):
    out, _ = ending(model, temperature=temperature, samples=samples)
    assert len(out.tokens) == 3 * samples
    scored = model.log_probs(out.tokens, out.attention, out.response, temperature)
    torch.testing.assert_close(out.logp, scored, atol=1e-5, rtol=1e-5)


def test_what_an_answer_is(model: LanguageModel):
    (out, eos), (tokens, real) = ending(model, samples=4), prompts()
    assert torch.equal(out.tokens[:, :9], tokens.repeat_interleave(4, 0)) and torch.equal(
        out.attention[:, :9], real.repeat_interleave(4, 0)
    )
    assert not out.response[:, :9].any() and torch.equal(out.response[:, 9:], out.attention[:, 9:])
    for row in range(len(out.tokens)):
        answer = out.tokens[row][out.response[row]].tolist()
        assert out.response[row, 9 : 9 + len(answer)].all()
        assert eos not in answer[:-1] and (answer[-1] == eos) == out.finished[row].item()
        assert out.finished[row] or len(answer) == out.tokens.shape[1] - 9
    assert (out.logp[~out.response] == 0).all()


def test_the_same_generator_draws_the_same(model: LanguageModel):
    first, again, other = drawn(model, 1), drawn(model, 1), drawn(model, 2)
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.logp, again.logp)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_a_text_does_not_depend_on_when_others_end(model: LanguageModel):
    # Its numbers are drawn for it whether or not the rest of the batch is still there.
    before = torch.get_rng_state()
    out, eos = ending(model)
    whole = drawn(model, new=30, eos=eos)
    for row in range(3):
        answers = [x.tokens[row][x.response[row]][:20] for x in (out, whole)]
        assert torch.equal(*answers)
    assert torch.equal(before, torch.get_rng_state())


def test_draws_follow_the_distribution():
    model = restless(KINDS[0])
    tokens, real = prompts()
    out = sample(model, tokens[:1], real[:1], 1, EOS, torch.Generator().manual_seed(0), temperature=0.8, samples=20_000)
    expected = (model.logits(tokens[:1], real[:1])[0, -1] / 0.8).softmax(-1)
    found = torch.bincount(out.tokens[:, -1], minlength=WORDS) / 20_000
    deviation = (expected * (1 - expected) / 20_000).sqrt()
    assert ((found - expected).abs() < 4.5 * deviation + 1e-4).all()


def test_words_at_the_end_of_a_large_vocabulary_can_be_drawn():
    logits = torch.full((1, 50_000), -17.0)  # each 4e-8 of the first: less than single precision can add to 1
    logits[0, 0] = 0.0
    share = logits.softmax(-1).double()
    uniform = (share.cumsum(-1) - 0.5 * share)[0, 1::500, None] / share.sum()
    assert [int(_draw(logits, one)) for one in uniform] == list(range(1, 50_000, 500))


def test_filters_keep_what_they_should_and_warn():
    model = restless(KINDS[0])
    tokens, real = prompts()
    ordered = model.logits(tokens[:1], real[:1])[0, -1].softmax(-1).sort(descending=True)
    reach = int((ordered.values.cumsum(0) < 0.6).sum()) + 1
    filters: list[tuple[dict[str, Any], int]] = [({"top_k": 3}, 3), ({"top_p": 0.6}, reach)]
    for options, allowed in filters:
        with pytest.warns(UserWarning, match="were not drawn from"):
            out = sample(model, tokens[:1], real[:1], 1, EOS, torch.Generator().manual_seed(0), samples=2000, **options)
        assert set(out.tokens[:, -1].tolist()) == set(ordered.indices[:allowed].tolist())
        scored = model.log_probs(out.tokens, out.attention, out.response)
        torch.testing.assert_close(out.logp, scored, atol=1e-5, rtol=1e-5)  # of the whole distribution, as the warning says
    with pytest.warns(UserWarning, match="min_new_tokens=6"):
        out = drawn(model, min_new_tokens=6, samples=20)
    assert out.response.sum(1).min() >= 6


def test_plain_sampling_does_not_warn(recwarn: pytest.WarningsRecorder):
    drawn(restless(KINDS[0]))
    assert not [w for w in recwarn if "log-probabilities" in str(w.message)]


def test_an_immediate_end():
    model = a_model()
    with torch.no_grad():
        model.module.transformer.ln_f.weight.zero_()
        model.module.transformer.ln_f.bias.copy_(5000 * model.head()[0][EOS])  # only EOS is likely
    out = drawn(model)
    assert out.tokens.shape == (3, 10) and out.finished.all() and (out.response.sum(1) == 1).all()


@pytest.mark.parametrize("row", [[False] * 9, [True] * 8 + [False], [True] * 4 + [False] + [True] * 4])
def test_prompts_that_cannot_be_continued(row: list[bool]):
    tokens, real = prompts()
    real[1] = torch.tensor(row)
    with pytest.raises(ModelError, match="prompt 1 is empty or has padding"):
        sample(a_model(), tokens, real, 5, EOS, torch.Generator())


def test_what_does_not_fit():
    with pytest.raises(ModelError, match="9 tokens and 56 new ones do not fit into the model's context of 64"):
        drawn(a_model(), new=56)
    with pytest.raises(ModelError, match="temperature=0.0"):
        drawn(a_model(), temperature=0.0)
