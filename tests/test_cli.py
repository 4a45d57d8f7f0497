"""The command line: every verb from end to end on one tiny run, and one sentence for whatever a person can get wrong."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
import tyro

import tutelage
from tutelage import cli
from tutelage.evaluate.episodes import seeds_of
from tutelage.experiment.config import ALGORITHMS, RunConfig
from tutelage.experiment.log import read_events
from tutelage.experiment.policy import EVALUATION_SEED
from tutelage.experiment.run import read_config
from tutelage.feedback.store import Store, file_url
from tutelage.learn.preference import christiano
from tutelage.recipes import thesis
from tutelage.recipes.names import RECIPES
from tutelage.verbs import train_options

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "many_agents.jsonl"
SHORT = ["--evaluate-every", "100", "--evaluation-episodes", "1", "--checkpoint-every", "50", "--log-every", "25", "--clips", "0"]
SAC = ["--hidden", "8", "8", "--batch-size", "8", "--random-steps", "20"]
PEBBLE = [
    "--labels", "8", "--session-labels", "4", "--session-every", "40", "--pretraining-steps", "20", "--segment-length", "10",
    "--entropy-every", "20", "--poll-every", "5", "--candidates", "2", "--updates-after-reset", "2", "--sac.hidden", "8", "8",
    "--sac.batch-size", "8", "--sac.random-steps", "20", "--sac.learning-rate", "2e-3", "--reward-model.hidden", "8",
    "--reward-model.members", "2", "--reward-model.batch-size", "4", "--reward-model.epochs", "3", "--reward-model.no-bounded",
]  # fmt: skip
GAME = ["--game", "gym:Pendulum-v1"]
STEPS = 150


def call(*words: object) -> tuple[int, str, str]:
    """The exit code, what was printed, and what was said on the side."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def test_it_is_a_module_that_torchrun_can_start():
    done = subprocess.run([sys.executable, "-m", "tutelage", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == f"tutelage {tutelage.__version__}" and done.returncode == 0


def refusal(*words: object) -> str:
    """The one sentence with which something is refused."""
    code, out, err = call(*words)
    assert code == 2 and out == "" and err.endswith("\n") and err.count("\n") == 1, (code, out, err)
    return err.strip()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """PEBBLE with a scripted teacher, two seeds, and what training printed."""
    run = tmp_path_factory.mktemp("runs") / "lesson"
    code, out, err = call("train", "pebble", *GAME, "--steps", STEPS, "--seeds", 2, "--seed", 3, *SHORT, *PEBBLE, "--out", run)
    assert (code, err) == (0, "")
    return run, out


@pytest.fixture(scope="session")
def lesson(trained: tuple[Path, str]) -> Path:
    """To be read only."""
    return trained[0]


@pytest.fixture(scope="session")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAC on the true reward, to be read only."""
    run = tmp_path_factory.mktemp("runs") / "sac"
    assert call("train", "sac", *GAME, "--steps", STEPS, *SHORT, *SAC, "--out", run)[0] == 0
    return run


@pytest.fixture
def copy(lesson: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return Path(shutil.copytree(lesson, tmp_path / lesson.name))


# --- train and resume ------------------------------------------------------------------------------------------------------


def test_train_does_what_its_flags_say(trained: tuple[Path, str]):
    run, out = trained
    config = read_config(run)
    assert config.name == "pebble" and (config.steps, config.seed, config.seeds, config.evaluate_every) == (STEPS, 3, 2, 100)
    algorithm: Any = config.algorithm
    assert (algorithm.labels, algorithm.sac.learning_rate, algorithm.sac.hidden) == (8, 2e-3, (8, 8))
    assert (algorithm.reward_model.members, algorithm.reward_model.bounded) == (2, False)
    assert out.splitlines()[-1] == f"report: {run / 'report.html'}" and (run / "report.html").stat().st_size > 10_000
    assert f"pebble-8: {STEPS} of {STEPS} steps" in out and "labels 16 of 16" in out and "reward model agrees" in out
    events = read_events(run / "events.jsonl")
    assert events[-1]["event"] == "end" and {event["seed"] for event in events if event["event"] == "evaluation"} == {3, 4}


def leaves(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, annotation, value) of every plain field of a dataclass."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        if dataclasses.is_dataclass(own):
            yield from leaves(own, (*names, field.name))
        else:
            yield (*names, field.name), hints[field.name], own


def another(hint: Any, value: Any) -> tuple[list[str], Any]:
    """Words that set a field to something else, and what they set it to."""
    if typing.get_origin(hint) is typing.Literal:
        chosen = next(option for option in typing.get_args(hint) if option != value)
        return [chosen], chosen
    kinds = [kind for kind in (typing.get_args(hint) if "|" in str(hint) else (hint,)) if kind is not type(None)]
    kind = kinds[0]
    if kind is int:
        return [str((value or 0) + 7)], (value or 0) + 7
    if kind is float:
        return ["0.125"], 0.125
    if kind is str:
        return ["other"], "other"
    assert typing.get_origin(kind) is tuple and typing.get_args(kind)[0] in (int, float), f"a new kind of field: {hint}"
    return ["5", "6"], tuple(map(typing.get_args(kind)[0], (5, 6)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_field_is_a_flag_and_explained(name: str):
    options = train_options(ALGORITHMS[name].config)
    code, out, _ = call("train", name, "--help")
    shown = re.sub(r"[\s│]", "", out)
    assert code == 0
    config = RunConfig(ALGORITHMS[name].config(), "gym:Pendulum-v1", 10)
    words, expected = [], {}
    for path, hint, value in leaves(config):
        path = path[1:] if path[0] == "algorithm" else path
        flag = f"--{'.'.join(path)}".replace("_", "-")
        assert flag in shown, f"{flag} is missing in the help"
        if path == ("asynchronous",) and not isinstance(config.algorithm, christiano.Config):
            expected[path] = value  # others refuse it
        elif hint is bool:
            start, _, last = flag.removeprefix("--").rpartition(".")
            words.append(f"--{start + '.' if start else ''}{'no-' if value else ''}{last}")
            expected[path] = not value
        else:
            own, expected[path] = another(hint, value)
            words += [flag, *own]
    given = tyro.cli(options, args=words)
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(RunConfig)}
    found = {(p[1:] if p[0] == "algorithm" else p): v for p, _, v in leaves(RunConfig(**values))}
    assert found == expected
    for kind in (RunConfig, ALGORITHMS[name].config):
        told: dict[str, str] = {}  # what changes a default may leave the sentence to the class that it changes
        for one in kind.__mro__[-2::-1]:
            told |= re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', inspect.getsource(one), re.MULTILINE | re.DOTALL)
        sentences = list(told.values())
        assert set(told) == {field.name for field in dataclasses.fields(kind)}
        missing = [sentence for sentence in sentences if re.sub(r"\s", "", sentence) not in shown]
        assert missing == (["The algorithm and its settings."] if kind is RunConfig else [])


def test_train_without_a_directory_finds_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "sac", *GAME, "--steps", 25, *SHORT, *SAC]
    assert call(*words)[0] == 0 and call(*words)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["sac-gym-Pendulum-v1-0", "sac-gym-Pendulum-v1-0-2"]


def evaluations(run: Path) -> list[tuple[int, int, list[float]]]:
    return [(e["step"], e["seed"], e["returns"]) for e in read_events(run / "events.jsonl") if e["event"] == "evaluation"]


def test_resume_says_what_was_restored_and_ends_the_same(lesson: Path, copy: Path):
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:09d}", ignore_errors=True)
    [left] = (copy / "checkpoints").iterdir()
    code, out, err = call("resume", copy)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "restored learner, 100 steps of experience, generators and game at step 100"
    assert left.name.endswith("100") and evaluations(copy) == evaluations(lesson)
    assert [event["step"] for event in read_events(copy / "events.jsonl") if event["event"] == "resumed"] == [100]


def test_a_finished_run_is_resumed_to_itself(copy: Path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    code, out, err = call("resume", copy)
    assert (code, err) == (0, "")
    assert f"at step {STEPS}\n" in out and f"all {STEPS} steps had been taken; nothing is left to learn\n" in out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


# --- what can be done with a run -------------------------------------------------------------------------------------------


def test_evaluate_plays_what_a_loop_of_ones_own_plays(lesson: Path):
    code, out, err = call("evaluate", lesson, "--episodes", 2, "--json")
    told = json.loads(out)
    assert (code, err) == (0, "") and told["step"] == STEPS and [row["seed"] for row in told["seeds"]] == [3, 4]
    for row in told["seeds"]:
        policy = tutelage.load_policy(lesson, row["seed"])
        returns = []
        for seed in seeds_of(EVALUATION_SEED, 2):
            world = gymnasium.make("Pendulum-v1")
            observation, total, over = world.reset(seed=seed)[0], 0.0, False
            while not over:
                observation, reward, terminated, truncated, _ = world.step(policy.act(observation).numpy())
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        assert row["returns"] == pytest.approx(returns, rel=1e-4) and row["mean"] == pytest.approx(np.mean(returns), rel=1e-4)
        assert row["lengths"] == [200, 200]
    assert len({tuple(row["returns"]) for row in told["seeds"]}) == 2
    code, out, _ = call("evaluate", lesson, "--episodes", 2)
    means = [f"seed {row['seed']}: mean return {row['mean']:.1f} over 2 episodes at step {STEPS}" for row in told["seeds"]]
    assert code == 0 and all(line.startswith(start) for line, start in zip(out.splitlines(), means, strict=True))


def test_compare_prints_every_run_and_no_interval_for_few_seeds(lesson: Path, rewarded: Path):
    code, out, err = call("compare", lesson, rewarded)
    assert (code, err) == (0, "") and "IQM" not in out and "beats" not in out
    last = [returns[0] for step, _, returns in evaluations(lesson) if step == STEPS]
    assert f"pebble-8        {STEPS} steps  runs {last[0]:.1f}, {last[1]:.1f}\n" in out and re.search(
        r"sac +150 steps  runs -[\d.]+\n", out
    )
    told = json.loads(call("compare", lesson, rewarded, "--json")[1])
    assert [row["interquartile_mean"] for row in told["rows"]] == [None, None] and told["duels"] == []
    assert [seed for row in told["rows"] for seed, _ in row["scores"]] == [3, 4, 0]
    assert "a seed appears twice" in refusal("compare", lesson, lesson)


def test_compare_prints_the_table_that_a_file_of_results_is_for(tmp_path: Path):
    code, out, err = call("compare", RESULTS)
    assert (code, err) == (0, "") and out.strip() == thesis.tables(RESULTS)
    one = '{"task": "t", "method": "m", "seed": 0, "steps": 5, "score": -1.25, "seconds": 60.0, "hardware": "h", "commit": "c"}\n'
    (tmp_path / "pendulum.jsonl").write_text(one)
    (tmp_path / "own.jsonl").write_text(one)
    assert "| t | m | 5 | -1.25 | -1.25 | 1.0 | c |" in call("compare", tmp_path / "pendulum.jsonl")[1]
    assert "| t | m | 0 | 5 | -1.25 |" in call("compare", tmp_path / "own.jsonl")[1]


def test_report_writes_the_page_again_with_another_run_beside(copy: Path, rewarded: Path):
    before = (copy / "report.html").read_text()
    code, out, err = call("report", copy, "--beside", rewarded)
    assert (code, out, err) == (0, f"{copy / 'report.html'}\n", "")
    after = (copy / "report.html").read_text()
    assert len(after) > len(before) and "SAC" in after and "SAC" not in re.sub(r"sac\.\w+", "", before)


def test_compare_gives_intervals_from_five_seeds_on(copy: Path, tmp_path: Path):
    log = copy / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    start, last = events[0], [event for event in events if event["event"] == "evaluation"][-1]
    for name, offset in (("pebble-8", 0.0), ("sac", 10.0)):
        start["config"]["method"], start["seeds"] = name, list(range(5))
        lines = [start, *(last | {"seed": seed, "mean": offset + seed} for seed in range(5))]
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = call("compare", tmp_path / "pebble-8", tmp_path / "sac")
    assert code == 0 and out.count("IQM") == 2 and "pebble-8 beats sac with probability 0.00 [0.00, 0.00] (same seeds paired)" in out
    # What was learned from another reward is another task: its scores say nothing about this one's.
    start["config"]["true_reward"] = "py:lessons:spin"
    (tmp_path / "spin").mkdir()
    (tmp_path / "spin" / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [start, *lines[1:]]))
    out = call("compare", tmp_path / "sac", tmp_path / "spin")[1]
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["gym:Pendulum-v1", "gym:Pendulum-v1/spin"]


def test_watch_films_something_that_moves(lesson: Path, tmp_path: Path):
    path = tmp_path / "clip.mp4"
    code, out, err = call("watch", lesson, "--out", path, "--steps", 12, "--size", 64, "--seed", 4)
    assert (code, out, err) == (0, f"13 frames: {path}\n", "")
    video = imageio_ffmpeg.read_frames(str(path))
    about = next(video)
    frames = np.stack([np.frombuffer(typing.cast(bytes, frame), np.uint8).reshape(64, 64, 3) for frame in video]).astype(int)
    assert about["size"] == (64, 64) and about["codec"] == "h264" and len(frames) == 13
    assert frames.std() > 5.0 and (abs(frames[1:] - frames[:-1]).max((1, 2, 3)) > 50).sum() > 6
    assert "no seed" not in out and refusal("watch", lesson, "--seed", 7).startswith("seed 7 was asked for; ")


def test_track_writes_for_tensorboard(lesson: Path, tmp_path: Path):
    code, out, err = call("track", lesson, "--to", "tensorboard", "--out", tmp_path / "board")
    files = [path for path in (tmp_path / "board").rglob("*") if path.is_file()]
    assert (code, err) == (0, "") and files and all("tfevents" in path.name for path in files) and str(tmp_path / "board") in out


# --- labels ----------------------------------------------------------------------------------------------------------------


def rows(file: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda row: (row["type"], row["id"]))


def test_the_answers_of_a_scripted_teacher_go_out_and_come_back(lesson: Path, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/labels.sqlite"
    assert call("labels", "export", lesson, tmp_path / "a.jsonl") == (0, f"32 rows: {tmp_path}/a.jsonl\n", "")
    assert call("labels", "import", url, tmp_path / "a.jsonl") == (0, "32 valid rows were imported\n", "")
    assert call("labels", "export", url, tmp_path / "b.jsonl")[0] == 0
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "b.jsonl")
    answers = [row for row in rows(tmp_path / "a.jsonl") if row["type"] == "judgement"]
    assert len(answers) == 16 and {row["answer"] for row in answers} <= {"left", "right"}
    assert "asks a scripted teacher and would never read these labels" in refusal("labels", "import", lesson, tmp_path / "a.jsonl")
    assert not (lesson / "feedback.sqlite").exists()


def test_a_run_with_a_store_is_taught_by_a_file(tmp_path: Path):
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "labels.jsonl"
    words = ["train", "pebble", *GAME, "--steps", 60, *SHORT, *PEBBLE, "--rater", "store", "--out"]
    assert call(*words, first)[0] == 0  # asks four questions at step 40, and nobody answers
    with Store(file_url(first / "feedback.sqlite")) as store:
        queries = store.queries()
    assert len(queries) == 4
    answers = [
        {"type": "judgement", "id": f"ann-{n}", "query": query.id, "rater": "ann", "answer": "left"} for n, query in enumerate(queries)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in answers) + '{"type": "judgement", "id": "x"}\n')
    code, out, err = call("labels", "import", first, file)
    assert code == 1 and out == "" and err.startswith("labels.jsonl, row 5: ") and err.endswith("4 valid rows were imported\n")
    assert call("labels", "export", first, tmp_path / "out.jsonl")[0] == 0
    exported = rows(tmp_path / "out.jsonl")
    assert [row["type"] for row in exported].count("judgement") == 4 and [row["type"] for row in exported].count("query") == 4
    # The same run, for which the same answers lie in the store before it begins, asks the same questions and learns from them.
    url = f"sqlite:///{tmp_path}/shared.sqlite"
    renamed = (tmp_path / "out.jsonl").read_text().replace("first/seed-0", "second/seed-0")
    (tmp_path / "out.jsonl").write_text(renamed)
    assert call("labels", "import", url, tmp_path / "out.jsonl")[0] == 0
    assert call(*words, second, "--store", url)[0] == 0
    assert not (second / "feedback.sqlite").exists()
    with Store(url) as store:
        assert len(store.queries("second/seed-0")) == 8
    assert call("labels", "export", second, tmp_path / "second.jsonl")[0] == 0
    assert {row["group"] for row in rows(tmp_path / "second.jsonl") if row["type"] == "query"} == {"second/seed-0"}


def test_a_run_on_the_true_reward_has_no_labels(rewarded: Path, tmp_path: Path):
    sentence = f"{rewarded} learned from the true reward: it has no labels to export"
    assert refusal("labels", "export", rewarded, tmp_path / "a.jsonl") == sentence
    assert "nowhere.sqlite" in refusal("labels", "export", f"sqlite:///{tmp_path}/nowhere.sqlite", tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


# --- what there is ---------------------------------------------------------------------------------------------------------


def test_list_names_everything():
    code, out, err = call("list")
    assert (code, err) == (0, "")
    assert {*ALGORITHMS, *RECIPES, "gym:Pendulum-v1", "dm:walker-walk", "py:module:Class"} <= {line.strip() for line in out.splitlines()}


def test_doctor_looks_at_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("doctor")
    assert code in (0, 1) and "PyTorch" in out and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), (["--version"], 0), ([], 2), (["trian"], 2)])
def test_what_needs_no_room_answers_at_once(words: list[str], code: int):
    program = f"import sys; from tutelage.cli import main; code = main({words!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, env=environment)
    assert answer.returncode == code, answer.stderr
    own = [int(found[1]) for found in re.finditer(r"import time: +(\d+) \| +\d+ \| +\S+", answer.stderr)]
    assert 0 < sum(own) < 500_000, f"{sum(own)} microseconds of imports"
    if words == ["--version"]:
        assert answer.stdout == f"tutelage {tutelage.__version__}\n"
    elif words != ["trian"]:
        assert all(f"  {verb} " in answer.stdout for verb in cli.VERBS)


def test_every_verb_has_a_help_of_its_own():
    for verb in set(cli.VERBS) - {"list", "doctor"}:
        code, out, err = call(verb, "--help")
        assert (code, err) == (0, "") and f"usage: tutelage {verb}" in out


# --- what a person can get wrong -------------------------------------------------------------------------------------------

WHOLE = ["train", "sac", *GAME, "--steps", "30", *SHORT, *SAC]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "unknown verb 'trian'; did you mean train?"),
        (["train", "sca"], "unknown algorithm 'sca'; did you mean sac? Known are monte-carlo, "),
        (["train", *GAME], "train was given --game first; the algorithm comes first, one of: monte-carlo, "),
        ([*WHOLE, "--game", "gym:Pendlum-v1"], "there is no game gym:Pendlum-v1; did you mean gym:Pendulum-v1?"),
        ([*WHOLE, "--game", "gym:CartPole-v1"], "SAC needs a vector of bounded continuous actions; this game's actions are Discrete(n=2)"),
        ([*WHOLE, "--learning-rat", "0.1"], "tutelage train sac has no option --learning-rat; did you mean --learning-rate?"),
        ([*WHOLE, "--learning_rat=0.1"], "tutelage train sac has no option --learning-rat; did you mean --learning-rate?"),
        (["train", "pebble", "--sac.hiden", "8"], "tutelage train pebble has no option --sac.hiden; did you mean --sac.hidden?"),
        (["train", "pebble", "--reward-model.no-bonded"], "did you mean --reward-model.no-bounded?"),
        ([*WHOLE, "--steps", "0"], "steps=0 was given; a run needs at least 1"),
        ([*WHOLE, "--clips", "-1"], "clips=-1 was given; it cannot be negative"),
        ([*WHOLE, "--device", "banana"], "device=banana was given; cpu, cuda or cuda:0 was expected"),
        ([*WHOLE, "--true-reward", "py:nowhere:f"], "true_reward is 'py:nowhere:f', which leads to no function: "),
        ([*WHOLE, "--true-reward", "py:math:pi"], "true_reward is 'py:math:pi', which leads to a float; a function was expected"),
        (["train", "pebble", *GAME, "--steps", "30", *SHORT, *PEBBLE, "--sampler", "entropie"], 'sampler "entropie" is none of uniform, '),
        (["train", "pebble", *GAME, "--steps", "30", *SHORT, *PEBBLE, "--teacher", "me"], 'teacher "me" is none of oracle, '),
        (["resume", "nowhere"], "nowhere is no run: it has no config.json"),
        (["evaluate", "nowhere"], "nowhere is no run: it has no config.json"),
        (["evaluate", "nowhere", "--episods", "3"], "tutelage evaluate has no option --episods; did you mean --episodes?"),
        (["evaluate", "nowhere", "--episodes", "0"], "--episodes 0 was given; at least 1 is needed"),
        (["compare"], "compare was given no run; at least one run directory is needed"),
        (["compare", "nowhere"], "nowhere/events.jsonl does not exist; a run directory has its log in events.jsonl"),
        (["compare", str(RESULTS), "--json"], "a file of results is JSON lines already and stands alone"),
        (["compare", str(RESULTS), "nowhere"], "and 1 more; a file of results is JSON lines already and stands alone"),
        (["compare", __file__], "test_cli.py is no file of results: "),
        (["watch", "nowhere", "--size", "0"], "--size 0 was given; at least 1 is needed"),
        (["watch", "nowhere"], "nowhere is no run: it has no config.json"),
        (["report", "nowhere"], "nowhere/events.jsonl does not exist; a run directory has its log in events.jsonl"),
        (["labels", "export", "nowhere", "a.jsonl"], "nowhere is no run: it has no config.json"),
        (["track", "nowhere"], "nowhere/events.jsonl does not exist; a run directory has its log in events.jsonl"),
        (["list", "games"], "list was given games; it takes nothing"),
        (["doctor", "now"], "doctor was given now; it takes nothing"),
    ],
)
def test_one_sentence_and_nothing_left_behind(words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(*words)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.parent.name == "runs"] == []


@pytest.mark.parametrize("words", [["train", "sac", *GAME], [*WHOLE, "--steps", "many"], ["evaluate"], ["labels", "exprt", "a", "b"]])
def test_a_missing_or_impossible_value_is_named_without_a_trace(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words)
    assert code == 2 and out == "" and "Traceback" not in err and "--help" in err
    assert any(name in err for name in ("--steps", "PATH", "exprt"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_exists_is_not_trained_over(lesson: Path):
    before = (lesson / "events.jsonl").read_bytes()
    sentence = f"{lesson} already holds a run; `tutelage resume {lesson}` continues it, another --out starts anew"
    assert refusal(*WHOLE, "--out", lesson) == sentence
    assert (lesson / "events.jsonl").read_bytes() == before


def test_a_reward_of_ones_own_lies_in_the_working_directory(tmp_path: Path):
    (tmp_path / "badly.py").write_text("def swing(observation, action):\n    return observation\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    # As the console script is started: without the working directory on Python's path.
    program = [sys.executable, "-c", "import sys; from tutelage.cli import main; sys.exit(main())", *WHOLE]
    words = ["--true-reward", "py:badly:swing", "--out", "run"]
    answer = subprocess.run([*program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 2
    assert re.fullmatch(r"the written reward gave shape \(.*\) for observations \(.*\)\n", answer.stderr), answer.stderr
