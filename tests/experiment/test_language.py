"""Runs of language models: every stage resumes to the same bits, refuses changed inputs, and says in a sentence what is wrong."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tutelage
from tutelage import cli
from tutelage.experience.text_rows import Pair
from tutelage.experiment.checkpoint import CheckpointError
from tutelage.experiment.config import STAGES, ConfigError, TextRunConfig, from_json, to_json
from tutelage.experiment.language import TextExperiment, read_text_config
from tutelage.experiment.log import read_events
from tutelage.experiment.model_card import agreement
from tutelage.experiment.run import RunError, read_config
from tutelage.feedback.query import Judgement
from tutelage.feedback.store import Store, file_url
from tutelage.feedback.texts import ask
from tutelage.learn.language import best_of_n, dpo, groups, kto, online_dpo, ppo_lm, reward_model, rounds, sft
from tutelage.learn.language.descent import TrainingError
from tutelage.learn.language.writing import Sampling

TINY = "gpt2?layers=1&width=16&heads=2&context=32"
SHORT = Sampling(max_new_tokens=8)
WORLD = "text:valence"
PPO = ppo_lm.Config(iterations=4, episodes=8, batch_size=4, epochs=1, sampling=SHORT, ema=0.9, ptx_coefficient=0.1)
FIT = reward_model.Config(members=2, batch_size=4)
STAGE_CONFIGS: dict[str, Any] = {
    "sft": sft.Config(epochs=2, batch_size=8, dropout=0.1, learning_rate=1e-2),
    "reward-model": reward_model.Config(epochs=2, batch_size=8, members=2, bootstrap=True),
    "dpo": dpo.Config(epochs=2, batch_size=16),
    "kto": kto.Config(epochs=2, batch_size=16),
    "ppo-lm": PPO,
    "rloo": groups.Config(iterations=4, prompts=4, batch_size=4, sampling=SHORT),
    "grpo": groups.GRPO(iterations=4, prompts=2, samples=4, batch_size=4, sampling=SHORT),
    "online-dpo": online_dpo.Config(iterations=4, prompts=4, sampling=SHORT),
    "best-of-n": best_of_n.Config(n=2, iterations=4, prompts=4, sampling=SHORT),
    "rounds": rounds.Config(ppo=replace(PPO, ptx_coefficient=0.0), reward_model=FIT, every=2, prompts=4, samples=3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of each kind in files: words of the valence language, which any tokenizer of it writes."""
    folder, found = tmp_path_factory.mktemp("rows"), {}
    words = ["good", "bad", "warm", "cold", "kind"]
    pick = lambda i: f"the tree was {words[i % 5]} ."
    pairs = [{"prompt": "<bos> tree happy .", "chosen": pick(i), "rejected": pick(i + 1 + i % 3)} for i in range(24)]
    labeled = [{"prompt": "<bos> tree happy .", "completion": pick(i), "label": i % 2 == 0} for i in range(24)]
    for name, rows in (("pairs", pairs), ("labeled", labeled)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = str(path)
    return found


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the world's tokenizer."""
    from tutelage.experience.tokenizers import word_tokenizer
    from tutelage.games.text_worlds import text_world

    folder = tmp_path_factory.mktemp("words")
    word_tokenizer(text_world(WORLD).words).save_pretrained(str(folder))
    return str(folder)


def config(name: str, data: dict[str, str], words: str, **changes: Any) -> TextRunConfig:
    kinds = {"pairs": data["pairs"], "rankings": data["pairs"], "labeled": data["labeled"]}
    more: dict[str, Any] = dict(rows=24, seed=3, log_every=1, evaluate_every=2, checkpoint_every=1, held_out=0.1)
    if name == "ppo-lm":
        more["pretraining"] = WORLD
    return TextRunConfig(STAGE_CONFIGS[name], TINY, kinds.get(STAGES[name].learns_from, WORLD), tokenizer=words, **more | changes)


def bits(run: Path) -> dict[str, torch.Tensor]:
    """Every weight of every net that the run has saved."""
    return {
        f"{path.parent.name}/{path.name}/{name}": value
        for path in sorted(run.glob("*/*.safetensors")) if "checkpoints" not in path.parts
        for name, value in load_file(path).items()
    }  # fmt: skip


def numbers(run: Path) -> list[tuple[Any, ...]]:
    """What the log says, without times."""
    drop = ("time", "seconds", "fingerprint")
    kept = [event for event in read_events(run / "events.jsonl") if event["event"] not in ("resumed", "start", "end")]
    return [tuple(sorted((k, str(v)) for k, v in event.items() if k not in drop)) for event in kept]


def live(given: TextRunConfig, out: Path) -> None:
    """All of a run, or what is left of it, but for the report."""
    with TextExperiment(given, out) as experiment:
        if read_events(out / "events.jsonl"):
            experiment.restore()
        else:
            experiment.begin()
        while not experiment.finished:
            experiment.step()
        experiment.finish()


def in_a_child(live: Callable[[], None]) -> int:
    """A process of its own, forked so that nothing is imported twice."""
    child = os.fork()
    if child == 0:
        try:
            live()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_run_goes_on_to_the_same_bits(name, data, words, tmp_path):
    """kill -9 somewhere after the second update; what follows is what would have followed."""
    given = config(name, data, words)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    live(given, whole)
    child = in_a_child(lambda: live(given, killed))
    checkpoint = killed / "checkpoints" / "step-000000002" / "manifest.json"
    end = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert checkpoint.exists() or list((killed / "checkpoints").glob("step-*"))
    live(given, killed)
    mine, theirs = bits(whole), bits(killed)
    assert mine.keys() == theirs.keys() and len(mine) > 5
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert numbers(whole) == numbers(killed)
    assert from_json(json.loads((whole / "config.json").read_text())) == given and to_json(given)["name"] == name


def test_a_run_from_demonstrations_to_a_model_to_ask(tmp_path, capsys):
    """SFT, reward model, PPO and questions, all from the command line."""
    run = lambda *words: cli.main([str(word) for word in words])
    small = ["--rows", "64", "--held-out", "0.1"]
    sizes = ["--sampling.max-new-tokens", "12", "--iterations", "2", "--episodes", "8", "--batch-size", "8"]
    assert run("train", "sft", "--model", TINY, "--data", WORLD, "--out", tmp_path / "sft", "--learning-rate", "1e-2", *small) == 0
    assert (
        run("train", "reward-model", "--model", tmp_path / "sft", "--data", WORLD, "--out", tmp_path / "rm", "--members", "2", *small) == 0
    )
    assert (
        run(
            "train",
            "ppo-lm",
            "--model",
            tmp_path / "sft",
            "--data",
            WORLD,
            "--reward",
            tmp_path / "rm",
            "--out",
            tmp_path / "ppo",
            *sizes,
            *small,
        )
        == 0
    )
    capsys.readouterr()
    assert run("evaluate", tmp_path / "ppo", "--episodes", "4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == 4 and {"kl", "score", "length", "finished"} <= set(found)
    asked = ["generate", tmp_path / "ppo", "<bos> tree happy .", "--samples", "2", "--best-of", "2", "--reward", tmp_path / "rm", "--json"]
    assert run(*asked) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["answers"]) == len(row["scores"]) == 2
    assert run("evaluate", tmp_path / "rm") == 0 and "accuracy" in capsys.readouterr().out
    assert run("resume", tmp_path / "rm") == 0 and "nothing is left to learn" in capsys.readouterr().out
    assert run("report", tmp_path / "ppo") == 0 and "ppo-lm after 2 updates" in (tmp_path / "ppo" / "report.html").read_text()
    # An ordinary folder, with a card that knows where it comes from.
    AutoModelForCausalLM.from_pretrained(tmp_path / "ppo" / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "ppo" / "model").eos_token == "<eos>"
    card = (tmp_path / "ppo" / "model" / "README.md").read_text()
    for words in (
        "| data | `text:valence`",
        "| raters |",
        "| agreement |",
        "| budget | 2 updates",
        "## Known failures",
        "- ppo-lm on",
        "  - sft on",
    ):
        assert words in card, words
    assert tutelage.load_model(tmp_path / "ppo").answer(["<bos> tree happy ."], 8, greedy=True)[0][0]
    with pytest.raises(RunError, match="holds a language model"):
        read_config(tmp_path / "ppo")


def test_inputs_that_changed_are_refused(data, words, tmp_path):
    moved = tmp_path / "pairs.jsonl"
    moved.write_text(Path(data["pairs"]).read_text())
    given = replace(config("dpo", data, words), data=str(moved))
    with TextExperiment(given, tmp_path / "run") as experiment:
        experiment.begin()
        experiment.step()
    lines = moved.read_text().splitlines()
    moved.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises((TrainingError, CheckpointError), match="another texts|the data"):
        tutelage.resume(tmp_path / "run")
    (tmp_path / "run" / "reference.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"the data \(.*pairs.jsonl\) changed since the run"):
        tutelage.resume(tmp_path / "run")


def test_what_people_answered_is_learned_from_up_to_when_the_run_looked(words, tmp_path):
    """A label store as data: later answers belong to the next run. The card counts the raters and how often they agree."""
    url = str(file_url(tmp_path / "labels.sqlite"))
    prompts = [f"<bos> {noun} {mood} ." for mood in ("happy", "sad") for noun in ("tree", "house", "river", "song")]
    adjectives = ["good", "bad", "warm", "cold", "kind", "rude", "old", "tall"]

    def answer_all(queries: list[Any], rater: str, text: str) -> None:
        store.add([Judgement(f"{rater}-{query.id}", query.id, rater, text) for query in queries])

    with Store(url) as store:
        groups = [(prompts[i], [f"the tree was {adjectives[(i + k) % 8]} ." for k in range(4)]) for i in range(8)]
        asked = ask(store, groups, "lesson", "random", 0)
        answer_all(asked, "anna", "0>1>2>3")
        answer_all(asked[:2], "ben", "1>0>2>3")
    stage = reward_model.Config(epochs=2, batch_size=4)
    given = TextRunConfig(stage, TINY, url, tokenizer=words, held_out=0.2, checkpoint_every=1, log_every=1)
    with TextExperiment(given, tmp_path / "run") as experiment:
        experiment.begin()
        experiment.step()
    with Store(url) as store:
        answer_all(asked, "carl", "3>2>1>0")
    live(given, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert facts["raters"] == "2 who answered in the rating room" and facts["data"]["rows"] + facts["data"]["held_out"] == 10
    assert facts["agreement"] == {"share": pytest.approx(10 / 12), "judged_twice": 12}


def test_modpo_asks_the_rewards_of_the_other_objectives(data, words, tmp_path):
    stage = dpo.Config(loss="modpo", objective_weights=(0.5, 0.5), batch_size=16)
    given = replace(config("dpo", data, words), algorithm=stage, reward=(WORLD,))
    with TextExperiment(given, tmp_path / "run") as experiment:
        margins = experiment.learner.margins
        assert margins.shape == (22, 1) and float(margins.abs().max()) > 0.5
        unseen, held_margins = experiment.more
        assert unseen is not None and held_margins is not None
        assert unseen.shape == (len(experiment.held_out), 2) and held_margins.shape == (len(experiment.held_out), 1)
        experiment.begin()
        experiment.step()


def test_a_reference_of_its_own(data, words, tmp_path):
    tutelage.train(config("sft", data, words, rows=16), tmp_path / "sft")
    given = config("dpo", data, words, reference=str(tmp_path / "sft"))
    with TextExperiment(given, tmp_path / "dpo") as experiment:
        live = experiment.learner.reference
    with TextExperiment(replace(given, reference=None), tmp_path / "other") as experiment:
        assert not torch.allclose(live, experiment.learner.reference)


def test_what_cannot_be_trained_is_said_in_a_sentence(data, words, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(Path(data["pairs"]).read_text() + '{"prompt": "<bos>", "chosen": 3, "rejected": "x"}\n')
    (tmp_path / "my_bad_rewards.py").write_text(
        "def short(completions):\n    return [1.0]\n\ndef nan(completions):\n    return [float('nan')] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base = ["--tokenizer", words, "--out", str(tmp_path / "out")]
    write = [
        "--model",
        TINY,
        "--data",
        WORLD,
        "--rows",
        "8",
        "--iterations",
        "1",
        "--prompts",
        "2",
        "--sampling.max-new-tokens",
        "4",
        *base,
    ]
    for given, sentence in (
        (["dpo", "--model", TINY, "--data", str(broken), *base], "broken.jsonl, row 25"),
        (["dpo", "--model", TINY, "--data", str(tmp_path / "none.json"), *base], "none.json cannot be read"),
        (["dpo", "--model", "gpt9?layers=1", "--data", data["pairs"], *base], "gpt9 is no model_type"),
        (["dpo", "--model", TINY, "--data", data["pairs"], "--out", str(tmp_path / "out")], "has no tokenizer of its own"),
        (["sft", "--model", TINY, "--data", "text:nothing", *base], "is no world of words"),
        (["sft", "--model", TINY, "--data", WORLD, "--context", "4", *base], "are longer than the context of 4"),
        (["rloo", *write, "--sampling.max-new-tokens", "31"], "all 8 prompts are longer than 1 tokens"),
        (["rloo", *write, "--sampling.max-new-tokens", "32"], "leaves no room for a prompt in a context of 32"),
        (["rloo", *write, "--reward", "py:my_bad_rewards:short"], "gave 1 numbers for 4 answers"),
        (["rloo", *write, "--reward", "py:my_bad_rewards:nan"], "gave nan for answer 0 of 4"),
        (["rloo", *write, "--reward", WORLD, "--reward", str(tmp_path)], "expected"),
        (["rloo", "--model", TINY, "--data", data["pairs"], "--sampling.max-new-tokens", "8", *base], "rloo was given no reward"),
        (["kto", "--model", TINY, "--data", WORLD, "--rowz", "3", *base], "has no option --rowz; did you mean --rows?"),
    ):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert cli.main(["train", *given]) == 2, given
        told = capsys.readouterr().err.strip()
        assert sentence in told and len(told.splitlines()) <= 2, told
    with pytest.raises(ConfigError, match=r"held_out=1.0 was given"):
        config("dpo", data, words, held_out=1.0)
    with pytest.raises(ConfigError, match="a Config of one of sft"):
        TextRunConfig(3, TINY, WORLD)
    with pytest.raises(RunError, match="is no run"):
        read_text_config(tmp_path)


def test_agreement_is_known_where_something_was_judged_twice():
    rows = [Pair(prompt="p", chosen=a, rejected=b) for a, b in (("x", "y"), ("y", "x"), ("x", "y"), ("u", "v"))]
    assert agreement(rows) == {"share": pytest.approx(1 / 3), "judged_twice": 3} and agreement(rows[3:]) is None
