"""The reward ensemble against a slow loop over torch.nn modules, and what its seeds and pads may not do."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tutelage.experience.trees import pack, unpack
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.fitting import fit
from tutelage.rewards.learned import Config, RewardEnsemble

R, N, H, D, A = 2, 14, 6, 3, 2
SMALL = Config(hidden=(16, 16), batch_size=5, epochs=8, learning_rate=3e-3, target_accuracy=1.0)


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def clips(seed: int, members: int = R, pairs: int = N) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Left and right clips, and the labels of a rater who likes a large first entry of the observation."""
    g = Generator().manual_seed(seed)
    sides = [(torch.randn(members, pairs, H, D, generator=g), torch.randn(members, pairs, H, A, generator=g)) for _ in range(2)]
    better = sides[0][0][..., 0].sum(-1) > sides[1][0][..., 0].sum(-1)
    return sides[0], sides[1], better.float()


def ensemble(config: Config = SMALL, seeds: tuple[int, ...] = (1, 2)) -> RewardEnsemble:
    return RewardEnsemble(config, D, A, generators(*seeds))


def fitted_to(
    made: RewardEnsemble, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], label: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """The metrics of a fit."""
    key = torch.arange(label.numel()).view(label.shape)
    true_return = torch.stack([left[0][..., 0].sum(-1), right[0][..., 0].sum(-1)], -1)
    observation, action = (torch.stack([left[i], right[i]], 2) for i in (0, 1))
    return fit(made, Comparisons(observation, action, label, weight, key, true_return, weight > 0))


def cut(side: tuple[Tensor, Tensor], rows: slice, columns: slice = slice(None)) -> tuple[Tensor, Tensor]:
    return side[0][rows, columns], side[1][rows, columns]


def module_of(made: RewardEnsemble, seed: int, member: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    weights = made.parameters.weights
    for i in range(len(made.net.mlp.sizes) - 1):
        layer = nn.Linear(made.net.mlp.sizes[i], made.net.mlp.sizes[i + 1])
        layer.weight.data.copy_(weights[f"weight_{i}"][seed, member].mT)
        layer.bias.data.copy_(weights[f"bias_{i}"][seed, member, 0])
        layers += [layer, nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers[:-1], *([nn.Tanh()] if made.config.bounded else []))


def slow_fit(made: RewardEnsemble, g: Generator, left, right, label: Tensor, usable: Tensor) -> list[nn.Sequential]:
    """The fit of a single seed: for each member a module, an AdamW and plain minibatches, as the orders are drawn."""
    config, nets = made.config, [module_of(made, 0, e) for e in range(made.config.members)]
    passes = config.epochs
    orders = [[usable[torch.randperm(len(usable), generator=g)] for _ in range(passes)] for _ in nets]
    for net, own in zip(nets, orders, strict=True):
        optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        for order in own:
            for rows in order.split(config.batch_size):
                loss = torch.zeros(())
                for n in rows.tolist():
                    sums = [net(torch.cat([side[0][0, n], side[1][0, n]], -1)).sum() for side in (left, right)]
                    p = (1.0 - config.rater_error) * torch.sigmoid(sums[0] - sums[1]) + config.rater_error / 2.0
                    y = (1.0 - config.label_smoothing) * label[0, n] + config.label_smoothing * (1.0 - label[0, n])
                    loss = loss - (y * p.log() + (1.0 - y) * (1.0 - p).log())
                optimizer.zero_grad()
                (loss / len(rows)).backward()
                optimizer.step()
    return nets


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bounded": False, "weight_decay": 0.1},
        {"rater_error": 0.2},
        {"label_smoothing": 0.1},
        {"batch_size": 50},
        {"batch_size": 14},
    ],
)
def test_a_fit_equals_a_slow_loop_over_modules(change: dict):
    config = dataclasses.replace(SMALL, epochs=4, min_steps=10_000, **change)
    made = ensemble(config, (1,))
    left, right, label = clips(3, 1)
    label[0, 3] = 0.5  # a tie
    expected = slow_fit(made, generators_after_initialization(config), left, right, label, torch.arange(N))
    start = made.parameters.flat.clone()
    fitted_to(made, left, right, label, torch.ones(1, N))
    assert (made.parameters.flat - start).abs().max() > 1e-3
    x = torch.cat([left[0][0], left[1][0]], -1)
    ours = made.member_rewards(left[0], left[1])
    for e, net in enumerate(expected):
        theirs = net(x).squeeze(-1).detach()
        # Without the tanh the last bias has no gradient but rounding, which Adam makes a random walk: no comparison sees it.
        offset = 0.0 if config.bounded else (theirs - ours[0, e]).mean()
        torch.testing.assert_close(ours[0, e] + offset, theirs, atol=2e-5, rtol=1e-4)


def generators_after_initialization(config: Config) -> Generator:
    """The generator of seed 1 as the ensemble has it when it begins to fit."""
    [g] = generators(1)
    for i, width_in in enumerate((D + A, *config.hidden)):
        width_out = (*config.hidden, 1)[i]
        for shape in ((config.members, width_in, width_out), (config.members, 1, width_out)):
            torch.rand(shape, generator=g)
    return g


def test_a_seed_in_a_stack_learns_what_it_would_alone():
    left, right, label = clips(4)
    weight = torch.ones(R, N)
    weight[1, 9:] = 0.0  # seeds with different numbers of labels
    stacked = ensemble()
    metrics = fitted_to(stacked, left, right, label, weight)
    for r, labels in ((0, N), (1, 9)):
        alone = ensemble(seeds=(r + 1,))
        sides = [cut(side, slice(r, r + 1), slice(labels)) for side in (left, right)]
        own = fitted_to(alone, sides[0], sides[1], label[r : r + 1, :labels], torch.ones(1, labels))
        torch.testing.assert_close(stacked.reward(*left)[r], alone.reward(*cut(left, slice(r, r + 1)))[0], atol=1e-5, rtol=1e-5)
        for name in metrics:
            assert metrics[name][r].item() == pytest.approx(own[name][0].item(), abs=1e-5)
    assert metrics["fit_steps"].tolist() == [8.0 * 3, 8.0 * 2]


def test_what_pads_hold_changes_nothing():
    def fitted(fill: float) -> Tensor:
        left, right, label = clips(4)
        weight = torch.ones(R, N)
        weight[0, :2], weight[1, 9:] = 0.0, 0.0
        for side in (left, right):
            for part in side:
                part[weight == 0.0] = fill
        label[weight == 0.0] = fill
        made = ensemble()
        fitted_to(made, left, right, label, weight)
        assert not made.optimizer.frozen.any()
        return made.parameters.flat

    assert torch.equal(fitted(0.0), fitted(1e4)) and torch.equal(fitted(0.0), fitted(math.nan))


def test_a_seed_without_labels_is_left_as_it_is_and_may_learn_later():
    left, right, label = clips(4)
    made = ensemble(dataclasses.replace(SMALL, first_max_steps=7, max_steps=3))
    before = made.member_rewards(*left)
    weight = torch.ones(R, N)
    weight[1] = 0.0
    metrics = fitted_to(made, left, right, label, weight)
    assert metrics["fit_steps"].tolist() == [7.0, 0.0] and metrics["loss"][1].isnan() and metrics["accuracy"][1].isnan()
    assert torch.equal(made.member_rewards(*left)[1], before[1]) and not torch.equal(made.member_rewards(*left)[0], before[0])
    assert fitted_to(made, left, right, label, torch.ones(R, N))["fit_steps"].tolist() == [
        3.0,
        7.0,
    ]  # the second fit of one, the first of the other


def test_other_labels_of_a_seed_change_no_bit_of_another():
    def fitted(change: str) -> tuple[Tensor, Tensor]:
        left, right, label = clips(4, 3)
        weight = torch.ones(3, N)
        if change == "easy":  # learned at once: this seed stops long before the others
            left[0][0], right[0][0], label[0] = 5.0, -5.0, 1.0
        elif change == "few":
            weight[0, 2:] = 0.0
        elif change == "broken":
            left[0][0, 3] = math.nan
        made = ensemble(dataclasses.replace(SMALL, target_accuracy=0.9, min_steps=2), (1, 2, 3))
        steps = fitted_to(made, left, right, label, weight)["fit_steps"]
        fitted_to(made, left, right, label, weight)
        return made.parameters.split(made.parameters.flat)["weight_1"], steps

    plain, plain_steps = fitted("")
    for change in ("easy", "few", "broken"):
        other, steps = fitted(change)
        assert torch.equal(plain[1:], other[1:]) and not torch.equal(plain[0], other[0]), change
        assert torch.equal(plain_steps[1:], steps[1:])
    assert fitted("easy")[1][0] < plain_steps[0]


@pytest.mark.parametrize(("error", "expected"), [(0.0, math.log(9.0)), (0.1, math.log(17.0))])
def test_the_rater_error_is_part_of_the_likelihood(error: float, expected: float):
    """Nine raters say left and one right, of the same pair: (1 - e) sigma(m) + e / 2 = 0.9."""
    left, right, label = clips(5, 1, 1)
    left, right = ((side[0].expand(-1, 10, -1, -1), side[1].expand(-1, 10, -1, -1)) for side in (left, right))
    label = torch.tensor([[1.0] * 9 + [0.0]])
    made = ensemble(dataclasses.replace(SMALL, rater_error=error, batch_size=10, epochs=250, bounded=False), (1,))
    fitted_to(made, left, right, label, torch.ones(1, 10))
    assert made.logits(left, right)[0, :, 0].tolist() == pytest.approx([expected] * 3, abs=0.02)


def test_a_tie_pulls_the_returns_together():
    left, right, _ = clips(6, 1)
    made = ensemble(dataclasses.replace(SMALL, epochs=40, bounded=False, min_steps=10_000), (1,))
    metrics = fitted_to(made, left, right, torch.full((1, N), 0.5), torch.ones(1, N))
    assert made.logits(left, right).abs().max() < 0.2 and metrics["accuracy"].isnan().all()
    assert metrics["loss"].item() == pytest.approx(math.log(2.0), abs=0.01)


def test_it_learns_what_the_rater_likes():
    left, right, label = clips(7, 1, 60)
    made = ensemble(dataclasses.replace(SMALL, batch_size=20, epochs=60, target_accuracy=0.97), (1,))
    metrics = fitted_to(made, left, right, label, torch.ones(1, 60))
    assert metrics["accuracy"].item() > 0.97
    new_left, new_right, new_label = clips(8, 1, 200)
    agreed = (made.logits(new_left, new_right).mean(1) > 0.0) == (new_label > 0.5)
    assert agreed.float().mean() > 0.85


@pytest.mark.parametrize(("min_steps", "expected"), [(1, 3), (2, 3), (11, 11)])
def test_it_stops_after_a_pass_that_is_accurate_enough_but_not_before_min_steps(min_steps: int, expected: int):
    left, right, label = clips(4, 1)
    left[0][:], right[0][:], label[:] = 3.0, -3.0, 1.0
    config = dataclasses.replace(SMALL, target_accuracy=0.97, min_steps=min_steps)
    made = ensemble(config, (3,))
    fitted_to(made, left, right, label, torch.ones(1, N))  # all but learned now
    assert made.logits(left, right).min() > 0.0
    metrics = fitted_to(made, left, right, label, torch.ones(1, N))
    assert metrics["fit_steps"].item() == expected and metrics["accuracy"].item() == 1.0


def test_the_target_accuracy_must_be_exceeded():
    left, right, label = clips(4, 1)
    left[0][:], right[0][:], label[:] = 3.0, -3.0, 1.0
    made = ensemble(dataclasses.replace(SMALL, target_accuracy=1.0, min_steps=1), (3,))
    for _ in range(2):
        assert fitted_to(made, left, right, label, torch.ones(1, N))["fit_steps"].item() == 8 * 3


@pytest.mark.parametrize("target", [1.0, 0.5])
def test_every_member_is_normalized_on_its_own_before_the_average(target: float):
    made = ensemble(dataclasses.replace(SMALL, target_std=target, bounded=False))
    weights = made.parameters.weights
    weights["weight_2"][:, 1] *= 100.0  # one member shouts, and its average with the others would be all but itself
    weights["bias_2"][:, 2] += 50.0
    g = Generator().manual_seed(0)
    observation, action = torch.randn(R, 500, D, generator=g), torch.randn(R, 500, A, generator=g)
    made.measure_outputs(observation, action, chunk=64)
    raw = made.member_rewards(observation, action)
    assert raw.std(-1).max() > 20.0 * raw.std(-1).min()
    each = (raw - raw.mean(-1, keepdim=True)) / raw.std(-1, keepdim=True) * target
    torch.testing.assert_close(made.reward(observation, action), each.mean(1), atol=1e-4, rtol=1e-4)
    average = raw.mean(1)
    normalized_average = (average - average.mean(-1, keepdim=True)) / average.std(-1, keepdim=True) * target
    assert (made.reward(observation, action) - normalized_average).abs().max() > 0.1
    assert made.reward(observation, action).mean(-1).abs().max() < 1e-4
    clip = made.reward(observation[:, :12].view(R, 3, 4, D), action[:, :12].view(R, 3, 4, A))
    torch.testing.assert_close(clip.view(R, 12), made.reward(observation[:, :12], action[:, :12]))


def test_without_a_target_deviation_the_raw_average_is_the_reward():
    made = ensemble()
    left, _, _ = clips(1)
    made.measure_outputs(left[0][:, 0], left[1][:, 0])
    torch.testing.assert_close(made.reward(*left), made.member_rewards(*left).mean(1))
    assert made.member_rewards(*left).abs().max() < 1.0


def test_inputs_are_standardized_for_the_chosen_seeds():
    config = dataclasses.replace(SMALL, standardize_inputs=True)
    made, plain = ensemble(config), ensemble()
    g = Generator().manual_seed(0)
    observation, action = 3.0 + 5.0 * torch.randn(R, 400, D, generator=g), torch.zeros(R, 400, A)
    before = made.reward(observation, action)
    made.measure_inputs(observation, action, torch.tensor([False, True]))
    by_hand = torch.cat([(observation - observation.mean(1, keepdim=True)) / observation.std(1, keepdim=True), action], -1)
    expected = plain.reward(by_hand[..., :D], by_hand[..., D:])
    torch.testing.assert_close(made.reward(observation, action)[1], expected[1], atol=1e-5, rtol=1e-4)
    assert torch.equal(made.reward(observation, action)[0], before[0])
    assert made.reward(observation, action).isfinite().all()  # a constant entry has no deviation to divide by
    ensemble().measure_inputs(observation, action)


def test_the_games_reward_is_not_looked_at():
    left, _, _ = clips(1)
    made = ensemble()
    assert torch.equal(made.reward(*left, torch.full((R, N, H), math.nan)), made.reward(*left))


def test_logits_are_differences_of_sums():
    left, right, _ = clips(1)
    made = ensemble()
    torch.testing.assert_close(made.logits(left, right), made.member_rewards(*left).sum(-1) - made.member_rewards(*right).sum(-1))
    torch.testing.assert_close(F.sigmoid(made.logits(left, right)) + F.sigmoid(made.logits(right, left)), torch.ones(R, 3, N))


def test_saved_and_loaded_it_goes_on_to_the_same_bits():
    left, right, label = clips(4)
    weight = torch.ones(R, N)
    weight[1, 4:] = 0.0
    config = dataclasses.replace(SMALL, standardize_inputs=True, target_std=1.0, first_max_steps=11, max_steps=6)
    first, second = ensemble(config), ensemble(config, (8, 9))
    first.measure_inputs(left[0][:, 0], left[1][:, 0])
    fitted_to(first, left, right, label, weight)
    first.measure_outputs(left[0][:, 0], left[1][:, 0])
    second.load(unpack(*pack(first.state())))
    assert torch.equal(first.reward(*left), second.reward(*left))
    metrics = [fitted_to(made, left, right, label, weight) for made in (first, second)]
    assert metrics[0]["fit_steps"].tolist() == [6.0, 6.0]
    assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    assert torch.equal(first.parameters.flat, second.parameters.flat)
