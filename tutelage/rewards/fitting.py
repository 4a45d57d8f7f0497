"""Fitting a reward ensemble: which member sees which label when, and when it is enough.

Plain passes until the labels are agreed with (PEBBLE), or a bootstrap for each member whose held-out third drives the penalty on its
weights (Christiano et al. 2017, arXiv 1706.03741, section 2.2.3).
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Generator, Tensor

from tutelage.rewards.comparisons import Augment, Comparisons, Rows
from tutelage.rewards.learned import Config, RewardEnsemble

PENALTIES = (1e-8, 1.0)
"""Where an adapting penalty is kept: after long on one side of the band it shall not take as long to come back."""


def bootstrap_counts(key: Int64[Tensor, "N"], members: int) -> Int64[Tensor, "members N"]:
    """How often each label is in each member's bootstrap sample: Poisson(1), the limit of |D| draws with replacement from |D|.

    Christiano et al. 2017, section 2.2.3; label by label (Oza & Russell 2001), so that a label stays where it is while D grows.
    0 has probability 1/e: those labels are the member's held-out set.
    """
    g, one = Generator(), torch.ones(members)
    counts = [torch.poisson(one, generator=g.manual_seed(number)) for number in key.tolist()]
    return torch.stack(counts, 1).long() if counts else torch.zeros(members, 0, dtype=torch.int64)


def adapted_penalty(
    penalty: Float[Tensor, "*n"], train: Float[Tensor, "*n"], held_out: Float[Tensor, "*n"], band: tuple[float, ...], pace: float
) -> Float[Tensor, "*n"]:
    """A coefficient that keeps the held-out loss within `band` times the training loss.

    c <- c pace above the band, c / pace below it, c inside and where a loss is unknown (NaN).

    Christiano et al. 2017, section 2.2.3: between 1.1 and 1.5. Kept within PENALTIES.
    """
    low, high = band
    ratio = held_out / train
    factor = torch.where(ratio > high, pace, torch.where(ratio < low, 1.0 / pace, 1.0))
    return (penalty * factor).clamp(*PENALTIES)


def fit(ensemble: RewardEnsemble, comparisons: Comparisons, augment: Augment | None = None) -> dict[str, Float[Tensor, "R"]]:
    """Gradient steps on minibatches until a seed's members are accurate enough or the budget is spent.

    A seed without any label is left as it is. augment: changes the rows of every step (None: the clips as they were shown).
    Metrics: loss, accuracy (ties left out), fit_steps; with a bootstrap also held_out (the loss there) and penalty.
    """
    config, device = ensemble.config, ensemble.device
    x = ensemble.inputs(comparisons.observation, comparisons.action)  # [R, N, 2, L, *width]
    label, weight = comparisons.label.to(device), comparisons.weight.to(device)
    true_return = comparisons.true_return.to(device)
    shares = _shares(config, comparisons)
    labels = [int((row > 0).sum()) for row in comparisons.weight]
    budgets = [_budget(config, count, int(fits)) for count, fits in zip(labels, ensemble.fits, strict=True)]
    passes = [_per_pass(config, own) for own in shares]
    streams = [_orders(config, own, budget, g) for own, budget, g in zip(shares, budgets, ensemble.generators, strict=True)]
    seeds = torch.arange(len(x), device=device)[:, None, None]
    # What stands in for padding: a label that counts, since an infinity or a NaN times weight 0 would not be 0.
    spare = (weight > 0).int().argmax(1)[:, None, None]
    active = torch.tensor([budget > 0 for budget in budgets])
    history: list[list[tuple[float, float, float]]] = [[] for _ in labels]
    for step in range(max(budgets)):
        if not active.any():
            break
        index = torch.stack([s[step % len(s)] for s in streams]).to(device)  # [R, E, batch]; -1 pads
        here = torch.where(index >= 0, index, spare)
        w = weight[seeds, here] * (index >= 0)
        w = w / w.sum(-1, keepdim=True).clamp(min=1e-12)
        rows = Rows(x[seeds, here], label[seeds, here], w, true_return[seeds, here])
        rows = _as_shown(rows, comparisons) if augment is None else augment(rows)
        gradient, loss, logit = ensemble.gradient(rows)
        ensemble.optimizer.step(gradient, active.to(device))
        y = label[seeds, here]
        counted = (w > 0) & (y != 0.5)
        agreed = ((logit[..., : y.shape[-1]] > 0) == (y > 0.5)) & counted
        row = torch.stack([loss.mean(1), agreed.sum((1, 2)).float(), counted.sum((1, 2)).float()], -1).cpu()
        if config.penalty_band:
            _adapt(ensemble, comparisons, shares, active & torch.tensor([(step + 1) % max(per_pass, 1) == 0 for per_pass in passes]))
        for seed in active.nonzero().flatten().tolist():
            history[seed].append(tuple(row[seed].tolist()))
            _, accuracy = _recent(history[seed], passes[seed])
            done = step + 1 >= config.min_steps and step + 1 >= passes[seed] and accuracy > config.target_accuracy
            active[seed] = not done and step + 1 < budgets[seed]
    ensemble.fits += torch.tensor([count > 0 for count in labels])
    recent = [_recent(rows, per_pass) for rows, per_pass in zip(history, passes, strict=True)]
    metrics = {
        "loss": torch.tensor([loss for loss, _ in recent]),
        "accuracy": torch.tensor([accuracy for _, accuracy in recent]),
        "fit_steps": torch.tensor([float(len(rows)) for rows in history]),
    }
    if config.bootstrap:
        metrics |= {"held_out": losses(ensemble, comparisons, shares)[1].nanmean(1).cpu(), "penalty": ensemble.penalty.mean(1).cpu()}
    return metrics


def _as_shown(rows: Rows, comparisons: Comparisons) -> Rows:
    return replace(rows, x=rows.x[:, :, :, :, comparisons.shown]) if comparisons.margin else rows


@torch.no_grad()
def losses(
    ensemble: RewardEnsemble, comparisons: Comparisons, shares: list[list[Tensor]]
) -> tuple[Float[Tensor, "R E"], Float[Tensor, "R E"]]:
    """Mean loss of each member over the labels that it learns from (`shares`, for each seed and member), and over all others.

    NaN where there are none.
    """
    device = ensemble.device
    usable = comparisons.weight.to(device)[:, None] > 0  # [R, 1, N]
    rewards = torch.stack([ensemble.member_rewards(*comparisons.side(side)) for side in (0, 1)], 3)  # [R, E, N, 2, H]
    R, E, N = rewards.shape[:3]
    label, true_return = (x.to(device)[:, None].expand(R, E, N, *x.shape[2:]) for x in (comparisons.label, comparisons.true_return))
    rows = Rows(rewards[..., None], label, usable.expand(R, E, N).float(), true_return)
    each = torch.where(usable, ensemble.loss(rewards, rows), 0.0)
    learned = torch.stack([torch.stack([own.bincount(minlength=N) for own in seed]) for seed in shares]).to(device)
    others = (learned == 0) & usable
    return (each * learned).sum(-1) / learned.sum(-1), (each * others).sum(-1) / others.sum(-1)


def _adapt(ensemble: RewardEnsemble, comparisons: Comparisons, shares: list[list[Tensor]], turned: Bool[Tensor, "R"]) -> None:
    """After a pass of the seeds that `turned` marks."""
    if turned.any():
        adapted = adapted_penalty(
            ensemble.penalty, *losses(ensemble, comparisons, shares), ensemble.config.penalty_band, ensemble.config.penalty_pace
        )
        ensemble.penalty = torch.where(turned[:, None].to(ensemble.device), adapted, ensemble.penalty)


def _shares(config: Config, comparisons: Comparisons) -> list[list[Int[Tensor, "n"]]]:
    """For each seed and member the labels that it learns from; with a bootstrap some twice and more, and some not."""
    usable = [row.nonzero().flatten() for row in comparisons.weight.cpu()]
    if not config.bootstrap:
        return [[rows] * config.members for rows in usable]
    counts = [bootstrap_counts(keys[rows], config.members) for keys, rows in zip(comparisons.key, usable, strict=True)]
    return [[rows.repeat_interleave(count) for count in own] for rows, own in zip(usable, counts, strict=True)]


def _recent(history: list[tuple[float, float, float]], passes: int) -> tuple[float, float]:
    """Loss and accuracy over the last pass over the labels."""
    rows = history[-max(passes, 1) :]
    if not rows:
        return float("nan"), float("nan")
    counted = sum(row[2] for row in rows)
    return sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows) / counted if counted else float("nan")


def _budget(config: Config, labels: int, fits: int) -> int:
    """Gradient steps that a fit may take at most after so many earlier ones."""
    cap = config.first_max_steps if fits == 0 and config.first_max_steps is not None else config.max_steps
    steps = config.epochs * -(-labels // config.batch_size)
    return steps if cap is None else min(steps, cap)


def _per_pass(config: Config, shares: list[Tensor]) -> int:
    """Gradient steps of one pass: until the member with the most labels has seen all of them."""
    return -(-max(map(len, shares)) // config.batch_size)


def _orders(config: Config, shares: list[Tensor], budget: int, generator: Generator) -> Int[Tensor, "steps E batch"]:
    """Which label each member sees at each step: pass after pass, each in a fresh order; short passes are padded with -1."""
    size, per_pass = config.batch_size, _per_pass(config, shares)
    if not budget or not per_pass:
        return torch.full((1, config.members, size), -1)
    passes = -(-budget // per_pass)
    padded = torch.full((config.members, passes, per_pass * size), -1)
    for member, rows in enumerate(shares):
        # Spread where a step would be left empty: without a gradient, Adam would still move the member by its momentum.
        place = torch.arange(len(rows)) if len(rows) > (per_pass - 1) * size else torch.arange(len(rows)) * per_pass * size // len(rows)
        for number in range(passes):
            padded[member, number, place] = rows[torch.randperm(len(rows), generator=generator)]
    return padded.view(config.members, passes * per_pass, size).transpose(0, 1)
