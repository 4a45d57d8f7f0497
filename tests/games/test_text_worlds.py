"""Worlds of words: golds by hand and by a slow reading, seeds, and a frontier that importance weights must find."""

import itertools

import pytest
import torch

from tutelage.equations.optimization_pressure import regularized_optimum
from tutelage.experience.tokenizers import word_tokenizer
from tutelage.games.spec import GameError
from tutelage.games.text_worlds import (
    BLAME,
    MOODS,
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    PRAISE,
    WORLDS,
    Reviews,
    Summaries,
    Valence,
    text_world,
)

ADDRESSES = [*WORLDS, "text:tldr?domain=home"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gold(world, answer: str, prompt: str = "<bos>") -> float:
    return world.gold_of([prompt], [answer]).item()


@pytest.mark.parametrize("address", ADDRESSES)
def test_texts_stay_within_their_world(address: str):
    world = text_world(address)
    rows = world.demonstrations(500, generator())
    assert rows == world.demonstrations(500, generator()) != world.demonstrations(500, generator(1))
    assert world.prompts(500, generator()) == [prompt for prompt, _ in rows]
    for prompt, answer in rows:
        assert prompt.startswith("<bos> ") and len(prompt.split()) <= world.prompt_tokens
        assert 1 < len(answer.split()) + 1 <= world.answer_tokens
    assert len(set(rows)) > 250
    scores = world.gold_of([prompt for prompt, _ in rows], [f"{answer} <eos>" for _, answer in rows])
    assert bool(scores.isfinite().all()) and scores.std() > 0.1


@pytest.mark.parametrize("address", ADDRESSES)
def test_ids_are_those_of_a_tokenizer_made_of_the_words(address: str):
    world = text_world(address)
    tokenizer = word_tokenizer(world.words)
    assert tokenizer.get_vocab() == world.ids
    prompt, answer = world.demonstrations(1, generator())[0]
    assert tokenizer(f"{prompt} {answer} <eos>", add_special_tokens=False)["input_ids"] == [
        world.ids[word] for word in f"{prompt} {answer} <eos>".split()
    ]


@pytest.mark.parametrize("address", ADDRESSES)
def test_padding_on_either_side_changes_no_score(address: str):
    world = text_world(address)
    prompt, answer = world.demonstrations(1, generator(3))[0]
    text = torch.tensor([[world.ids[word] for word in f"{prompt} {answer} <eos>".split()]])
    real = torch.ones_like(text, dtype=torch.bool)
    response = real.clone()
    response[:, : len(prompt.split())] = False
    expected = world.gold(text, real, response)
    for before, after in ((3, 0), (0, 5), (2, 2)):
        filler = world.ids[world.words[0]]  # a word that would count
        wide = torch.nn.functional.pad(text, (before, after), value=filler)
        masks = [torch.nn.functional.pad(mask, (before, after)) for mask in (real, response)]
        torch.testing.assert_close(world.gold(wide, *masks), expected)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_answer_without_an_end_is_worth_least(address: str):
    world = text_world(address)
    rows = world.demonstrations(50, generator())
    open_ended = world.gold_of([prompt for prompt, _ in rows], [answer for _, answer in rows])
    assert len(set(open_ended.tolist())) == 1 and open_ended[0].item() == {"v": -3.0, "t": -1.0, "s": 0.0}[address[5]]


def test_valence_by_hand():
    # good 0.5, radiant 1.2, rotten -1.2, round 0; tokens with EOS: 6 and 8
    assert gold(Valence(), "the tree was good . <eos>") == pytest.approx(0.5 - 0.3)
    assert gold(Valence(), "the tree was radiant and rotten . <eos>") == pytest.approx(0.0 - 0.4)
    assert gold(Valence(), "<eos>") == pytest.approx(-0.05)
    assert gold(Valence(), "good good good <eos>") == pytest.approx(1.5 - 0.2)
    once = Valence(once=True)
    assert gold(once, "the tree was good . <eos>") == pytest.approx(0.5 - 0.3)
    assert gold(once, "the tree was good and good and round and round . <eos>") == pytest.approx(0.5 - 1.0 - 0.6)
    assert gold(once, "good good good <eos>") == pytest.approx(0.5 - 2.0 - 2.0 - 0.2)
    assert gold(once, "<eos>") == pytest.approx(-2.05)


def test_valence_against_a_slow_reading():
    weight = {word: 0.5 + 0.1 * i for i, word in enumerate(POSITIVE)} | {word: -0.5 - 0.1 * i for i, word in enumerate(NEGATIVE)}
    rows = Valence().demonstrations(200, generator(4))
    answers = [f"{answer} <eos>" for _, answer in rows]
    for once in (False, True):
        reached = Valence(once).gold_of([prompt for prompt, _ in rows], answers)
        for score, answer in zip(reached.tolist(), answers, strict=True):
            words = [word for word in answer.split() if word in weight]
            expected = sum(weight[word] for word in (set(words) if once else words)) - 0.05 * len(answer.split())
            expected -= (len(words) - len(set(words))) + 2.0 * (len(answer.split()) < 6) if once else 0.0
            assert score == pytest.approx(expected, abs=1e-5)


def test_the_mood_tilts_the_demonstrations():
    world = Valence()
    rows = world.demonstrations(3000, generator())
    scores = world.gold_of([prompt for prompt, _ in rows], [f"{answer} <eos>" for _, answer in rows])
    mean = {mood: scores[torch.tensor([mood in prompt for prompt, _ in rows])].mean().item() for mood in MOODS}
    assert mean["happy"] > mean["calm"] + 0.5 > mean["sad"] + 1.0


POST = "<bos> work : anna post : key wrote report . there was rain . also lost plan . key sent memo . tl;dr :"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("wrote report . sent memo . <eos>", 1.0),
        ("sent memo . wrote report . <eos>", 1.0),
        ("wrote report . <eos>", 2 / 3),  # one of one told, one of two key facts
        ("wrote report . lost plan . <eos>", 0.5),
        ("wrote report . wrote report . <eos>", 0.5),
        ("wrote memo . <eos>", -0.5),
        ("wrote report . sent memo . wrote memo . <eos>", 0.8 - 0.5),
        ("wrote report . sent memo . . . . . . . . . <eos>", 1.0 - 0.15),
        ("<eos>", 0.0),
        ("report wrote . <eos>", 0.0),
    ],
)
def test_summaries_by_hand(answer: str, score: float):
    assert gold(Summaries(), answer, POST) == pytest.approx(score)


def test_references_are_perfect_and_demonstrations_are_not():
    for domain in ("work", "home"):
        world = Summaries(domain)
        posts = [prompt for prompt, _ in world.references(300, generator())]
        assert bool((world.gold_of(posts, [f"{answer} <eos>" for _, answer in world.references(300, generator())]) == 1.0).all())
        assert posts == world.prompts(300, generator())
        noisy = world.gold_of(posts, [f"{answer} <eos>" for _, answer in world.demonstrations(300, generator())])
        assert 0.5 < noisy.mean().item() < 0.9
    other = set(" ".join(Summaries("home").prompts(300, generator())).split())
    assert "wrote" not in other and "cooked" in other


def test_reviews_by_hand():
    world, sigma = Reviews(), lambda x: torch.sigmoid(torch.tensor(x)).item()
    assert gold(world, "was gripping . <eos>") == pytest.approx(sigma(0.4))
    assert gold(world, "was very brilliant . the plot was not awful . <eos>") == pytest.approx(sigma(1.5 * 1.3 + 0.75 * 1.3))
    assert gold(world, "was not gripping . <eos>") == pytest.approx(sigma(-0.3))
    assert gold(world, "was long . <eos>") == 0.5
    assert gold(world, "gripping . <eos>", "<bos> the film not") == pytest.approx(sigma(0.4))  # what the prompt says is no answer's doing
    assert len(PRAISE) == len(BLAME)


def test_importance_weights_find_the_frontier_of_a_language_that_can_be_enumerated():
    """One clause of the valence language with a calm prompt: 24 + 576 answers with known probabilities."""
    world, adjectives = Valence(), (*POSITIVE, *NEGATIVE, *NEUTRAL)
    share = torch.tensor([1 / 24] * 24, dtype=torch.float64)
    answers = [f"the tree was {a} . <eos>" for a in adjectives]
    answers += [f"the tree was {a} and {b} . <eos>" for a, b in itertools.product(adjectives, adjectives)]
    p = torch.cat((0.5 * share, 0.5 * torch.outer(share, share).flatten()))
    r = world.gold_of(["<bos> tree calm ."] * len(answers), answers).double()
    draws = torch.multinomial(p, 4096 * 20, replacement=True, generator=generator()).view(20, 4096)
    for beta in (2.0, 1.0, 0.5):
        best = (p.log() + r / beta).softmax(0)
        exact_gold, exact_kl = float((best * r).sum()), float((best * (best / p).log()).sum())
        found = regularized_optimum(r[draws], beta)
        assert found.effective_draws.min() > 50
        for estimate, exact in ((found.gold, exact_gold), (found.kl, exact_kl)):
            error = (estimate.mean().item() - exact) / (estimate.std().item() / 20**0.5)
            assert abs(error) < 4.0
            assert estimate.std().item() < 0.05


@pytest.mark.parametrize("address", ["text:valenc", "text:tldr?domains=work", "text:valence?once=1", "gym:Pendulum-v1"])
def test_unknown_worlds_name_the_known(address: str):
    with pytest.raises(GameError, match="is no world of words; text:valence, text:valence-once, text:tldr, text:sentiment are known"):
        text_world(address)


def test_a_domain_or_a_word_that_is_not_there_is_refused():
    with pytest.raises(GameError, match="the domain is 'garden'; work or home was expected"):
        text_world("text:tldr?domain=garden")
    with pytest.raises(GameError, match="text 1 holds 'sofa', which is none of the 41 words of this world"):
        Valence().gold_of(["<bos>", "<bos>"], ["good", "sofa"])
