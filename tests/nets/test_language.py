"""Models of transformers: padding changes nothing, everything is aligned to its token, folders are ordinary ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tutelage.nets.language import LanguageModel, LoRA, ModelError, ScoreModel, drawing_from, load_tokenizer, make_model, real_positions

WORDS, EOS = 40, 2
KINDS = ("gpt2?layers=2&width=32&heads=4&context=64", "llama?layers=2&width=32&heads=4&kv_heads=2&context=64")


def a_tokenizer(words: int = WORDS, **special: str) -> Any:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(words - 3))])}
    own = special if special else {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary)), **own)


def a_model(kind: str = KINDS[0], seed: int = 0, **options: Any) -> LanguageModel:
    return make_model(kind, torch.Generator().manual_seed(seed), a_tokenizer(), **options)


def some_tokens(rows: int = 3, length: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(3, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(tokens: Tensor, left: int, right: int, pad: int) -> tuple[Tensor, Tensor]:
    """The same texts between columns of padding, and where they are."""
    rows = len(tokens)
    wide = torch.cat([tokens.new_full((rows, left), pad), tokens, tokens.new_full((rows, right), pad)], 1)
    real = torch.zeros(wide.shape, dtype=torch.bool)
    real[:, left : left + tokens.shape[1]] = True
    return wide, real


def everywhere(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape, dtype=torch.bool)


@pytest.fixture(params=KINDS, ids=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return a_model(request.param)


def test_positions_count_real_tokens():
    assert real_positions(torch.tensor([[False, False, True, True, True]])).tolist() == [[0, 0, 0, 1, 2]]


def test_log_probs_are_aligned_to_their_token(model: LanguageModel):
    tokens = some_tokens()
    logp = model.log_probs(tokens, everywhere(tokens), everywhere(tokens), temperature=0.7)
    own = model.module(tokens).logits.div(0.7).log_softmax(-1)
    assert (logp[:, 0] == 0).all()
    torch.testing.assert_close(logp[:, 1:], own[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2), atol=1e-5, rtol=1e-5)


def test_only_what_is_wanted_is_computed_and_counts(model: LanguageModel):
    tokens = some_tokens()
    wanted = everywhere(tokens)
    wanted[:, :4] = False
    wanted[1] = False
    logp, every = (model.log_probs(tokens, everywhere(tokens), which) for which in (wanted, everywhere(tokens)))
    torch.testing.assert_close(logp, torch.where(wanted, every, 0.0), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pad", [0, EOS])
def test_padding_changes_nothing(model: LanguageModel, pad: int):
    # Also where the pad is EOS, and although a real EOS stands at the end.
    tokens = some_tokens()
    tokens[:, -1] = EOS
    plain = model.log_probs(tokens, everywhere(tokens), everywhere(tokens))
    critic = ScoreModel.of(model, torch.Generator().manual_seed(3))
    scores, values = critic.scores(tokens, everywhere(tokens)), critic.values(tokens, everywhere(tokens))
    length = tokens.shape[1]
    for left, right in ((0, 3), (5, 0), (2, 4)):
        wide, real = padded(tokens, left, right, pad)
        within = slice(left, left + length)
        torch.testing.assert_close(model.log_probs(wide, real, real)[:, within][:, 1:], plain[:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(critic.scores(wide, real), scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(critic.values(wide, real)[:, within], values, atol=1e-5, rtol=1e-5)


def test_padding_receives_no_gradient(model: LanguageModel):
    tokens = some_tokens()
    gradients = []
    for left, right in ((0, 0), (3, 0), (0, 4)):
        wide, real = padded(tokens, left, right, 0)
        wanted = real.clone()
        wanted[:, left] = False
        model.zero_grad()
        model.log_probs(wide, real, wanted).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_what_follows_eos_changes_nothing(model: LanguageModel):
    tokens, _ = padded(some_tokens(), 0, 4, 0)
    real = everywhere(tokens)
    real[:, 9:] = False
    other = tokens.clone()
    other[:, 9:] = 17
    critic = ScoreModel.of(model, torch.Generator().manual_seed(3))
    for asked in (
        lambda x: model.log_probs(x, real, real),
        lambda x: critic.scores(x, real),
        lambda x: critic.values(x, real)[:, :10],
    ):
        assert torch.equal(asked(tokens), asked(other))


@pytest.mark.parametrize(
    "kind", [*KINDS, "gptj?layers=2&width=32&heads=4&context=64&rotary_dim=8", "gpt_neox?layers=2&width=32&heads=4&context=64"]
)
def test_packed_texts_do_not_see_one_another(kind: str):
    model = a_model(kind)
    first, second = some_tokens(1, 6), some_tokens(1, 5, seed=2)
    together = torch.cat([first, second], 1)
    text = torch.tensor([[0] * 6 + [1] * 5])
    own = text[:, :, None] == text[:, None, :]
    positions = torch.tensor([[*range(6), *range(5)]])
    wanted = everywhere(together)
    wanted[:, 6] = False  # the first token of a text has no log-probability
    logp = model.log_probs(together, own, wanted, positions=positions)
    for part, alone in ((slice(0, 6), first), (slice(6, 11), second)):
        expected = model.log_probs(alone, everywhere(alone), everywhere(alone))
        torch.testing.assert_close(logp[:, part], expected, atol=1e-5, rtol=1e-5)


def test_packed_texts_are_not_for_a_sliding_window():
    model, tokens = a_model("mistral?layers=1&width=32&heads=4&context=64&sliding_window=4"), some_tokens(1, 6)
    with pytest.raises(ModelError, match="rows of 6 tokens with several texts were given to a model with a sliding window"):
        model.log_probs(tokens, torch.ones(1, 6, 6, dtype=torch.bool), everywhere(tokens), positions=torch.arange(6)[None])


def test_accumulated_gradients_are_those_of_the_batch(model: LanguageModel):
    tokens = some_tokens(rows=4)
    wanted = everywhere(tokens)
    wanted[0, :5] = False  # so that the parts differ in their numbers of tokens
    parameters = list(model.parameters())
    whole = torch.autograd.grad(-model.log_probs(tokens, everywhere(tokens), wanted).sum() / wanted[:, 1:].sum(), parameters)
    parts = [
        torch.autograd.grad(-model.log_probs(tokens[i : i + 2], wanted[i : i + 2] | True, wanted[i : i + 2]).sum(), parameters)
        for i in (0, 2)
    ]
    for total, *pieces in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(pieces) / wanted[:, 1:].sum(), total, atol=1e-6, rtol=1e-5)


def test_fresh_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    same, again, other = a_model(seed=4), a_model(seed=4), a_model(seed=5)
    assert torch.equal(before, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (same, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_dropout_is_off_unless_asked_for():
    tokens = some_tokens()
    plain, dropped = a_model(), a_model(dropout=0.5)
    assert torch.equal(*(plain.train(mode).log_probs(tokens, everywhere(tokens), everywhere(tokens)) for mode in (True, False)))
    generator = torch.Generator().manual_seed(0)
    with drawing_from(generator):
        first = dropped.train().log_probs(tokens, everywhere(tokens), everywhere(tokens))
        second = dropped.log_probs(tokens, everywhere(tokens), everywhere(tokens))
    assert not torch.equal(first, second)
    with drawing_from(torch.Generator().manual_seed(0)):
        assert torch.equal(dropped.log_probs(tokens, everywhere(tokens), everywhere(tokens)), first)


def test_checkpointing_changes_no_gradient():
    tokens = some_tokens()
    gradients = []
    for checkpointing in (False, True):
        model = a_model(checkpointing=checkpointing)
        assert any(getattr(part, "gradient_checkpointing", False) for part in model.modules()) == checkpointing
        model.log_probs(tokens, everywhere(tokens), everywhere(tokens)).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_stays_close(model: LanguageModel):
    tokens = some_tokens()
    exact = model.log_probs(tokens, everywhere(tokens), everywhere(tokens))
    model.activations = torch.bfloat16
    coarse = model.log_probs(tokens, everywhere(tokens), everywhere(tokens))
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, atol=0.05, rtol=0.05)
    coarse.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_adapters_off_are_a_frozen_copy(model: LanguageModel):
    tokens = some_tokens()
    frozen = model.copy()
    assert not any(p.requires_grad for p in frozen.parameters())
    adapted = LanguageModel(model.module, LoRA(rank=4))
    asked = lambda m: m.log_probs(tokens, everywhere(tokens), everywhere(tokens))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 0.5)
    for _ in range(2):  # the first step leaves one of the two factors where it was: the other one starts at zero
        optimizer.zero_grad()
        asked(adapted).mean().backward()
        optimizer.step()
    with adapted.reference() as reference:
        torch.testing.assert_close(asked(reference), asked(frozen), atol=1e-6, rtol=1e-6)
        assert not asked(reference).requires_grad
    assert (asked(adapted) - asked(frozen)).abs().max() > 1e-3


def test_a_model_without_adapters_has_no_reference_inside():
    with pytest.raises(ModelError, match="copy"), a_model().reference():
        pass


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_saved_model_is_an_ordinary_folder(model: LanguageModel, lora: LoRA | None, tmp_path: Path):
    model = LanguageModel(model.module, lora)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.01
    model.save(tmp_path, a_tokenizer())
    tokens = some_tokens()
    expected = model.logits(tokens, everywhere(tokens))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(theirs(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    ours = make_model(tmp_path, torch.Generator(), load_tokenizer(tmp_path))
    torch.testing.assert_close(ours.logits(tokens, everywhere(tokens)), expected, atol=1e-5, rtol=1e-5)


def test_a_score_model_keeps_its_shift(model: LanguageModel, tmp_path: Path):
    tokens = some_tokens()
    scorer = ScoreModel.of(model, torch.Generator().manual_seed(3))
    before = scorer.scores(tokens, everywhere(tokens))
    scorer.shift += before.mean().detach()
    after = scorer.scores(tokens, everywhere(tokens))
    assert abs(after.mean().item()) < 1e-6
    torch.testing.assert_close(after - after[0], before - before[0], atol=1e-6, rtol=1e-5)
    scorer.save(tmp_path, a_tokenizer())
    torch.testing.assert_close(ScoreModel.load(tmp_path).scores(tokens, everywhere(tokens)), after, atol=1e-6, rtol=1e-6)


def test_scores_and_values_are_read_where_they_belong(model: LanguageModel):
    tokens = some_tokens()
    scorer = ScoreModel.of(model, torch.Generator().manual_seed(3))
    values = scorer.values(tokens, everywhere(tokens))
    assert (values[:, 0] == 0).all()
    for t in (1, 4, 8):  # the value of token t is the score of what stands before it
        expected = scorer.scores(tokens[:, :t], everywhere(tokens[:, :t]))
        torch.testing.assert_close(values[:, t], expected, atol=1e-5, rtol=1e-5)


def test_the_first_weights_of_a_score_head():
    heads = torch.cat([ScoreModel.of(a_model(), torch.Generator().manual_seed(seed)).weight.detach() for seed in range(60)])
    assert heads.std().item() == pytest.approx(33**-0.5, rel=0.05)
    assert (ScoreModel.of(a_model(), None).weight == 0).all()


def test_a_score_model_is_on_its_own(model: LanguageModel):
    scorer = ScoreModel.of(LanguageModel(model.module, LoRA(rank=2)), torch.Generator().manual_seed(0))
    assert all(p.requires_grad for p in scorer.parameters())
    assert not {p.data_ptr() for p in scorer.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gpt3?layers=2", "no model_type"),
        ("gpt2?layer=2", "no option layer"),
        ("gpt2?layers", "no option"),
        ("gpt2?width=30&heads=4", "cannot be built|divisible"),
        ("gemma2?layers=1&width=16&heads=2&head_dim=8", "final_logit_softcapping"),
        ("bert?layers=1&width=16&heads=2", "see those that follow them"),
        ("roformer?layers=1&width=16&heads=2", "see those that follow them"),
        ("/no/such/folder", "a folder or a hub name"),
    ],
)
def test_addresses_that_name_no_model(address: str, words: str):
    with pytest.raises(ValueError, match=words) as refusal:
        make_model(address, torch.Generator(), a_tokenizer())
    assert "\n" not in str(refusal.value)


def test_bad_folders_and_tokenizers(tmp_path: Path):
    with pytest.raises(ModelError, match="none was given"):
        make_model(KINDS[0], torch.Generator())
    with pytest.raises(ModelError, match="tokenizer was expected"):
        load_tokenizer(tmp_path)
    a_tokenizer(pad_token="<pad>").save_pretrained(tmp_path / "endless")
    with pytest.raises(ModelError, match="no EOS"):
        load_tokenizer(tmp_path / "endless")
    a_model().save(tmp_path / "model")
    with pytest.raises(ModelError, match="belong to two models"):
        make_model(tmp_path / "model", torch.Generator(), a_tokenizer(WORDS + 1))
    with pytest.raises(ModelError, match="score_head"):
        ScoreModel.load(tmp_path / "model")
