"""Evaluation of models that are what they are said to be: a reference, itself at another temperature, a policy above the possible."""

import math
from dataclasses import replace

import pytest
import torch

from tutelage.evaluate.text import (
    Evaluation,
    FrontierPoint,
    Mean,
    answer,
    answer_kl,
    best_of_n_curve,
    evaluate_model,
    exact_frontier,
    excess,
    mean_with_error,
    optimum_at,
    reference_draws,
)
from tutelage.experience.text_encoding import TextEncoder
from tutelage.experience.tokenizers import word_tokenizer
from tutelage.games.text_worlds import EOS, Valence
from tutelage.nets.language import make_model

WORLD = Valence()
TOKENIZER = word_tokenizer(WORLD.words)
PROMPTS = [TextEncoder(TOKENIZER, 28).prompt(prompt) for prompt in WORLD.prompts(40, torch.Generator().manual_seed(0))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gold(text):
    return WORLD.gold(text.tokens, text.attention, text.response)


@pytest.fixture(scope="module")
def model():
    return make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(), TOKENIZER).copy()


def test_answers_in_pieces_are_those_of_prompts_one_by_one(model):
    answers = answer(model, PROMPTS, 24, EOS, generator(), samples=3, microbatch=50)
    assert len(answers.text) == 120 and answers.text.tokens.shape[1] == len(PROMPTS[0]) + 24
    for i in (0, 1, 2):
        assert answers.text.rows()[i].tokens[: len(PROMPTS[0])] == tuple(PROMPTS[0])
    real = model.log_probs(answers.text.tokens, answers.text.attention, answers.text.response)
    torch.testing.assert_close(answers.logp, real.detach(), atol=1e-5, rtol=1e-5)
    assert bool((answers.finished == ((answers.text.tokens == EOS) & answers.text.response).any(1)).all())
    assert answers.length.max() <= 24


def test_a_model_is_at_no_distance_from_itself_and_at_some_from_another(model):
    other = make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(1), TOKENIZER).copy()
    opponent = answer(model, PROMPTS, 24, EOS, generator(5))
    same, answers = evaluate_model(model, model, PROMPTS, gold, opponent, 24, EOS, generator())
    assert abs(same.kl.mean) < 1e-5 and same.gold.mean == pytest.approx(float(gold(answers.text).mean()))
    assert same.win.wins + same.win.ties + same.win.losses == 40 and 0.0 < same.distinct <= 1.0
    assert same.length == pytest.approx(float(answers.length.mean()))
    away, _ = evaluate_model(other, model, PROMPTS, gold, opponent, 24, EOS, generator())
    assert away.kl.mean > 2 * away.kl.error > 0.0


def test_the_estimate_of_kl_is_that_of_every_distribution_it_was_drawn_from(model):
    """One token per answer: the mean over samples against the sum over all words."""
    warm = answer(model, PROMPTS[:1], 1, EOS, generator(), temperature=1.0, samples=20_000, microbatch=20_000)
    reference = make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(2), TOKENIZER).copy()
    tokens = torch.tensor(PROMPTS[:1])
    p, q = (m.logits(tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1].log_softmax(-1) for m in (model, reference))
    found = mean_with_error(answer_kl(warm, reference))
    assert found.mean == pytest.approx(float((p.exp() * (p - q)).sum()), abs=4 * found.error + 1e-5)


def test_the_frontier_of_draws_and_what_lies_above_it(model):
    draws = reference_draws(model, PROMPTS[:3], [gold, lambda text: -gold(text)], 400, 24, EOS, generator())
    assert draws.shape == (2, 3, 400)
    torch.testing.assert_close(draws[0], -draws[1])
    frontier = exact_frontier(draws[0], (math.inf, 4.0, 2.0, 1.0), torch.tensor([2.0, 1.0, 1.0]))
    assert [point.kl for point in frontier] == sorted(point.kl for point in frontier)
    assert [point.gold for point in frontier] == sorted(point.gold for point in frontier)
    assert frontier[0].kl == 0.0 and frontier[0].gold == pytest.approx(float((draws[0].mean(1) * torch.tensor([0.5, 0.25, 0.25])).sum()))
    curve = best_of_n_curve(draws[0], draws[0], (1, 4))
    assert curve[0][1] == curve[0][2] == pytest.approx(float(draws[0].mean()), abs=1e-5) and curve[1][2] > curve[0][2]
    with pytest.raises(ValueError, match="n=500 was asked for"):
        best_of_n_curve(draws[0], draws[0], (500,))


def test_an_optimal_policy_is_not_above_what_is_possible():
    """Gold N(0, 1) under the reference: at price beta the optimum has KL 1 / (2 beta^2) and gold 1 / beta."""
    frontier = [FrontierPoint(beta, 0.5 / beta**2, 1.0 / beta, 0.0, 1000.0) for beta in (math.inf, 4.0, 2.0, 1.0)]
    for kl in (0.01, 0.07, 0.25, 0.5):
        best = optimum_at(frontier, kl)
        assert best is not None and -1e-12 <= best[0] - math.sqrt(2.0 * kl) < 0.06
    assert optimum_at(frontier, 0.51) is None and optimum_at(frontier[:1], 0.0) is None


def test_a_point_above_the_frontier_is_found():
    known = [(math.inf, 0.0, -1.0, 0.01, 4000.0), (1.0, 1.0, 1.0, 0.01, 100.0), (0.5, 2.0, 2.0, 0.01, 9.0)]
    frontier = [FrontierPoint(*numbers) for numbers in known]
    assert optimum_at(frontier, 0.5) == (0.5, 1.0)  # the tangent of the point that has enough draws
    assert optimum_at(frontier, 1.5) is None  # too few draws count there
    text = answer(make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(), TOKENIZER), PROMPTS, 8, EOS, generator())
    model = make_model("gpt2?layers=1&width=16&heads=2&context=32", generator(), TOKENIZER).copy()
    found, _ = evaluate_model(model, model, PROMPTS, gold, text, 8, EOS, generator())
    point = lambda gold, kl: replace(found, gold=Mean(gold, 0.05), kl=Mean(kl, 0.02))
    below, above = (excess(point(g, 0.5), frontier) for g in (0.3, 1.0))
    assert below is not None and above is not None and isinstance(found, Evaluation)
    assert below < -2.0 and above > 3.0
    assert excess(point(5.0, 1.9), frontier) is None
