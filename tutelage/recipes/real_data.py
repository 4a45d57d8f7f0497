"""Two small files of what people prefer, through every stage, and a plain answer: is the reward model better than counting letters?

`python -m tutelage.recipes.real_data` takes a file of 300 pairs and one of 300 answers with a thumb up or down (demonstrations of
LLaMA-Factory, Apache-2.0; `--data` names their folder) and a model of ten million weights that begins with nothing:
- preflight of both files, word for word, before anything else;
- SFT on the answers with a thumb up, then on the chosen ones; a reward model and DPO on the pairs; KTO on the thumbs; PPO against that
  reward model: each a run like any other, with its log, report and model card, and continued where it was interrupted;
- the reward model in five folds over all pairs beside "prefer the longer" and "prefer the shorter", with Wilson intervals. Its body is the
  model that has seen thumbs only, for the one that was tuned on chosen answers has seen the answers of the pair to be judged. Rows with
  one prompt are in one fold.
Rows go to benchmarks/results/real_data.jsonl, and REAL_DATA.md in `--out` says what was found. Such a model writes no English worth
reading; what is shown is that real rows go through, and what a reward model of 300 pairs is worth.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from tutelage.evaluate.reward_reports import JudgedPairs, reward_report, told
from tutelage.experience.preflight import ModelFacts, Preflight, preflight
from tutelage.experience.text_data import load_text, read_text
from tutelage.experience.text_encoding import TextEncoder
from tutelage.experience.text_rows import Pair, pairs, texts_of
from tutelage.experience.tokenizers import train_bpe
from tutelage.experiment.config import ConfigError, TextRunConfig
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.language import resume_text, train_text
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.randomness import generator
from tutelage.learn.language import dpo, kto, ppo_lm, reward_model, sft
from tutelage.learn.language.descent import Optimization, pieces
from tutelage.learn.language.reward_model import Ranking, RewardModel, score_rankings
from tutelage.learn.language.writing import Sampling
from tutelage.nets.language import ScoreModel, load_tokenizer, make_model
from tutelage.recipes.rows import RESULTS, TextResult, append

PAIRS, THUMBS = "preferences_demo_300.json", "unpaired_demo_300.json"
FOLDS = 5
RULES = ("prefer-the-longer", "prefer-the-shorter")


@dataclass(frozen=True)
class Recipe:
    """Both files through every stage."""

    data: Path | None = None
    """The folder with both files. None: TUTELAGE_DATA, else shared/data beside the checkout."""
    out: Path = Path("runs/real_data")
    """Where the runs and the page lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/real_data.jsonl, at scale 1 only."""
    context: int = 512
    """Tokens that are read of a row: a third of them of the prompt's end, two thirds of the answer's beginning."""
    epochs: int = 1
    """Passes of every stage over its rows (InstructGPT: 1 for a reward model)."""
    ppo_iterations: int = 10
    """Of 16 answers."""
    seed: int = 0
    """Of everything random."""
    scale: float = 1.0
    """Shrinks the model, the files and the training, to try the recipe."""
    threads: int = 1
    """Of torch."""


def address(recipe: Recipe) -> str:
    """Ten million weights with 4,096 words; far fewer at a small scale."""
    sizes = "layers=6&width=336&heads=6" if recipe.scale >= 1.0 else "layers=1&width=16&heads=2"
    return f"gpt2?{sizes}&context={recipe.context}"


def sources(recipe: Recipe) -> tuple[Path, Path]:
    """Both files, shorter ones of their rows at a small scale. Raises ConfigError where they are absent."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = recipe.data or Path(os.environ.get("TUTELAGE_DATA", beside))
    found: list[Path] = []
    for name in (PAIRS, THUMBS):
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{path} is absent; --data names the folder that holds {PAIRS} and {THUMBS}")
        if recipe.scale < 1.0:
            rows = json.loads(path.read_text())[: max(int(300 * recipe.scale), 15)]
            path = recipe.out / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows))
        found.append(path)
    return found[0], found[1]


def tokenizer_of(recipe: Recipe, files: Sequence[Path]) -> Path:
    """Byte-level BPE of all that both files say; the folds share it, and no label is in it."""
    folder = recipe.out / "tokenizer"
    if not folder.is_dir():
        said = [text for path in files for row in load_text(path) for text in texts_of(row)]
        made = train_bpe(said, 4096 if recipe.scale >= 1.0 else 300)
        made.save_pretrained(str(folder))
    return folder


def stages(recipe: Recipe, files: tuple[Path, Path], tokenizer: Path) -> dict[str, TextRunConfig]:
    """The runs, in the order in which they build on one another."""
    compared, thumbs = map(str, files)
    run = lambda name: str(recipe.out / name)
    brief = Optimization(warmup=2, betas=(0.9, 0.95))
    common: dict[str, Any] = dict(
        too_long="cut", context=recipe.context, held_out=0.1, seed=recipe.seed, threads=recipe.threads, log_every=1, evaluate_every=50,
        checkpoint_every=20, raters="the file's authors; LLaMA-Factory does not name them",
    )  # fmt: skip
    answer = max(recipe.context // 8, 4)
    writes = Sampling(max_new_tokens=answer, missing_eos="subtract", missing_eos_score=-1.0, microbatch=16)
    start, tuned, each = run("sft-thumbs"), run("sft"), recipe.epochs
    ppo = ppo_lm.Config(
        iterations=recipe.ppo_iterations if recipe.scale >= 1.0 else 1, episodes=16, epochs=2, batch_size=8, microbatch=8,
        learning_rate=5e-5, sampling=writes, kl_coefficient=0.05,
    )  # fmt: skip
    first = sft.Config(epochs=2 * each, batch_size=8, learning_rate=1e-3, optimizer=brief)
    second = sft.Config(epochs=each, batch_size=8, learning_rate=5e-4, optimizer=brief)
    by_pairs = dpo.Config(epochs=each, batch_size=16, microbatch=4, learning_rate=5e-5, optimizer=brief)
    by_thumbs = kto.Config(epochs=each, batch_size=16, microbatch=8, learning_rate=5e-5, optimizer=brief)
    return {
        "sft-thumbs": TextRunConfig(first, address(recipe), thumbs, tokenizer=str(tokenizer), **common),
        "sft": TextRunConfig(second, start, compared, **common),
        "reward-model": TextRunConfig(fitting(recipe), tuned, compared, **common),
        "dpo": TextRunConfig(by_pairs, tuned, compared, **common),
        "kto": TextRunConfig(by_thumbs, tuned, thumbs, **common),
        "ppo-lm": TextRunConfig(ppo, tuned, compared, reward=(run("reward-model"),), **common),
    }


def fitting(recipe: Recipe) -> reward_model.Config:
    """Of the reward model, in the chain and in the folds."""
    return reward_model.Config(
        epochs=recipe.epochs, batch_size=16, microbatch=4, learning_rate=1e-4, optimizer=Optimization(warmup=2), center=0.01
    )


def measured(out: Path) -> dict[str, float]:
    """What a finished run's log says at its end: of the rows that were held out, and of the last update."""
    events = read_events(out / EVENTS)
    found: dict[str, float] = {}
    for kind, name in (("evaluation", "held out"), ("update", "training")):
        own = [event for event in events if event["event"] == kind]
        if own:
            skip = ("event", "time", "step", "seed", "seconds")
            found |= {f"{name} {key}": value for key, value in own[-1].items() if key not in skip and isinstance(value, int | float)}
            found |= {f"{name} {key} before": own[0][key] for key in ("loss", "accuracy", "score") if key in own[0]}
    return found


def folds(rows: Sequence[Pair], count: int, draw: torch.Generator) -> list[list[int]]:
    """Indices of the rows of each fold: as even as prompts that stay together permit."""
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.prompt, []).append(i)
    members = list(groups.values())
    found: list[list[int]] = [[] for _ in range(count)]
    for group in torch.randperm(len(members), generator=draw).tolist():
        min(found, key=len).extend(members[group])
    return found


def fold_scores(recipe: Recipe, encoder: TextEncoder, rows: Sequence[Pair], number: int, held: Sequence[int]) -> list[list[float]]:
    """(chosen, rejected) of each held-out row, by a reward model that learned from all others. Kept on disk: a fold takes minutes."""
    path = recipe.out / "folds" / f"{number}.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["held"] == list(held):
            return kept["scores"]
    texts = encoder.encode_all(rows).texts
    rankings = [Ranking(own, (1, 2)) for own in texts]
    draw = generator(recipe.seed, f"fold/{number}")
    body = make_model(str(recipe.out / "sft-thumbs" / "model"), draw, encoder.tokenizer)
    own = [rankings[i] for i in range(len(rows)) if i not in set(held)]
    learner = RewardModel(fitting(recipe), [ScoreModel.of(body, draw)], own, draw)
    while learner.updates < learner.total:
        learner.update()
    with torch.no_grad():
        parts = pieces([rankings[i] for i in held], 8)
        scores = torch.cat([score_rankings(learner.models[0], part)[0] for part in parts]).tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"held": list(held), "scores": scores}))
    return scores


def cross_validated(recipe: Recipe, tokenizer: Path, compared: Path, console: Console) -> JudgedPairs:
    """Every pair judged once, by the model of the fold that it was held out of. Lengths are letters of the whole answers."""
    rows = pairs(load_text(compared))
    encoder = TextEncoder(load_tokenizer(tokenizer), recipe.context, "cut")
    scores = torch.zeros(len(rows), 2)
    for number, held in enumerate(folds(rows, FOLDS, generator(recipe.seed, "folds"))):
        scores[held] = torch.tensor(fold_scores(recipe, encoder, rows, number, held))
        right = int((scores[held, 0] > scores[held, 1]).sum())
        console.print(f"fold {number + 1} of {FOLDS}: {right} of {len(held)} right")
    lengths = torch.tensor([[float(len(answer)) for answer in row.answers] for row in rows])
    return JudgedPairs(scores[None, :, 0], scores[None, :, 1], lengths[:, 0], lengths[:, 1])


def page(recipe: Recipe, looked: Sequence[Preflight], numbers: Mapping[str, Mapping[str, float]], verdict: str, weights: int) -> str:
    """REAL_DATA.md."""
    lines = ["# Two small files through every stage", "", f"A model of {weights:,} weights, {recipe.context} tokens of every row.", ""]
    for found in looked:
        lines += [f"## Preflight of {found.data}", "", "```text", found.told(), "```", ""]
    lines += ["## Is the reward model better than counting letters?", "", "```text", verdict, "```", "", "## Stages", ""]
    for name, own in numbers.items():
        told_numbers = ", ".join(f"{key} {value:.4g}" for key, value in own.items())
        lines += [f"- {name}: {told_numbers} (`{recipe.out / name}/report.html`, `model/README.md`)"]
    return "\n".join([*lines, ""])


def run(recipe: Recipe, console: Console | None = None) -> list[TextResult]:
    """All of it; stages and folds that are there are not run again. Returns the rows, and writes them and the page."""
    console, began = console or Console(), time.perf_counter()
    torch.set_num_threads(recipe.threads)
    recipe.out.mkdir(parents=True, exist_ok=True)
    files = sources(recipe)
    folder = tokenizer_of(recipe, files)
    tokenizer = load_tokenizer(folder)
    facts = ModelFacts(recipe.context, len(tokenizer))
    looked = [preflight(read_text(path), tokenizer, facts, too_long="cut") for path in files]
    for found in looked:
        console.print(found.told(), markup=False, highlight=False, soft_wrap=True)
        if found.refused:
            raise ConfigError(f"preflight refuses {found.data}; see above")
    task = "real:preferences_demo_300"
    row = lambda stage, method, score, **more: TextResult(
        f"{task}/{stage}", method, recipe.seed, round(float(score), 4), {name: round(float(value), 4) for name, value in more.items()},
        round(time.perf_counter() - began, 1), hardware("cpu"), commit(),
    )  # fmt: skip
    rows: list[TextResult] = []
    numbers: dict[str, dict[str, float]] = {}
    for name, config in stages(recipe, files, folder).items():
        out = recipe.out / name
        if not (out / "model").is_dir():
            if (out / EVENTS).exists():
                resume_text(out, console)
            else:
                train_text(config, out, console)
        numbers[name] = measured(out)
        key = next((key for key in ("held out accuracy", "training score", "held out loss", "training loss") if key in numbers[name]), None)
        if key is not None:
            rows.append(row("stages", name, numbers[name][key], **{key.replace(" ", "_"): numbers[name][key]}))
    judged = cross_validated(recipe, folder, files[0], console)
    report = reward_report(judged)
    for method, interval in zip(("reward-model", *RULES), (report.accuracy, report.longer, report.shorter), strict=True):
        rows.append(
            row("five-folds", method, interval.estimate, low=interval.low, high=interval.high, pairs=report.pairs, context=recipe.context)
        )
    weights = sum(weight.numel() for weight in make_model(str(recipe.out / "sft" / "model"), generator(0, "count"), tokenizer).parameters())
    (recipe.out / "REAL_DATA.md").write_text(page(recipe, looked, numbers, told(report), weights))
    (recipe.out / "report.json").write_text(json.dumps({"report": asdict(report), "stages": numbers}, indent=1))
    console.print(told(report), markup=False, highlight=False, soft_wrap=True)
    results = recipe.results or (RESULTS / "real_data.jsonl" if recipe.scale >= 1.0 else None)
    if results is not None:
        append(results, rows)
    return rows


def main() -> None:
    """The command line."""
    run(tyro.cli(Recipe, description=__doc__))


if __name__ == "__main__":
    main()
