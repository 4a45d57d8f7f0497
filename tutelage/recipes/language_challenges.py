"""Open problems of learning from people's preferences, each with a number: `python -m tutelage.recipes.language_challenges`.

All in the valence language, where gold is known:
- `ai-rater`: a language model that names the better of two answers agrees with gold so often in one order, and so often in both.
- `queries`: which pairs to ask about: at random, where an ensemble disagrees, where an answer informs most; equal numbers of labels.
- `objectives`: cheerful or short: rewarded soups (two policies, weights mixed) beside MODPO (a policy for each trade-off), on one front.
- `length`: raters who like long answers, and PPO on a plain reward model, on one less a price of length, and on ODIN's quality head.
- `iterations`: one round of 220 rankings beside two of 110, the second asked for when a trigger fires: the policy has gone two nats from
  the one whose answers were ranked.
A challenge whose rows are there is not run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from tutelage.equations.preferences import preference_probability
from tutelage.evaluate.text import evaluate_model
from tutelage.evaluate.win_rates import agreement, in_both_orders, outcomes, win_rate
from tutelage.experience.text import Encoded, TextBatch, encoded, pad_left
from tutelage.experience.tokenizers import word_tokenizer
from tutelage.experiment.text_materials import GoldReward
from tutelage.feedback import samplers
from tutelage.games.text_worlds import EOS
from tutelage.learn.language import odin
from tutelage.learn.language.dpo import DPO
from tutelage.learn.language.reward_model import Ranking, RewardModel, in_pairs, score_rankings
from tutelage.learn.language.rounds import Config as RoundsConfig
from tutelage.learn.language.rounds import Rounds
from tutelage.learn.language.sft import SFT
from tutelage.learn.language.soups import soup
from tutelage.learn.language.writing import Asked
from tutelage.nets.language import LanguageModel, ScoreModel, make_model
from tutelage.recipes.language import Report
from tutelage.recipes.rows import RESULTS
from tutelage.recipes.text_chain import Chain, Ranked, Setting, run
from tutelage.rewards.text import LearnedTextReward, ShorterTextReward

Challenge = Literal["ai-rater", "queries", "objectives", "length", "iterations"]


@dataclass(frozen=True)
class Recipe:
    """Some challenges, or all of them."""

    challenge: tuple[Challenge, ...] = ("ai-rater", "queries", "objectives", "length", "iterations")
    """Which."""
    seeds: int = 3
    """How many."""
    seed: int = 10
    """The first. Settings were chosen on 0 to 9."""
    scale: float = 1.0
    """Shrinks data and training, to try the recipe; rows then go where `results` says only if it is given."""
    out: Path = Path("runs/language")
    """Where what was found lies."""
    results: Path | None = None
    """The file that rows are added to. None: benchmarks/results/language.jsonl, at scale 1 only."""
    threads: int = 1
    """Of torch."""


def small(chain: Chain, count: int, least: int = 8) -> int:
    """A count that shrinks as the setting does."""
    return max(round(count * chain.setting.ranked_prompts / 1500), least)


# --- a language model as a rater -------------------------------------------------------------------------------------------


class LanguageRater:
    """A language model that reads a prompt and two answers and says "first" or "second"; its preference is the odds of the two words."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.tokenizer = word_tokenizer([*chain.world.words, "|", "first", "second"])
        self.ids = {word: int(self.tokenizer.convert_tokens_to_ids(word)) for word in ("first", "second")}
        address = chain.setting.model.replace("context=64", "context=80")
        self.model = make_model(address, chain.generator("rater"), self.tokenizer)

    def asked(self, prompt: str, first: str, second: str) -> list[int]:
        """The query as tokens."""
        words = " ".join(f"{prompt} | {first} | {second} |".replace("<eos>", "").split())
        return self.tokenizer(words, add_special_tokens=False)["input_ids"]

    def learn(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str], said_first: Sequence[bool]) -> None:
        """From the answers of people."""
        texts = [
            encoded(self.asked(p, a, b), [self.ids["first" if said else "second"]])
            for p, a, b, said in zip(prompts, first, second, said_first, strict=True)
        ]
        how = replace(self.chain.setting.sft, epochs=6, learning_rate=2e-3)
        run(SFT(how, self.model, texts, self.chain.generator("rater fit")))

    @torch.no_grad()
    def prefers_first(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Float[Tensor, "N"]:
        """The probability of "first" against "second" as the next word."""
        batch = pad_left([self.asked(*query) for query in zip(prompts, first, second, strict=True)], EOS)
        logits = self.model.logits_of(self.model.hidden(batch.tokens, batch.attention)[:, -1])
        return torch.sigmoid(logits[:, self.ids["first"]] - logits[:, self.ids["second"]])


def ai_rater(chain: Chain, report: Report) -> None:
    """Trained on 6,000 answers of people who tend to the answer they read first; judged on pairs that it has not read."""
    count, tests = small(chain, 6_000), small(chain, 1_000)
    prompts = chain.world.prompts(count + tests, chain.generator("rater prompts"))
    answers = chain.answers(chain.sft, [chain.encoder.prompt(prompt) for prompt in prompts], "rater answers", 2)
    written, gold = chain.written(answers), chain.gold(answers.text).view(-1, 2)
    first, second, gap = written[::2], written[1::2], gold[:, 0] - gold[:, 1]
    g = chain.generator("rater labels")
    said = torch.rand(len(gap), generator=g) < preference_probability(gap + 0.5)  # half a nat for whatever comes first
    rater = LanguageRater(chain)
    rater.learn(prompts[tests:], first[tests:], second[tests:], said[tests:].tolist())
    verdicts = in_both_orders(rater, prompts[:tests], first[:tests], second[:tests])
    truth = outcomes(gold[:tests, 0], gold[:tests, 1])
    task = f"{chain.setting.world}/ai-rater"
    for method, outcome in (("one-order", verdicts.ours_first), ("both-orders", verdicts.outcome)):
        found = agreement(outcome, truth)
        report.add(
            chain, task, method, found.estimate, low=found.low, high=found.high, position_bias=verdicts.position_bias,
            consistent=verdicts.consistent, people_in_one_order=agreement(said[:tests].float(), truth).estimate,
        )  # fmt: skip


# --- which pairs to ask about ----------------------------------------------------------------------------------------------


def queries(chain: Chain, report: Report) -> None:
    """150 pairs at random, then twice 300 by the sampler, of 2,500; three members are fitted anew each time."""
    pool, held = small(chain, 2_500, 24), max(chain.setting.held_out, 8)
    candidates, test = chain.rank(pool, 2, "pool"), chain.rank(held, 4, "query test")
    first, each = small(chain, 150, 6), small(chain, 300, 6)
    task = f"{chain.setting.world}/queries"
    for method in ("uniform", "disagreement", "information_gain"):
        g = chain.generator("queries")
        asked: list[int] = torch.randperm(pool, generator=g)[:first].tolist()
        for session in range(3):
            models = _fitted(chain, [candidates.rankings[i] for i in asked], 3)
            if session == 2:
                break
            rest = [i for i in range(pool) if i not in set(asked)]
            with torch.no_grad():
                scores = torch.stack([score_rankings(model, [candidates.rankings[i] for i in rest])[0] for model in models])
            probabilities = preference_probability(scores[..., 0] - scores[..., 1])
            if method == "uniform":
                chosen = samplers.uniform(len(rest), each, g)
            else:
                chosen = getattr(samplers, method)(probabilities, each)
            asked += [rest[i] for i in chosen.tolist()]
        order = _order(models, test)
        gap = candidates.gold[asked, 0] - candidates.gold[asked, 1]
        report.add(chain, task, method.replace("_", "-"), order, labels=len(asked), mean_gold_gap=float(gap.abs().mean()))


def _fitted(chain: Chain, rankings: Sequence[Ranking], members: int, epochs: int = 6) -> list[ScoreModel]:
    g = chain.generator("fit")
    models = [ScoreModel.of(chain.sft, g) for _ in range(members)]
    run(RewardModel(replace(chain.setting.reward, members=members, epochs=epochs), models, rankings, g))
    return models


@torch.no_grad()
def _order(models: Sequence[ScoreModel], ranked: Ranked) -> float:
    """Share of pairs that the mean score orders as gold does."""
    score = torch.stack([score_rankings(model, ranked.rankings)[0] for model in models]).mean(0)
    gaps = [x[:, :, None] - x[:, None, :] for x in (score, ranked.gold)]
    unequal = gaps[1] != 0.0
    return float(((gaps[0] > 0.0) == (gaps[1] > 0.0))[unequal].double().mean())


# --- two objectives --------------------------------------------------------------------------------------------------------

BREVITY = 0.25
"""What a token costs those who want it short."""


def objectives(chain: Chain, report: Report) -> None:
    """Raters of one kind rank by cheer, the others' reward is known: brevity. Every trade-off by both methods."""
    count = small(chain, 600, 12)
    answers = chain.answers(chain.sft, chain.prompts(count, "objectives"), "objectives answers", 4)
    rows, cheer, short = answers.text.rows(), _cheer(chain, answers.text), -BREVITY * answers.length
    noise = -(-torch.rand(len(rows), generator=chain.generator("objectives raters"), dtype=torch.float64).clamp(min=1e-12).log()).log()
    by_cheer, by_short = (_ordered(rows, score.double() + noise, 4) for score in (cheer, short))
    margins = torch.tensor([[-BREVITY * (sum(w.response) - sum(l.response))] for w, l in by_cheer])
    cheerful, terse = (_direct(chain, pairs, (1.0,), None) for pairs in (by_cheer, by_short))
    ends = {"cheer": cheerful, "short": terse}
    front: dict[str, list[tuple[float, float]]] = {"rewarded-soups": [], "modpo": []}
    task = f"{chain.setting.world}/objectives"
    worth: dict[str, list[float]] = {name: [] for name in front}
    for weight in (0.25, 0.5, 0.75):
        mixed = soup((cheerful, terse), (weight, 1.0 - weight))
        own = _direct(chain, by_cheer, (weight, 1.0 - weight), margins)
        for name, model in (("rewarded-soups", mixed), ("modpo", own)):
            found = _two_scores(chain, model)
            front[name].append(found[:2])
            worth[name].append(weight * found[0] + (1.0 - weight) * found[1] - 0.5 * found[2])
    corners = [_two_scores(chain, model)[:2] for model in ends.values()]
    low = (min(x for x, _ in corners), min(y for _, y in corners))
    for name, points in front.items():
        middle = {f"cheer_{i}": x for i, (x, _) in enumerate(points)} | {f"short_{i}": y for i, (_, y) in enumerate(points)}
        value = sum(worth[name]) / len(worth[name])
        report.add(chain, task, name, value, hypervolume=_dominated([*points, *corners], low), **middle)
    report.curves = {"front": front, "ends": corners}


def _cheer(chain: Chain, text: TextBatch) -> Float[Tensor, "B"]:
    return chain.gold(text) + 0.05 * text.response.sum(1)


def _ordered(rows: Sequence[Encoded], perceived: Float[Tensor, "N"], K: int) -> list[tuple[Encoded, Encoded]]:
    ranks = perceived.view(-1, K).argsort(1, descending=True).argsort(1) + 1
    rankings = [Ranking(tuple(rows[K * p : K * (p + 1)]), tuple(ranks[p].tolist())) for p in range(len(ranks))]
    return [(pair.texts[0], pair.texts[1]) for pair in in_pairs(rankings)]


def _direct(
    chain: Chain, pairs: Sequence[tuple[Encoded, Encoded]], weights: tuple[float, ...], margins: Float[Tensor, "N M"] | None
) -> LanguageModel:
    model = chain.sft.copy().requires_grad_(True)
    config = replace(chain.setting.dpo, loss="dpo" if margins is None else "modpo", objective_weights=weights)
    run(DPO(config, model, pairs, chain.generator("objectives dpo"), margins=margins))
    return model.copy()


def _two_scores(chain: Chain, model: LanguageModel) -> tuple[float, float, float]:
    """Mean cheer, mean brevity, and KL from SFT."""
    g = chain.generator("evaluate objectives")
    found, answers = evaluate_model(
        model, chain.sft, chain.test_prompts, chain.gold, chain.opponent, chain.world.answer_tokens, EOS, g
    )  # fmt: skip
    return float(_cheer(chain, answers.text).mean()), -BREVITY * found.length, found.kl.mean


def _dominated(points: Sequence[tuple[float, float]], low: tuple[float, float]) -> float:
    """The area that a front covers beyond a corner."""
    area, reached = 0.0, low[1]
    for x, y in sorted(points, reverse=True):
        if x > low[0] and y > reached:
            area, reached = area + (x - low[0]) * (y - reached), y
    return area


# --- length ----------------------------------------------------------------------------------------------------------------

TASTE = 0.2
"""What raters who like long answers add per token."""


def length(chain: Chain, report: Report) -> None:
    """Three rewards from the same biased rankings, PPO on each; the biased raters judge, raw and at equal lengths."""
    count = small(chain, 1_000, 24)
    answers = chain.answers(chain.sft, chain.prompts(count, "length"), "length answers", 4)
    taste = lambda text: chain.gold(text).double() + TASTE * text.response.sum(1)
    g = chain.generator("length raters")
    noise = -(-torch.rand(len(answers.text), generator=g, dtype=torch.float64).clamp(min=1e-12).log()).log()
    pairs = _ordered(answers.text.rows(), taste(answers.text) + noise, 4)
    plain = _fitted(chain, [Ranking(pair, (1, 2)) for pair in pairs[::3]], 1, 6)[0]
    quality = ScoreModel.of(chain.sft, chain.generator("odin"))
    how = odin.Config(epochs=6, batch_size=96, learning_rate=1e-3, optimizer=chain.setting.reward.optimizer)
    run(odin.Odin(how, quality, pairs[::3], chain.generator("odin fit")))
    task = f"{chain.setting.world}/length"
    rewards = {
        "none": (plain, LearnedTextReward([plain])),
        "penalty": (plain, ShorterTextReward(LearnedTextReward([plain]), TASTE)),
        "odin": (quality, LearnedTextReward([quality])),
    }
    for method, (model, reward) in rewards.items():
        policy = chain.ppo(reward, "length ppo", critic=model)
        written = chain.answers(policy, chain.test_prompts, "length test")
        liked = outcomes(taste(written.text), taste(chain.opponent.text))
        won = win_rate(liked.float(), chain.generator("bootstrap"), written.length, chain.opponent.length)
        assert won.controlled is not None
        by_gold = outcomes(chain.gold(written.text), chain.gold(chain.opponent.text)).mean()
        with torch.no_grad():
            score, tokens = reward.scores(answers.text), answers.length
        report.add(
            chain, task, method, won.controlled.by_difference, raw_win_rate=won.rate, low=won.wilson.low, high=won.wilson.high,
            by_ratio=won.controlled.by_ratio, gold_win_rate=by_gold, length=won.controlled.length, sft_length=won.controlled.other_length,
            reward_length_correlation=float(torch.corrcoef(torch.stack((score, tokens)))[0, 1]),
        )  # fmt: skip


# --- when the next round starts --------------------------------------------------------------------------------------------


def iterations(chain: Chain, report: Report, budget: float = 2.0) -> None:
    """One round of all rankings, or two of half as many; the second begins when the policy has gone `budget` nats from SFT."""
    own = Chain(replace(chain.setting, world="text:valence-once"), chain.seed, chain.kept)
    labels = small(chain, 220, 8)
    asked = [Asked(tuple(prompt)) for prompt in own.prompts(2_000, "iterations prompts")]
    demonstrations = own.texts(500, "iterations shift")
    for method, rounds in (("one-round", 1), ("kl-budget-trigger", 2)):
        ppo, fit = replace(own.setting.ppo, kl_coefficient=0.05), replace(own.setting.reward, epochs=12)
        config = RoundsConfig(ppo, fit, rounds, labels // rounds, 4, "kl", kl=budget)
        model = ScoreModel.of(own.sft, own.generator("iterations head"))
        policy, gold = own.sft.copy().requires_grad_(True), GoldReward(own.world)
        stage = Rounds(config, policy, [model], gold, asked, EOS, own.generator("iterations"), own.sft, demonstrations)
        labeled: list[float] = []
        while stage.updates < stage.total:
            labeled.append(stage.update()["labels"])
        began = [i for i in range(1, len(labeled)) if labeled[i] > labeled[i - 1]]
        found = own.evaluate(policy.copy(), f"iterations {method}")
        started = {"second_round_at": began[0]} if began else {}
        report.add_model(own, "text:valence-once/iterations", method, found, labels=labeled[-1], **started)


CHALLENGES: dict[Challenge, Callable[[Chain, Report], None]] = {
    "ai-rater": ai_rater,
    "queries": queries,
    "objectives": objectives,
    "length": length,
    "iterations": iterations,
}


def main(recipe: Recipe, console: Console | None = None) -> None:
    """Run what is not there yet and add its rows."""
    torch.set_num_threads(recipe.threads)
    console = console or Console()
    results = recipe.results or (RESULTS / "language.jsonl" if recipe.scale == 1.0 else None)
    for seed in range(recipe.seed, recipe.seed + recipe.seeds):
        chain = Chain(Setting().scaled(recipe.scale), seed, recipe.out / "models")
        for challenge in recipe.challenge:
            path = recipe.out / f"{challenge}-{seed}.json"
            if path.exists():
                continue
            report = Report()
            CHALLENGES[challenge](chain, report)
            report.finish(path, results, console)


if __name__ == "__main__":
    main(tyro.cli(Recipe, description=__doc__))
