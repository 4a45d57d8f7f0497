"""Rewards of texts: models alone and together, functions as TRL calls them, and what a bad one is told."""

import pytest
import torch
from torch import Tensor

from tests.learn.language.conftest import ADDRESS, generator, model, score_model, texts, tokenizer
from tutelage.experience.text import TextBatch, pad_right
from tutelage.nets.language import ScoreModel
from tutelage.rewards.source import RewardError
from tutelage.rewards.text import LearnedTextReward, ShorterTextReward, WeightedTextReward, WrittenTextReward, written_reward

__all__ = ["ADDRESS", "model", "score_model", "tokenizer"]
ROWS = [{"name": "ann"}, {"name": "bob"}, {"name": "eve"}]


@pytest.fixture
def batch() -> TextBatch:
    return pad_right(texts(3), 0)


def test_members_agree_in_three_ways(model, batch):
    members = [ScoreModel.of(model, generator(i)) for i in range(3)]
    each = torch.stack([member.scores(batch.tokens, batch.attention) for member in members]).detach()
    assert torch.allclose(LearnedTextReward(members, microbatch=2).scores(batch), each.mean(0), atol=1e-6)
    assert torch.allclose(LearnedTextReward(members, "worst").scores(batch), each.min(0).values, atol=1e-6)
    skeptical = LearnedTextReward(members, "disagreement", penalty=2.0).scores(batch)
    slow = [sum(x) / 3 - 2.0 * sum((y - sum(x) / 3) ** 2 for y in x) / 3 for x in each.T.tolist()]
    assert torch.allclose(skeptical, torch.tensor(slow), atol=1e-5)
    both = WeightedTextReward([LearnedTextReward(members[:1]), LearnedTextReward(members[1:2])], (0.25, 0.75))
    assert torch.allclose(both.scores(batch, ()), 0.25 * each[0] + 0.75 * each[1], atol=1e-6)
    shorter = ShorterTextReward(both, 0.1).scores(batch)
    assert torch.allclose(shorter, both.scores(batch, ()) - 0.1 * batch.response.sum(1), atol=1e-6)


def test_a_function_gets_what_it_names(tokenizer, batch):
    told: dict[str, object] = {}

    def by_name(completions: list[str], name: list[str], **rest: object) -> list[float]:
        told.update(rest, completions=completions, name=name)
        return [float(len(text.split())) for text in completions]

    found = WrittenTextReward(by_name, tokenizer).scores(batch, ROWS)
    assert told["name"] == ["ann", "bob", "eve"] and set(told) == {"prompts", "completions", "completion_ids", "name"}
    assert found.tolist() == [float(mask.sum()) - 1 for mask in batch.response]  # EOS is no word
    assert WrittenTextReward(lambda completion_ids: [len(ids) for ids in completion_ids], tokenizer).scores(batch, ROWS).tolist() == [
        float(mask.sum()) for mask in batch.response
    ]


def test_columns_and_scores_that_only_some_texts_have(tokenizer, batch):
    rows = [{}, {"target": 3}, {"name": "eve"}]
    function = lambda completions, target, name: [None if value is None else float(value) for value in target]
    assert WrittenTextReward(function, tokenizer).scores(batch, rows).tolist() == [0.0, 3.0, 0.0]


def test_a_bad_function_gets_one_sentence(tokenizer, batch):
    def fails(completions: list[str]) -> list[float]:
        raise KeyError("lexicon")

    for function, sentence in (
        (fails, "the reward function fails failed on 3 answers: KeyError: 'lexicon'"),
        (lambda completions: [1.0], "gave 1 numbers for 3 answers; one each was expected"),
        (lambda completions: 1.0, "gave 1.0 for 3 answers; a list of as many numbers was expected"),
        (lambda completions: [1.0, "good", 2.0], "a list of as many numbers was expected"),
        (lambda completions: [1.0, float("nan"), 2.0], r"gave nan for answer 1 of 3 \('.+'\); a finite number was expected"),
    ):
        with pytest.raises(RewardError, match=sentence):
            WrittenTextReward(function, tokenizer).scores(batch, ROWS)


def test_a_reward_model_that_is_broken_is_told(score_model, batch):
    with torch.no_grad():
        score_model.bias.fill_(float("nan"))
    with pytest.raises(RewardError, match="the reward model gave nan for answer 0 of 3; a finite number was expected"):
        LearnedTextReward([score_model]).scores(batch)
    with pytest.raises(RewardError, match="no score model was given"):
        LearnedTextReward([])
    with pytest.raises(RewardError, match="1 weights were given for 0 rewards"):
        WeightedTextReward([], (1.0,))


def test_an_address_leads_to_a_function(tokenizer, batch, tmp_path, monkeypatch):
    (tmp_path / "my_text_reward.py").write_text("def score(completions):\n    return [2.0 for _ in completions]\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    found: Tensor = written_reward("py:my_text_reward:score", tokenizer).scores(batch, ())
    assert found.tolist() == [2.0] * 3
    for address, sentence in (
        ("my_text_reward.score", "py:module:function was expected"),
        ("py:my_text_reward:nothing", "leads to no function"),
        ("py:my_text_reward:number", "leads to a int; a function was expected"),
    ):
        with pytest.raises(RewardError, match=sentence):
            written_reward(address, tokenizer)
