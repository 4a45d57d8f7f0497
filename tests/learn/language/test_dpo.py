"""DPO and its neighbors: golden values, gradients against formulas written out, and a reference that is never mistaken."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.learn.language.conftest import ADDRESS, BOS, EOS, generator, gradient_of, pairs, same_bits_after_resuming
from tutelage.experience.text import Encoded, encoded
from tutelage.learn.language.descent import Optimization, TrainingError
from tutelage.learn.language.dpo import DPO, FREE, LOSSES, Config, PairLogp
from tutelage.learn.language.reference import digests, refuse_changes, text_logp
from tutelage.nets.language import LoRA, make_model

GOLDEN = {
    "dpo": (Config(), 0.6209570),
    "cdpo": (Config(label_smoothing=0.1), 0.6359570),
    "robust": (Config(loss="robust", label_smoothing=0.1), 0.6022070),
    "hinge": (Config(loss="hinge"), 0.85),
    "ipo": (Config(loss="ipo"), 12.25),
    "ipo-mean": (Config(loss="ipo-mean"), 22.404444),
    "simpo": (Config(loss="simpo", beta=2.0), 0.3132617),
    "orpo": (Config(loss="orpo"), 2.0288751),
}
_logps = torch.tensor([-12.0, -15.0, -13.0, -14.5, 6.0, 5.0], dtype=torch.float64)[:, None]
PAIR = PairLogp(_logps[0], _logps[1], _logps[2], _logps[3], _logps[4], _logps[5], torch.zeros(1, 0).double())

sigma = lambda x: 1.0 / (1.0 + math.exp(-x))
SLOW: dict[str, Callable[[float, float], float]] = {
    "dpo": lambda w, l: -math.log(sigma(0.1 * (w + 13.0 - l - 14.5))),
    "cdpo": lambda w, l: -0.9 * math.log(sigma(0.1 * (w + 13.0 - l - 14.5))) - 0.1 * math.log(sigma(-0.1 * (w + 13.0 - l - 14.5))),
    "robust": lambda w, l: (
        -0.9 * math.log(sigma(0.1 * (w + 13.0 - l - 14.5))) + 0.1 * math.log(sigma(-0.1 * (w + 13.0 - l - 14.5)))
    )
    / 0.8,
    "hinge": lambda w, l: max(0.0, 1.0 - 0.1 * (w + 13.0 - l - 14.5)),
    "ipo": lambda w, l: (w + 13.0 - l - 14.5 - 5.0) ** 2,
    "ipo-mean": lambda w, l: ((w + 13.0) / 6.0 - (l + 14.5) / 5.0 - 5.0) ** 2,
    "simpo": lambda w, l: -math.log(sigma(2.0 * (w / 6.0 - l / 5.0) - 1.0)),
    "orpo": lambda w, l: (
        -w / 6.0
        - 0.1
        * math.log(
            sigma(w / 6.0 - math.log(1.0 - math.exp(w / 6.0)) - l / 5.0 + math.log(1.0 - math.exp(l / 5.0)))
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_and_gradients_against_a_slow_version(name):
    config, expected = GOLDEN[name]
    w, l = (x.clone().requires_grad_() for x in PAIR[:2])
    loss = LOSSES[config.loss](PAIR._replace(chosen=w, rejected=l), config)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6) and SLOW[name](-12.0, -15.0) == pytest.approx(expected, abs=1e-6)
    loss.sum().backward()
    h = 1e-5
    assert float(w.grad) == pytest.approx((SLOW[name](-12.0 + h, -15.0) - SLOW[name](-12.0 - h, -15.0)) / (2 * h), abs=1e-6)  # type: ignore[arg-type]
    assert float(l.grad) == pytest.approx((SLOW[name](-12.0, -15.0 + h) - SLOW[name](-12.0, -15.0 - h)) / (2 * h), abs=1e-6)  # type: ignore[arg-type]


def test_dpo_norm_is_dpo_of_means_and_modpo_takes_off_what_others_explain():
    norm = LOSSES["dpo-norm"](PAIR, Config(loss="dpo-norm", beta=5.0))
    assert float(norm) == pytest.approx(-math.log(sigma(5.0 * (1.0 / 6.0 + 0.5 / 5.0))), abs=1e-6)
    pair = PAIR._replace(margins=torch.tensor([[2.0]], dtype=torch.float64))
    modpo = LOSSES["modpo"](pair, Config(loss="modpo", objective_weights=(0.5, 0.5)))
    assert float(modpo) == pytest.approx(-math.log(sigma((0.1 * 1.5 - 0.5 * 2.0) / 0.5)), abs=1e-6)


def test_the_gradient_of_a_batch_is_the_papers(model):
    """-beta sigma(-beta h) (grad log pi(y_w) - grad log pi(y_l)), text by text."""
    rows = pairs(4)
    found = gradient_of(DPO(Config(batch_size=4, beta=0.5), model, rows, generator(), torch.full((4, 2), -9.0)))
    model.zero_grad()
    slow = torch.zeros_like(found)
    for pair in rows:
        logp = [
            model.log_probs(*(x[None] for x in (torch.tensor(t.tokens), torch.ones(len(t)).bool(), torch.tensor(t.response)))).sum()
            for t in pair
        ]
        weight = 0.5 * sigma(-0.5 * float((logp[0] - logp[1]).detach()))
        grads = torch.autograd.grad(weight * (logp[1] - logp[0]), list(model.parameters()), allow_unused=True)
        slow += torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(model.parameters(), grads, strict=True)]) / 4
    assert torch.allclose(found, slow, atol=1e-6)


@pytest.mark.parametrize("name", ["dpo", "orpo", "simpo"])
def test_gradients_of_pieces_are_that_of_the_batch(model, name):
    make = lambda size: DPO(Config(loss=name, batch_size=6, microbatch=size, nll_coefficient=0.1), model, pairs(6), generator())
    whole = gradient_of(make(None))
    model.zero_grad()
    assert torch.allclose(whole, gradient_of(make(4)), atol=1e-6)


def test_before_the_first_step_nothing_is_preferred(model):
    metrics = DPO(Config(batch_size=8, live_reference=True), model, pairs(8), generator()).update()
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["accuracy"] == metrics["reward/chosen"] == metrics["reward/rejected"] == 0.0


def test_a_kept_reference_is_a_live_one(model):
    config: dict[str, Any] = dict(epochs=3, batch_size=4, learning_rate=1e-2, optimizer=Optimization(schedule="constant"))
    other = model.copy().requires_grad_(True)
    kept = DPO(Config(**config), model, pairs(8), generator())
    live = DPO(Config(**config, live_reference=True), other, pairs(8), generator())
    for _ in range(6):
        one, two = kept.update(), live.update()
        assert {k: pytest.approx(v, abs=1e-4) for k, v in one.items()} == two
    assert kept.live is None and live.live is not None


def test_adapters_off_are_the_reference(tokenizer):
    adapted = make_model(ADDRESS, generator(), tokenizer, lora=LoRA(rank=2))
    plain = make_model(ADDRESS, generator(), tokenizer)
    learner = DPO(Config(batch_size=4, learning_rate=1e-2, live_reference=True, epochs=2), adapted, pairs(4), generator())
    for _ in range(2):
        learner.update()
    texts = [text for pair in pairs(4) for text in pair]
    assert torch.allclose(learner.reference_logp(pairs(4)).flatten(), text_logp(plain, texts), atol=1e-4)
    assert not torch.allclose(text_logp(adapted, texts), text_logp(plain, texts), atol=1e-4)


def test_unseen_pairs_are_held_to_the_same_reference(tokenizer):
    adapted = make_model(ADDRESS, generator(), tokenizer, lora=LoRA(rank=2))
    assert DPO(Config(live_reference=True), adapted, pairs(4), generator()).evaluate(pairs(4, seed=9))["loss"] == pytest.approx(math.log(2))
    with pytest.raises(TrainingError, match="without what the reference says of them"):
        DPO(Config(), adapted, pairs(4), generator()).evaluate(pairs(4, seed=9))


@pytest.mark.parametrize("loss", ["simpo", "orpo", "dpo-norm", "ipo-mean"])
def test_accuracy_compares_what_the_loss_compares(model, loss):
    """Per token the longer answer is the better one, in sum the shorter."""
    numbers = dict(chosen=-30.0, chosen_length=20.0, reference_chosen=-27.0, rejected=-15.0, rejected_length=5.0, reference_rejected=-13.0)
    if loss in FREE:
        numbers |= dict(reference_chosen=0.0, reference_rejected=0.0)
    pair = PAIR._replace(**{name: torch.tensor([value]) for name, value in numbers.items()})
    told = DPO(Config(loss=loss), model, pairs(2), generator())._measures(pair, torch.zeros(1))
    assert told["accuracy"] == 1.0 and told["reward/margin"] > 0.0


def test_kept_numbers_of_other_inputs_are_refused(model):
    rows = [text for pair in pairs(3) for text in pair]
    about: dict[str, Any] = dict(tokenizer="{}", template="t", max_length=32)
    saved = digests(model, rows, **about)
    refuse_changes(saved, digests(model, rows, **about), "reference.safetensors")
    changes = {
        "tokenizer": digests(model, rows, **about | {"tokenizer": "[]"}),
        "template": digests(model, rows, **about | {"template": "u"}),
        "max_length": digests(model, rows, **about | {"max_length": 31}),
        "texts": digests(model, rows[1:], **about),
    }
    with torch.no_grad():
        next(model.parameters())[0] += 1e-3
    changes["model"] = digests(model, rows, **about)
    for name, now in changes.items():
        with pytest.raises(TrainingError, match=f"reference.safetensors holds a reference's log-probabilities for another {name};"):
            refuse_changes(saved, now, "reference.safetensors")


@pytest.mark.parametrize("settings", [dict(), dict(live_reference=True), dict(loss="orpo")])
def test_the_same_bits_from_the_same_seed_and_after_resuming(tokenizer, settings):
    config = Config(epochs=9, batch_size=4, learning_rate=1e-2, optimizer=Optimization(warmup=2), **settings)
    same_bits_after_resuming(lambda: DPO(config, make_model(ADDRESS, generator(), tokenizer), pairs(10), generator(3)), before=3)


def test_it_learns_what_is_preferred(model):
    rows = [(encoded([BOS, 3], [4, 7, EOS]), encoded([BOS, 3], [4, 8, EOS])) for _ in range(16)]
    learner = DPO(
        Config(epochs=20, batch_size=16, learning_rate=1e-2, optimizer=Optimization(schedule="constant")), model, rows, generator()
    )
    while learner.updates < learner.total:
        metrics = learner.update()
    assert metrics["accuracy"] == 1.0 and metrics["reward/margin"] > 0.3
    assert learner.evaluate(rows[:3], learner.reference[:3])["accuracy"] == 1.0


def test_a_pair_without_an_answer_and_margins_that_are_missing_are_named(model):
    empty = Encoded((BOS, 3), (False, False))
    with pytest.raises(TrainingError, match="pair 1: its rejected answer has no token"):
        DPO(Config(), model, [pairs(1)[0], (pairs(1)[0][0], empty)], generator())
    with pytest.raises(TrainingError, match=r"needs margins of shape \(1, 1\); none were given"):
        DPO(Config(loss="modpo", objective_weights=(0.5, 0.5)), model, pairs(1), generator())


def test_modpo_judges_unseen_pairs_with_their_margins(model):
    config, rows = Config(loss="modpo", objective_weights=(0.5, 0.5), batch_size=6), pairs(6)
    margins = torch.linspace(-2.0, 2.0, 6)[:, None]
    learner = DPO(config, model, rows, generator(), margins=margins)
    with pytest.raises(TrainingError, match="modpo needs their margins"):
        learner.evaluate(rows, learner.reference)
    found = learner.evaluate(rows, learner.reference, margins)["loss"]
    assert found != pytest.approx(learner.evaluate(rows, learner.reference, 0.0 * margins)["loss"], abs=1e-3)
    assert learner.update()["loss"] == pytest.approx(found, abs=1e-5)  # one batch of the same pairs, before it moves anything


@pytest.mark.parametrize("loss", ["ipo", "ipo-mean", "hinge", "orpo", "modpo"])
def test_label_smoothing_is_refused_where_it_would_do_nothing(model, loss):
    with pytest.raises(TrainingError, match=f"label_smoothing=0.1 was given for {loss}; it is for dpo, robust"):
        DPO(Config(loss=loss, label_smoothing=0.1), model, pairs(2), generator())
