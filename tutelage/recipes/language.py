"""The classical chain in a world of words, with everything known: `python -m tutelage.recipes.language --study chain --seeds 3`.

SFT on demonstrations, a reward model on ranked answers, DPO and PPO, in the valence language, where the gold score and the best policy at
every distance from SFT are known. What each study reproduces:
- `chain`: SFT -> reward model -> DPO -> PPO; the score is the win rate over SFT by gold (rows `text:valence`).
- `frontier`: both at several prices of a nat beside the optimum, PPO on gold and best-of-n (Rafailov et al. 2023, figure 2, left).
- `over-optimization`: PPO against a reward model of 700 prompts, alone and with an ensemble of five that is not believed where its
  members disagree, or no further than its worst (Stiennon et al. 2020, figure 5; Gao et al. 2022; Coste et al. 2023).
- `alignment-tax`: what PPO forgets of the language itself, and what PPO-ptx keeps (Ouyang et al. 2022, figures 28 and 29).
- `k-wise`: all pairs of a prompt as one element of a batch, beside shuffled pairs (Ouyang et al. 2022, section 3.5).
- `win-rates`: pretrained, SFT, DPO and PPO against demonstrations, with intervals (Stiennon et al. 2020, figure 1).
Without `--study` all are run, one seed after the other, and `report.html` is written; a study whose rows are there is not run again.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from tutelage.equations.optimization_pressure import fit_goodhart_law
from tutelage.equations.rankings import ordered_pairs
from tutelage.evaluate.reward_reports import JudgedPairs, reward_report
from tutelage.evaluate.text import Evaluation, best_of_n_curve, exact_frontier, excess
from tutelage.evaluate.win_rates import outcomes, win_rate
from tutelage.experience.files import write_whole
from tutelage.experience.text import TextBatch, encoded, pad_right
from tutelage.experiment.fingerprint import commit, hardware
from tutelage.experiment.text_materials import GoldReward
from tutelage.experiment.text_page import write_page
from tutelage.learn.language.reward_model import RewardModel, score_rankings
from tutelage.learn.language.sft import SFT
from tutelage.nets.language import LanguageModel, ScoreModel
from tutelage.recipes.rows import RESULTS, TextResult, append
from tutelage.recipes.text_chain import Chain, Ranked, Setting, run
from tutelage.rewards.text import Columns, LearnedTextReward, TextReward

Study = Literal["chain", "frontier", "over-optimization", "alignment-tax", "k-wise", "win-rates"]
BETAS = (0.1, 0.5, 2.5)
"""Prices of a nat, five times apart: nearer ones are not told apart by 500 answers."""


@dataclass(frozen=True)
class Recipe:
    """Some studies, or all of them."""

    study: tuple[Study, ...] = ("chain", "frontier", "over-optimization", "alignment-tax", "k-wise", "win-rates")
    """Which."""
    seeds: int = 3
    """How many; over-optimization takes two more."""
    seed: int = 10
    """The first. Settings were chosen on 0 to 9."""
    scale: float = 1.0
    """Shrinks data and training, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/language")
    """Where curves and the page lie."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/language.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


@dataclass
class Report:
    """What a study found for one seed: rows for the table, and curves for the page."""

    rows: list[TextResult] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def add(self, chain: Chain, task: str, method: str, score: float, **numbers: float | int | torch.Tensor) -> None:
        """A row; its seconds are those since the last one."""
        seconds = round(time.perf_counter() - self.started, 1)
        rounded = {name: round(float(value), 4) for name, value in numbers.items()}
        self.rows.append(TextResult(task, method, chain.seed, round(float(score), 4), rounded, seconds, hardware("cpu"), commit()))
        self.started = time.perf_counter()

    def add_model(self, chain: Chain, task: str, method: str, found: Evaluation, **numbers: float | int) -> None:
        """A row of a model: its win rate, with what an `Evaluation` holds beside it."""
        self.add(
            chain, task, method, found.win.rate, low=found.win.wilson.low, high=found.win.wilson.high, kl=found.kl.mean,
            kl_error=found.kl.error, gold=found.gold.mean, gold_error=found.gold.error, length=found.length, finished=found.finished,
            **numbers,
        )  # fmt: skip

    def finish(self, path: Path, results: Path | None, console: Console) -> None:
        """Keep the rows with the curves, add them to the results, and say what was found.

        The curves come first and whole, for a study that has them is not run again: no row is added twice.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        found = json.dumps({"rows": [vars(row) for row in self.rows], "curves": self.curves})
        write_whole(path, found.encode(), path.with_name(f".{path.name}.{os.getpid()}"))
        if results is not None:
            append(results, self.rows)
        for row in self.rows:
            told = ", ".join(f"{name} {value:g}" for name, value in row.numbers.items())
            console.print(f"{row.task} {row.method}, seed {row.seed}: {row.score:.3f} ({told}; {row.seconds:.0f} s)")


def chain_study(chain: Chain, report: Report) -> None:
    """SFT -> reward model -> DPO -> PPO."""
    task = chain.setting.world
    chain.opponent  # noqa: B018 - SFT and what it writes are there before the clock of its row stops
    report.add_model(chain, f"{task}/stages", "sft", chain.evaluate(chain.sft, "sft"))
    held = held_out(chain, [chain.reward])
    report.add(chain, f"{task}/stages", "reward-model", held["order"], **held)
    report.add_model(chain, task, "dpo", chain.evaluate(chain.tuned("dpo"), "dpo"))
    report.add_model(chain, task, "ppo-lm", chain.evaluate(chain.tuned("ppo-lm"), "ppo-lm"))
    prompts = chain.test_prompts[:12]
    report.curves["samples"] = {
        name: chain.written(chain.answers(model, prompts, f"samples {name}"))
        for name, model in (("SFT", chain.sft), ("DPO", chain.tuned("dpo")), ("PPO", chain.tuned("ppo-lm")))
    }
    report.curves["prompts"] = [chain.tokenizer.decode(prompt) for prompt in prompts]


@torch.no_grad()
def held_out(chain: Chain, models: Sequence[ScoreModel], ranked: Ranked | None = None) -> dict[str, float]:
    """A reward model on rankings that it did not learn from: against the labels, against gold, and what is possible against the labels."""
    ranked = ranked or chain.ranked
    rankings, gold = ranked.rankings[: chain.setting.held_out], ranked.gold[: chain.setting.held_out]
    scores = torch.stack([score_rankings(model, rankings)[0] for model in models])
    _, rank, mask, _ = score_rankings(models[0], rankings)
    pairs = ordered_pairs(rank, mask)
    gaps = lambda x: x[..., :, None] - x[..., None, :]
    length = torch.tensor([[float(sum(text.response)) for text in ranking.texts] for ranking in rankings])
    told = lambda x, side: x[..., :, :, None].expand(*x.shape, x.shape[-1]) if side else x[..., :, None, :].expand(*x.shape, x.shape[-1])
    found = reward_report(JudgedPairs(told(scores, 1)[:, pairs], told(scores, 0)[:, pairs], told(length, 1)[pairs], told(length, 0)[pairs]))
    unequal = gaps(gold) != 0.0
    mean = scores.mean(0)
    return {
        "order": float(((gaps(mean) > 0.0) == (gaps(gold) > 0.0))[unequal].double().mean()),
        "label_accuracy": found.accuracy.estimate,
        "low": found.accuracy.low,
        "high": found.accuracy.high,
        "best_possible": float((gaps(gold)[pairs] > 0.0).double().mean()),
        "correlation": float(torch.corrcoef(torch.stack((mean.flatten(), gold.flatten())))[0, 1]),
        "calibration_error": found.calibration_error,
        "length_correlation": found.length_correlation,
    }


def frontier_study(chain: Chain, report: Report) -> None:
    """Every method at several prices beside what is possible."""
    task = f"{chain.setting.world}/frontier"
    draws, shares = chain.draws(8192 if chain.setting.demonstrations >= 1000 else 64, [chain.gold, chain.score])
    frontier = exact_frontier(draws[0], (math.inf, 8.0, 4.0, 2.0, 1.5, 1.0, 0.8, 0.67, 0.57, 0.5, 0.4), shares)
    report.curves["frontier"] = [vars(point) for point in frontier if point.beta < math.inf]
    points: list[dict[str, Any]] = []

    def place(method: str, found: Evaluation) -> None:
        above = excess(found, frontier)
        report.add_model(chain, task, method, found, **({} if above is None else {"errors_above_optimum": above}))
        points.append({"method": method, "kl": found.kl.mean, "gold": found.gold.mean, "win": found.win.rate})

    for beta in BETAS:
        for name in ("dpo", "ppo-lm"):
            place(f"{name}-beta-{beta:g}", chain.evaluate(chain.tuned(name, beta), f"{name} {beta}"))
    on_gold = chain.ppo(GoldReward(chain.world), "ppo gold")
    place("ppo-gold-beta-0.5", chain.evaluate(on_gold, "ppo gold"))
    for n, (kl, _, gold) in zip((4, 16, 64), best_of_n_curve(draws[1], draws[0], (4, 16, 64), shares), strict=True):
        points.append({"method": f"best-of-{n}", "kl": kl, "gold": gold})
        report.add(chain, task, f"best-of-{n}", gold, kl=kl, gold=gold)
    report.curves["points"] = points


DISAGREEMENT = 3.0
"""What the members' variance costs (Coste et al. 2023: 0.5 for best-of-n, 0.1 for PPO, of rewards of another scale, and with a price on
distance; 0.5 and 1 were too little here)."""


class Watched(TextReward):
    """A reward whose texts are also scored by gold, so that both are known at every iteration."""

    def __init__(self, inner: TextReward, chain: Chain) -> None:
        self.inner, self.chain = inner, chain
        self.gold: list[float] = []

    def scores(self, texts: TextBatch, columns: Columns = ()) -> torch.Tensor:
        """Those of the inner reward."""
        self.gold.append(float(self.chain.gold(texts).mean()))
        return self.inner.scores(texts, columns)


def overoptimization_setting(setting: Setting) -> Setting:
    """Few labels, a world with something to exploit, and a policy that nothing holds back: distance is free, and its rate stays as it is.

    Chosen on seeds 0, 1, 3 and 4: where the rate sinks to zero the policy stands still before gold has fallen.
    """
    reward = replace(setting.reward, members=5, epochs=8, bootstrap=True)
    free = replace(setting.ppo.optimizer, schedule="constant")
    ppo = replace(setting.ppo, kl_coefficient=0.0, learning_rate=5e-4, iterations=2 * setting.ppo.iterations, optimizer=free)
    prompts = setting.held_out + max(700 * setting.ranked_prompts // 1500, 8)
    return replace(setting, world="text:valence-once", ranked_prompts=prompts, reward=reward, ppo=ppo)


def overoptimization_study(chain: Chain, report: Report) -> None:
    """PPO on a proxy that knows little, alone and beside others: proxy, gold and KL at every iteration."""
    task = f"{chain.setting.world}/over-optimization"
    members = chain.rewards(chain.setting.reward)
    single, together = LearnedTextReward(members[:1]), LearnedTextReward(members, "disagreement", penalty=DISAGREEMENT)
    draws, shares = chain.draws(512, [chain.gold, lambda texts: single.scores(texts)])
    counts = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    best = best_of_n_curve(draws[1], draws[0], counts, shares)
    kl, _, gold = (torch.tensor(column) for column in zip(*best, strict=True))
    law = fit_goodhart_law(kl, gold - gold[0], "best-of-n")
    report.curves["best-of-n"] = {"points": best, "a": law.a, "b": law.b}
    report.add(chain, task, "best-of-n", float(gold.max()), gold_start=gold[0], gold_end=gold[-1], kl=kl[-1], a=law.a, b=law.b)
    for name, reward in (("single", single), ("disagreement", together), ("worst", LearnedTextReward(members, "worst"))):
        watched, steps = Watched(reward, chain), list[dict[str, float]]()
        chain.ppo(watched, f"over-optimization {name}", critic=members[0], watch=lambda _, metrics, steps=steps: steps.append(metrics))
        proxy, kl, gold = [step["score"] for step in steps], [step["kl"] for step in steps], watched.gold
        smooth = [sum(gold[max(i - 1, 0) : i + 2]) / len(gold[max(i - 1, 0) : i + 2]) for i in range(len(gold))]
        peak = max(range(len(smooth)), key=smooth.__getitem__)
        report.curves[name] = {"kl": kl, "proxy": proxy, "gold": gold}
        beyond = [i for i in range(len(kl)) if kl[i] > 0.5]
        rl = fit_goodhart_law(torch.tensor([kl[i] for i in beyond]), torch.tensor([gold[i] - gold[0] for i in beyond]), "rl") if len(
            beyond
        ) > 1 else None  # fmt: skip
        report.add(
            chain, task, f"ppo-lm-{name}", smooth[-1], gold_start=gold[0], gold_peak=smooth[peak], gold_end=smooth[-1],
            fall=smooth[peak] - smooth[-1], proxy_start=proxy[0], proxy_peak=proxy[peak], proxy_end=proxy[-1], kl_peak=kl[peak],
            kl_end=kl[-1], length_end=steps[-1]["length"], **({} if rl is None else {"a": rl.a, "b": rl.b}),
        )  # fmt: skip


@torch.no_grad()
def language_loss(model: LanguageModel, chain: Chain, count: int = 1000) -> float:
    """Nats per token of held-out texts without a prompt."""
    batch = pad_right(chain.general(count, "held-out general"), 0)
    return float(-model.log_probs(batch.tokens, batch.attention, batch.response).sum() / batch.response.sum())


def tax_study(chain: Chain, report: Report) -> None:
    """Plain PPO and PPO-ptx at one price of a nat: what is gained, and what is lost of the language itself."""
    task = f"{chain.setting.world}/alignment-tax"
    before = language_loss(chain.sft, chain)
    texts = chain.general(chain.setting.demonstrations // 2, "pretraining")
    for method, coefficient in (("ppo-lm", 0.0), ("ppo-ptx", 1.0)):
        model = chain.ppo(stage="tax", pretraining=texts, kl_coefficient=0.1, ptx_coefficient=coefficient, ptx_ratio=2.0)
        after, found = language_loss(model, chain), chain.evaluate(model, f"tax {method}")
        report.add_model(chain, task, method, found, loss_before=before, loss_after=after, tax=after / before - 1.0)


def kwise_study(chain: Chain, report: Report, passes: int = 4) -> None:
    """The same rankings of six answers, a prompt as one element or its fifteen pairs shuffled: held-out loss after every pass."""
    task = f"{chain.setting.world}/k-wise"
    held, count = max(chain.setting.held_out // 2, 4), max(chain.setting.ranked_prompts // 5, 12)
    ranked = chain.rank(held + count, 6, "k-wise")
    for method, shuffled in (("per-prompt", False), ("shuffled-pairs", True)):
        config = replace(chain.setting.reward, epochs=passes, shuffled_pairs=shuffled, batch_size=60 if shuffled else 4)  # 60 pairs both
        g = chain.generator("k-wise fit")
        learner = RewardModel(config, [ScoreModel.of(chain.sft, g)], ranked.rankings[held:], g)
        judge = RewardModel(replace(config, shuffled_pairs=False, batch_size=64), learner.models, ranked.rankings[:1], g)
        losses = list[tuple[float, float]]()
        per_pass = learner.passes[0].per_pass
        while learner.updates < learner.total:
            learner.update()
            if learner.updates % per_pass == 0:
                learned, unseen = (judge.evaluate(own)["loss"] for own in (ranked.rankings[held:], ranked.rankings[:held]))
                losses.append((learned, unseen))
        report.curves[method] = losses
        first, last = losses[0], losses[-1]
        report.add(
            chain, task, method, last[1] - last[0], loss_first_pass=first[1], gap_first_pass=first[1] - first[0], loss_last_pass=last[1],
            train_loss_last_pass=last[0], best_loss=min(loss for _, loss in losses), updates=learner.updates, passes=passes,
        )  # fmt: skip


def pretrained(chain: Chain) -> LanguageModel:
    """What a model is that has read the language and no instruction: texts that follow prompts of others, read once."""
    model = chain.fresh.copy().requires_grad_(True)
    texts = chain.texts(chain.setting.demonstrations, "pretraining corpus")
    prompts = [prompt for prompt, _ in chain.world.demonstrations(len(texts), chain.generator("other prompts"))]
    answers = [[token for token, own in zip(text.tokens, text.response, strict=True) if own] for text in texts]
    mixed = [encoded(chain.encoder.prompt(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
    run(SFT(replace(chain.setting.sft, epochs=1), model, mixed, chain.generator("pretraining")))
    return model.copy()


def win_rate_study(chain: Chain, report: Report) -> None:
    """Against people's answers to the same prompts, by gold."""
    task = f"{chain.setting.world}/win-rates"
    rows = chain.world.demonstrations(chain.setting.test_prompts, chain.generator("test prompts"))
    people = chain.world.gold_of([prompt for prompt, _ in rows], [f"{answer} <eos>" for _, answer in rows])
    models = {"pretrained": pretrained(chain), "sft": chain.sft, "dpo": chain.tuned("dpo"), "ppo-lm": chain.tuned("ppo-lm")}
    for name, model in models.items():
        answers = chain.answers(model, chain.test_prompts, f"win rates {name}")
        length = torch.tensor([len(answer.split()) + 1.0 for _, answer in rows])
        won = win_rate(outcomes(chain.gold(answers.text), people), chain.generator("bootstrap"), answers.length, length)
        assert won.controlled is not None
        report.add(
            chain, task, name, won.rate, low=won.wilson.low, high=won.wilson.high, bootstrap_low=won.bootstrap.low,
            bootstrap_high=won.bootstrap.high, length_controlled=won.controlled.by_difference, length=won.controlled.length,
        )  # fmt: skip


STUDIES: dict[Study, Callable[[Chain, Report], None]] = {
    "chain": chain_study,
    "win-rates": win_rate_study,
    "frontier": frontier_study,
    "alignment-tax": tax_study,
    "k-wise": kwise_study,
    "over-optimization": overoptimization_study,
}


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run what is not there yet, add its rows, and write the page from all curves in `out`."""
    torch.set_num_threads(recipe.threads)
    console = console or Console()
    results = recipe.results or (RESULTS / "language.jsonl" if recipe.scale == 1.0 else None)
    for seed in range(recipe.seed, recipe.seed + recipe.seeds + (2 if "over-optimization" in recipe.study else 0)):
        last = seed >= recipe.seed + recipe.seeds
        run_seed(recipe, seed, ["over-optimization"] if last else [study for study in STUDIES if study in recipe.study], results, console)
    console.print(f"page: {write_page(recipe.out)}")


def run_seed(recipe: Recipe, seed: int, studies: Sequence[Study], results: Path | None, console: Console) -> None:
    """Some studies of one seed; they share the stages that they have in common."""
    setting = Setting().scaled(recipe.scale)
    kept = recipe.out / "models"
    chain = Chain(setting, seed, kept)
    for study in studies:
        path = recipe.out / f"{study}-{seed}.json"
        if path.exists():
            continue
        own = Chain(overoptimization_setting(setting), seed, kept) if study == "over-optimization" else chain
        report = Report()
        STUDIES[study](own, report)
        report.finish(path, results, console)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
