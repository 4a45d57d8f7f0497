"""What a run of a language model begins with: which rows are held out, what is refused, and what is told of rows that are missing."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from tutelage import cli
from tutelage.experience.text import Encoded, TextBatch, pad_right
from tutelage.experience.text_encoding import TextEncoder, TooLongError
from tutelage.experience.text_rows import Demonstration, Labeled, Pair, Prompt, TextRow
from tutelage.experience.tokenizers import train_bpe, word_tokenizer
from tutelage.experiment import language
from tutelage.experiment.checkpoint import CheckpointError
from tutelage.experiment.config import ConfigError, TextRunConfig, from_json, to_json
from tutelage.experiment.language import TextExperiment, train_text
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.run import RunError
from tutelage.experiment.text_materials import encode_prompts, encode_texts, model_address, open_rewards, open_score_models, split
from tutelage.experiment.text_policy import evaluate_text_run, generate
from tutelage.games.text_worlds import text_world
from tutelage.learn.language import dpo, kto, ppo_lm, reward_model, rounds, sft
from tutelage.learn.language.writing import Sampling

TINY = "gpt2?layers=1&width=16&heads=2&context=32"
WORLD = "text:valence"
PAIRS = dpo.Config(batch_size=8)
SHORT = Sampling(max_new_tokens=8)
GOOD, BAD, PLAIN = "the tree was good .", "the tree was bad .", "the tree was warm ."


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("words")
    word_tokenizer(text_world(WORLD).words).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def scorer(words: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two reward models."""
    out = tmp_path_factory.mktemp("scorer") / "run"
    algorithm = reward_model.Config(members=2, batch_size=8)
    train_text(TextRunConfig(algorithm, TINY, WORLD, tokenizer=words, rows=16, answers=2), out)
    return out


def written(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ranked(count: int, answers: Sequence[str] = (GOOD, BAD, PLAIN), ranks: Sequence[int] = (1, 3, 2)) -> list[dict[str, Any]]:
    prompts = ["<bos> tree happy .", "<bos> tree sad .", "<bos> house happy .", "<bos> house sad ."]
    return [{"prompt": prompts[i % 4], "completions": list(answers), "ranks": list(ranks)} for i in range(count)]


def told(config: TextRunConfig, out: Path) -> list[str]:
    with TextExperiment(replace(config, preflight="off"), out) as experiment:
        experiment.begin()
    return [event["message"] for event in read_events(out / EVENTS) if event["event"] == "warning"]


# --- what is held out --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_on_one_side():
    rows: list[TextRow] = [Pair(prompt=f"p{i % 20}", chosen=f"a{i}", rejected="b") for i in range(60)]
    own, held = split(rows, 0.2, Generator().manual_seed(1))
    assert len(own) == 48 and len(held) == 12 and not {row.prompt for row in own} & {row.prompt for row in held}
    assert own + held != rows and sorted([*own, *held], key=rows.index) == rows
    # Nothing could be held out of one prompt, so its rows are; and draws of a world are held out one by one.
    alone: list[TextRow] = [Pair(prompt="p", chosen=f"a{i}", rejected="b") for i in range(10)]
    assert len(split(alone, 0.2, Generator().manual_seed(1))[1]) == 2
    drawn = split(rows, 0.2, Generator().manual_seed(1), by_prompt=False)
    assert len(drawn[1]) == 12 and {row.prompt for row in drawn[0]} & {row.prompt for row in drawn[1]}
    assert split(rows[:1], 0.9, Generator())[1] == [] and split([], 0.5, Generator()) == ([], [])


@pytest.mark.parametrize("algorithm", [PAIRS, kto.Config(batch_size=8)])
def test_no_answer_is_on_both_sides(algorithm: Any, words: str, tmp_path: Path):
    data = written(tmp_path / "ranked.jsonl", ranked(16))
    with TextExperiment(TextRunConfig(algorithm, TINY, data, tokenizer=words, held_out=0.25), tmp_path / "run") as experiment:
        sides = experiment.materials.rows, experiment.materials.held_out
        own, held = ({row.prompt for row in side} for side in sides)
        assert len(own) == 3 and len(held) == 1 and not own & held
        assert len(sides[1]) == (4 * 3 if algorithm is PAIRS else 4 * 2)


# --- what changed since the run began ------------------------------------------------------------------------------------------


def test_another_reward_model_critic_or_pretraining_is_refused(words: str, scorer: Path, tmp_path: Path):
    for name in ("rm", "critic"):
        shutil.copytree(scorer / "model-0", tmp_path / name)
    texts = [{"text": f"<bos> {GOOD}"}] * 4
    algorithm = ppo_lm.Config(iterations=3, episodes=4, batch_size=4, epochs=1, sampling=SHORT, ptx_coefficient=0.1)
    config = TextRunConfig(
        algorithm, TINY, WORLD, tokenizer=words, rows=8, reward=(str(tmp_path / "rm"),), critic=str(tmp_path / "critic"),
        pretraining=written(tmp_path / "texts.jsonl", texts),
    )  # fmt: skip
    with TextExperiment(config, tmp_path / "run") as experiment:
        experiment.begin()
    for name in ("rm", "critic"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(scorer / "model-1", tmp_path / name)
    written(tmp_path / "texts.jsonl", [*texts, {"text": f"<bos> {BAD}"}])
    said = r"the critic \(.*critic\) and the pretraining \(.*\) and the reward \(.*rm\) changed"
    with TextExperiment(config, tmp_path / "run") as experiment, pytest.raises(CheckpointError, match=said):
        experiment.restore()


def test_another_reference_margin_or_column_is_refused(words: str, tmp_path: Path):
    train_text(TextRunConfig(sft.Config(batch_size=8), TINY, WORLD, tokenizer=words, rows=16), tmp_path / "sft")
    rows = [{"prompt": f"<bos> tree {mood} .", "chosen": GOOD, "rejected": BAD, "margin": 0.5} for mood in ("happy", "sad")]
    data = written(tmp_path / "pairs.jsonl", rows * 4)
    live = TextRunConfig(replace(PAIRS, live_reference=True), TINY, data, tokenizer=words, reference=str(tmp_path / "sft"))
    fit = TextRunConfig(reward_model.Config(batch_size=4), TINY, data, tokenizer=words)
    for name, config in (("live", live), ("fit", fit)):
        with TextExperiment(config, tmp_path / name) as experiment:
            experiment.begin()
    shutil.rmtree(tmp_path / "sft")
    train_text(TextRunConfig(sft.Config(batch_size=4), TINY, WORLD, tokenizer=words, rows=16), tmp_path / "sft")
    with TextExperiment(live, tmp_path / "live") as experiment, pytest.raises(CheckpointError, match=r"the reference \(.*sft\) changed"):
        experiment.restore()
    written(tmp_path / "pairs.jsonl", [row | {"margin": 9.0} for row in rows] * 4)
    with TextExperiment(fit, tmp_path / "fit") as experiment, pytest.raises(CheckpointError, match=r"the data \(.*\) changed"):
        experiment.restore()


# --- other models ----------------------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_ended_gives_no_models(scorer: Path, words: str, tmp_path: Path):
    tokenizer = word_tokenizer(text_world(WORLD).words)
    assert len(open_score_models(str(scorer), tokenizer)) == 2
    shutil.copytree(scorer, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "model-1")  # killed between its two nets, so without the last event
    log = (tmp_path / "half" / EVENTS).read_text().splitlines()
    assert json.loads(log[-1])["event"] == "end"
    (tmp_path / "half" / EVENTS).write_text("\n".join(log[:-1]) + "\n")
    with pytest.raises(ConfigError, match="half is a run without a finished model; `tutelage resume .*half` finishes it"):
        open_score_models(str(tmp_path / "half"), tokenizer)


def test_a_reward_model_is_no_language_model(scorer: Path, words: str, tmp_path: Path):
    one = scorer / "model-0"
    with pytest.raises(ConfigError, match="model-0 is a reward model, which scores texts and writes none"):
        model_address(str(one))
    data = written(tmp_path / "ranked.jsonl", ranked(8))
    with pytest.raises(ConfigError, match="model-0 is a reward model"):
        TextExperiment(TextRunConfig(PAIRS, str(one), data), tmp_path / "dpo")
    # But it may learn on, alone, in the arithmetic that was asked for.
    config = TextRunConfig(reward_model.Config(), str(one), data, dtype="bfloat16")
    with TextExperiment(config, tmp_path / "rm") as experiment:
        assert experiment.learner.models[0].activations is torch.bfloat16
    with pytest.raises(RunError, match="is one reward model; as 2 members it would begin alike in all"):
        TextExperiment(replace(config, algorithm=reward_model.Config(members=2)), tmp_path / "two")


def test_gold_scores_are_of_the_words_of_the_world(words: str, tmp_path: Path):
    tokenizer = word_tokenizer(text_world(WORLD).words)
    open_rewards((WORLD,), tokenizer)
    with pytest.raises(ConfigError, match="text:sentiment knows what texts of its own 58 words are worth; the model's tokenizer"):
        open_rewards(("text:sentiment",), tokenizer)
    train_bpe(["good bad"], 300).save_pretrained(str(tmp_path / "bpe"))
    with pytest.raises(ConfigError, match="text:valence knows what texts of its own"):
        TextExperiment(TextRunConfig(PAIRS, TINY, WORLD, tokenizer=str(tmp_path / "bpe"), rows=8), tmp_path / "dpo")


@pytest.mark.parametrize("weights", [(), (1.0, 1.0)])
def test_a_length_penalty_is_taken_off_once(weights: tuple[float, ...], scorer: Path):
    tokenizer = word_tokenizer(text_world(WORLD).words)
    batch: TextBatch = pad_right([Encoded((1, 3, 4, 2), (False, False, True, True)), Encoded((1, 3, 2), (False, False, True))], 0)
    both = (str(scorer / "model-0"), str(scorer / "model-1"))
    for addresses, own in ((both, weights), ((WORLD,), ())):
        plain, short = (open_rewards(addresses, tokenizer, own, length_penalty=price)[0].scores(batch, [{}, {}]) for price in (0.0, 0.5))
        assert torch.allclose(short, plain - torch.tensor([1.0, 0.5]), atol=1e-6)


# --- what is missing is told -----------------------------------------------------------------------------------------------------


def test_orders_of_nothing_are_left_out_and_told(words: str, tmp_path: Path):
    tied = [{"prompt": "<bos> tree sad .", "completions": [GOOD, BAD], "ranks": [1, 1]}]
    data = written(tmp_path / "ranked.jsonl", [*ranked(4), *tied, *ranked(4)])
    said = "1 of 9 rows rank all their answers alike, which orders nothing, and were left out (row 5)"
    config = TextRunConfig(reward_model.Config(batch_size=4), TINY, data, tokenizer=words)
    assert told(config, tmp_path / "rm") == [said] and told(replace(config, algorithm=PAIRS), tmp_path / "dpo") == [said]
    half = replace(config, algorithm=reward_model.Config(batch_size=4, ties="half"), held_out=0.0)
    assert told(half, tmp_path / "half") == []
    with pytest.raises(ConfigError, match="2 of 2 rows rank all their answers alike.*none is left to learn from"):
        TextExperiment(replace(config, data=written(tmp_path / "tied.jsonl", tied * 2)), tmp_path / "none")


def test_held_out_rows_that_are_too_long_stop_nothing(words: str):
    tokenizer = word_tokenizer(text_world(WORLD).words)
    row = Demonstration(prompt="<bos> tree sad .", answer=" ".join([GOOD] * 9), number=7)
    with pytest.raises(TooLongError):
        encode_texts(TextEncoder(tokenizer, 16), [row])
    assert encode_texts(TextEncoder(tokenizer, 16), [row], held_out=True).told().startswith("1 of 1 rows did not fit")
    with pytest.raises(TooLongError):
        encode_texts(TextEncoder(tokenizer, 16, "refuse"), [row], held_out=True)
    asked, sentence = encode_prompts(TextEncoder(tokenizer, 16), [Prompt(prompt=row.answer, number=7)], 4, held_out=True)
    assert asked == [] and sentence == "1 of 1 prompts leave no room for an answer and were dropped (row 7)"
    asked, sentence = encode_prompts(TextEncoder(tokenizer, 16, "cut_prompt"), [Prompt(prompt=row.answer, number=7)], 4)
    assert len(asked[0].tokens) == 12 and sentence == "1 of 1 prompts leave no room for an answer and were cut (row 7)"


def test_texts_of_the_ptx_term_and_held_out_ones_are_counted(words: str, tmp_path: Path):
    long = " ".join([GOOD] * 9)
    texts = written(tmp_path / "texts.jsonl", [{"text": f"<bos> {GOOD}"}, {"text": f"<bos> {long}"}])
    algorithm = ppo_lm.Config(iterations=1, episodes=4, batch_size=4, epochs=1, sampling=SHORT, ptx_coefficient=0.1)
    config = TextRunConfig(algorithm, TINY, WORLD, tokenizer=words, rows=8, pretraining=texts)
    assert told(config, tmp_path / "ppo") == ["pretraining: 1 of 2 rows did not fit into the context and were dropped (row 2)"]
    rows = [{"prompt": f"<bos> {name} sad .", "completion": GOOD if i else long} for i, name in enumerate(("tree", "house"))]
    found = [
        told(
            TextRunConfig(sft.Config(batch_size=2), TINY, written(tmp_path / "d.jsonl", rows), tokenizer=words, held_out=0.5, seed=seed),
            tmp_path / f"sft-{seed}",
        )
        for seed in range(8)
        if _is_held_out(rows[0]["prompt"], seed)
    ]
    assert found and all(own == ["held out: 1 of 1 rows did not fit into the context and were dropped (row 1)"] for own in found)


def _is_held_out(prompt: str, seed: int) -> bool:
    rows: list[TextRow] = [Demonstration(prompt=f"<bos> {name} sad .", answer="") for name in ("tree", "house")]
    from tutelage.experiment.randomness import generator

    return split(rows, 0.5, generator(seed, "held out"))[1][0].prompt == prompt


# --- what a configuration may say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "changes", "sentence"),
    [
        (PAIRS, {"learned": "everything"}, "learned=everything was given to dpo, which judges answers"),
        (kto.Config(), {"learned": "assistant"}, "learned=assistant was given to kto"),
        (reward_model.Config(), {"lora_rank": 4}, "lora_rank=4 was given to reward-model, whose weights all learn"),
        (PAIRS, {"rows": -1}, "rows=-1 was given; a run needs at least 1"),
        (PAIRS, {"seed": -1}, "seed=-1 was given; it cannot be negative"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(algorithm: Any, changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        TextRunConfig(algorithm, TINY, WORLD, **changes)
    assert TextRunConfig(sft.Config(), TINY, WORLD, learned="everything").learned == "everything"


def test_settings_out_of_range_are_a_sentence_wherever_they_stand(monkeypatch, capsys, tmp_path: Path):
    base = ["train", "dpo", "--model", TINY, "--data", WORLD, "--out", str(tmp_path / "run")]
    assert cli.main([*base, "--label-smoothing", "0.6"]) == 2
    assert capsys.readouterr().err.strip() == "label_smoothing=0.6 was given; a number in [0, 0.5) was expected"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, sentence in (("cuda", "device=cuda was given, and torch finds no CUDA"), ("gpu", "device=gpu was given; cpu, cuda")):
        assert cli.main([*base, "--device", device]) == 2
        assert capsys.readouterr().err.startswith(sentence)
    values = to_json(TextRunConfig(PAIRS, TINY, WORLD))
    values["algorithm"]["beta"] = 0.0
    with pytest.raises(ConfigError, match=r"^algorithm: beta=0.0 was given; a number above 0 was expected$"):
        from_json(values)


def test_a_stage_that_cannot_share_says_so(monkeypatch, words: str, tmp_path: Path):
    monkeypatch.setattr(language, "ranks", lambda: 2)
    with pytest.raises(RunError, match="rounds was started in 2 processes and works in one: its nets learn one after the other"):
        TextExperiment(TextRunConfig(rounds.Config(), TINY, WORLD, tokenizer=words, rows=8), tmp_path / "run")


# --- asking and judging ------------------------------------------------------------------------------------------------------------


def test_evaluating_in_a_short_context_and_rewards_that_read_columns(words: str, tmp_path: Path, monkeypatch):
    prompts = [(name, mood) for name in ("tree", "house") for mood in ("happy", "sad")]
    rows = [{"prompt": f"<bos> {name} {mood} .", "completion": GOOD, "target": mood} for name, mood in prompts]
    data = written(tmp_path / "rows.jsonl", rows)
    config = TextRunConfig(sft.Config(batch_size=2), TINY, data, tokenizer=words, context=12, held_out=0.25)
    train_text(config, tmp_path / "sft")
    found = evaluate_text_run(tmp_path / "sft", 4)
    assert found["prompts"] == 1 and 1 <= found["length"] <= 12 - 4
    (tmp_path / "by_target.py").write_text("def reward(completions, target):\n    return [len(word) for word in target]\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = list(generate(str(tmp_path / "sft"), [], Path(data), 4, 1.0, False, 2, 1, "py:by_target:reward", 0))
    assert [row["scores"] for row in told] == [[5.0] * 2, [3.0] * 2] * 2


def test_kto_learns_from_the_rankings_of_a_world(words: str, tmp_path: Path):
    with TextExperiment(TextRunConfig(kto.Config(batch_size=8), TINY, WORLD, tokenizer=words, rows=8), tmp_path / "run") as experiment:
        liked = [row.desirable for row in experiment.materials.rows if isinstance(row, Labeled)]
        assert len(liked) >= 8 and sum(liked) == len(liked) / 2
