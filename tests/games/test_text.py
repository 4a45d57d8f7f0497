"""Text as a game: what a sampled answer is as a batch, it is as an episode."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tutelage.games.make import make
from tutelage.games.spec import CannotSnapshot, GameError
from tutelage.games.text import EOS, PAD, TextGame
from tutelage.nets.language import make_model
from tutelage.nets.sampling import sample

ADDRESSES = ("text:valence", "text:valence-once", "text:tldr?domain=home", "text:sentiment")


def a_game(address: str = ADDRESSES[0], copies: int = 5) -> TextGame:
    game = make(address, copies)
    assert isinstance(game, TextGame)
    return game


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_game_pays_what_the_text_is_worth(address: str):
    game, generator = a_game(address), torch.Generator().manual_seed(0)
    world = game.world
    demonstrations = world.demonstrations(5, generator)
    answers = [[world.ids[word] for word in f"{answer} <eos>".split()] for _, answer in demonstrations]
    game.reset(range(5))
    prompts = [game.text(copy)[0] for copy in range(5)]
    paid, alive = torch.zeros(5), torch.ones(5, dtype=torch.bool)
    for t in range(max(map(len, answers))):
        step = game.step(torch.tensor([answer[t] if t < len(answer) else EOS for answer in answers]))
        paid += torch.where(alive, step.reward, 0.0)
        assert torch.equal(step.terminated, step.boundary) and torch.equal(
            step.terminated[alive].float(), (step.reward != 0)[alive].float()
        )
        alive &= ~step.terminated
        game.reset(where=step.boundary)
    gold = world.gold_of(prompts, [f"{answer} <eos>" for _, answer in demonstrations])
    torch.testing.assert_close(paid, gold)


def test_a_sampled_answer_is_an_episode():
    # Tokens are actions, `response` is the mask, EOS terminates, the prompt is the first observation.
    game = a_game(copies=6)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(game.world.ids)), eos_token="<eos>")
    model = make_model("gpt2?layers=1&width=16&heads=2&context=64", torch.Generator().manual_seed(0), tokenizer)
    first = game.reset(range(6))[:, : game.world.prompt_tokens]
    out = sample(model, first, first != PAD, game.world.answer_tokens, EOS, torch.Generator().manual_seed(1))
    asked = game.world.prompt_tokens
    rewards, masks, playing = [], [], torch.ones(6, dtype=torch.bool)
    for t in range(asked, out.tokens.shape[1]):
        masks.append(playing.clone())
        step = game.step(out.tokens[:, t])
        rewards.append(torch.where(playing, step.reward, 0.0))
        ends = step.terminated & playing
        assert torch.equal(ends & (out.tokens[:, t] == EOS), ends & out.finished)
        playing &= ~step.terminated
        game.reset(where=step.boundary)
    assert torch.equal(torch.stack(masks, 1), out.response[:, asked:])
    gold = game.world.gold(out.tokens, out.attention, out.response)
    torch.testing.assert_close(torch.stack(rewards).sum(0), gold)


def test_the_longest_answer_ends_the_episode():
    game = a_game(copies=1)
    game.reset([0])
    word = game.world.ids["tree"]
    for t in range(game.world.answer_tokens):
        step = game.step(torch.tensor([word]))
        assert bool(step.terminated) == (t == game.world.answer_tokens - 1)
    assert step.reward.item() == -3.0  # no EOS


def test_prompts_come_from_the_seed_of_the_copy():
    game, alone = a_game(copies=3), a_game(copies=1)
    seen = game.reset([4, 5, 4])
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], alone.reset([5])[0])
    again = game.reset(where=torch.tensor([False, True, False]))
    assert torch.equal(again[0], seen[0]) and torch.equal(again[1], alone.reset()[0])


def test_a_snapshot_continues_to_the_same_bits():
    game, other = a_game(copies=2), a_game(copies=1)
    game.reset([0, 1])
    game.step(torch.tensor([5, 6]))
    kept = game.snapshot(1)
    other.restore(0, kept)
    for token in (9, EOS):
        ours, theirs = game.step(torch.tensor([4, token])), other.step(torch.tensor([token]))
        assert isinstance(ours.observation, torch.Tensor) and isinstance(theirs.observation, torch.Tensor)
        assert torch.equal(ours.observation[1], theirs.observation[0]) and ours.reward[1] == theirs.reward[0]
    assert torch.equal(game.reset(where=torch.tensor([False, True]))[1], other.reset()[0])
    with pytest.raises(CannotSnapshot, match="text:tldr"):
        other.restore(0, {**kept, "game": "text:tldr"})


def test_bad_steps():
    game = a_game(copies=2)
    with pytest.raises(GameError, match="without a seed"):
        game.reset()
    with pytest.raises(GameError, match="3 seeds for 2 copies"):
        game.reset([1, 2, 3])
    with pytest.raises(GameError, match="outside an episode"):
        game.step(torch.tensor([3, 3]))
    game.reset([0, 1])
    for actions, words in ((torch.tensor([3, 99]), "token 99"), (torch.tensor([3]), "one token each"), (torch.ones(2), "one token each")):
        with pytest.raises(GameError, match=words):
            game.step(actions)
    with pytest.raises(GameError, match="text:valenc"):
        make("text:valenc", 1)
