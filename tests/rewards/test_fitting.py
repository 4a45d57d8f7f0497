"""Fitting: who learns from which label, what the held-out ones decide, and what a row of the loss is."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tutelage.rewards.comparisons import Comparisons, Rows
from tutelage.rewards.fitting import PENALTIES, _orders, _shares, adapted_penalty, bootstrap_counts, fit, losses
from tutelage.rewards.learned import CHRISTIANO, CHRISTIANO_ATARI, Config, RewardEnsemble

R, N, H, D, A = 2, 40, 4, 3, 2
SMALL = dataclasses.replace(CHRISTIANO, hidden=(16, 16), batch_size=8, epochs=6, standardize_inputs=False, target_std=None)


def comparisons(seed: int, members: int = R, pairs: int = N, margin: int = 0) -> Comparisons:
    """A rater who likes a large first entry of the observation, as it is shown."""
    g = Generator().manual_seed(seed)
    observation = torch.randn(members, pairs, 2, H + 2 * margin, D, generator=g)
    action = torch.randn(members, pairs, 2, H + 2 * margin, A, generator=g)
    returns = observation[:, :, :, margin : margin + H, 0].sum(-1)
    key = torch.randint(2**62, (members, pairs), generator=g)
    weight = torch.ones(members, pairs)
    return Comparisons(observation, action, (returns[..., 0] > returns[..., 1]).float(), weight, key, returns, weight > 0, margin)


def ensemble(config: Config = SMALL, seeds: tuple[int, ...] = (1, 2)) -> RewardEnsemble:
    return RewardEnsemble(config, D, A, [Generator().manual_seed(seed) for seed in seeds])


def test_a_bootstrap_leaves_out_one_label_in_e_and_draws_each_once_on_average():
    counts = bootstrap_counts(torch.arange(4000) * 7919, 3)
    assert counts.shape == (3, 4000)
    for own in counts:
        assert float(own.float().mean()) == pytest.approx(1.0, abs=0.06) and float(own.float().var()) == pytest.approx(1.0, abs=0.12)
        assert float((own == 0).float().mean()) == pytest.approx(1.0 / math.e, abs=0.03)
    both = ((counts[0] == 0) & (counts[1] == 0)).float().mean()
    assert float(both) == pytest.approx(math.exp(-2.0), abs=0.03)  # members draw on their own


def test_a_label_stays_where_it_is_while_others_come():
    key = torch.randint(2**62, (50,), generator=Generator().manual_seed(0))
    more = torch.cat([torch.randint(2**62, (9,), generator=Generator().manual_seed(1)), key])
    assert torch.equal(bootstrap_counts(key, 3), bootstrap_counts(more, 3)[:, 9:])


def test_every_member_sees_its_sample_each_pass_and_no_step_is_empty():
    given = comparisons(0)
    [shares, _] = _shares(SMALL, given)
    counts = bootstrap_counts(given.key[0], 3)
    assert [sorted(own.tolist()) for own in shares] == [sorted(torch.arange(N).repeat_interleave(c).tolist()) for c in counts]
    uneven = [shares[0][:5], shares[1], shares[2]]
    per_pass = -(-max(map(len, uneven)) // 8)
    orders = _orders(SMALL, uneven, 2 * per_pass, Generator().manual_seed(0))
    for member, own in enumerate(uneven):
        for number in range(2):
            seen = orders[number * per_pass : (number + 1) * per_pass, member].flatten()
            assert sorted(seen[seen >= 0].tolist()) == sorted(own.tolist())
    assert (orders[:, 1:] >= 0).any(-1).all() and (orders[:, 0] >= 0).any(-1).float().mean() >= 0.8


def slow_loss(made: RewardEnsemble, seed: int, member: int, given: Comparisons, n: int) -> float:
    sums = []
    for side in (0, 1):
        seen, done = (part[seed : seed + 1, n] for part in given.side(side))
        sums.append(float(made.member_rewards(seen, done)[0, member].sum()))
    if made.config.regress_returns:
        return 0.5 * sum((sums[side] - float(given.true_return[seed, n, side])) ** 2 for side in (0, 1))
    p = 0.9 / (1.0 + math.exp(sums[1] - sums[0])) + 0.05
    y = float(given.label[seed, n])
    return -y * math.log(p) - (1.0 - y) * math.log(1.0 - p)


@pytest.mark.parametrize("change", [{}, {"regress_returns": True}])
def test_losses_are_means_over_what_a_member_learns_from_and_over_what_it_does_not(change: dict):
    made, given = ensemble(dataclasses.replace(SMALL, **change), (1,)), comparisons(1, 1, 12, margin=2)
    given.weight[0, 10:] = 0.0  # pads
    given.observation[0, 10:], given.label[0, 10:] = math.nan, math.nan
    shares = _shares(made.config, given)
    train, held_out = losses(made, given, shares)
    counts = bootstrap_counts(given.key[0, :10], 3)
    for member in range(3):
        each = [slow_loss(made, 0, member, given, n) for n in range(10)]
        inside = sum(float(c) * x for c, x in zip(counts[member], each, strict=True)) / float(counts[member].sum())
        outside = [x for c, x in zip(counts[member], each, strict=True) if c == 0]
        assert train[0, member].item() == pytest.approx(inside, rel=1e-4)
        assert held_out[0, member].item() == pytest.approx(sum(outside) / len(outside), rel=1e-4)


def test_the_penalty_rises_above_the_band_falls_below_it_and_stays_inside():
    one, train = torch.full((6,), 1e-3), torch.full((6,), 2.0)
    held_out = torch.tensor([3.1, 3.0, 2.6, 2.2, 2.1, math.nan])
    adapted = adapted_penalty(one, train, held_out, (1.1, 1.5), 2.0)
    assert adapted.tolist() == pytest.approx([2e-3, 1e-3, 1e-3, 1e-3, 0.5e-3, 1e-3])
    assert adapted_penalty(torch.tensor(PENALTIES), torch.ones(2), torch.tensor([0.5, 9.0]), (1.1, 1.5), 2.0).tolist() == pytest.approx(
        PENALTIES
    )


def test_the_penalty_adds_twice_itself_times_the_weights_to_each_members_gradient():
    made, plain = ensemble(), ensemble(dataclasses.replace(SMALL, penalty=0.0))
    made.penalty = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    g = Generator().manual_seed(0)
    rows = Rows(
        torch.randn(R, 3, 5, 2, H, D + A, generator=g),
        torch.rand(R, 3, 5, generator=g),
        torch.rand(R, 3, 5, generator=g),
        torch.zeros(R, 3, 5, 2),
    )
    difference = made.parameters.split(made.gradient(rows)[0] - plain.gradient(rows)[0])
    for name, weight in made.parameters.weights.items():
        shape = (R, 3) + (1,) * (weight.dim() - 2)
        torch.testing.assert_close(difference[name], 2.0 * made.penalty.view(shape) * weight, atol=1e-5, rtol=1e-4)


def test_overfitting_raises_the_penalty_and_a_large_one_comes_down():
    noise = comparisons(3, 1, 30)
    noise.label.copy_((torch.rand(1, 30, generator=Generator().manual_seed(0)) < 0.5).float())
    made = ensemble(dataclasses.replace(SMALL, epochs=60, learning_rate=1e-2, penalty_pace=1.3), (1,))
    metrics = fit(made, noise)
    assert (made.penalty > 1e-3).all() and metrics["held_out"].item() > 0.6  # coins cannot be foretold
    assert metrics["penalty"].item() == pytest.approx(made.penalty.mean().item())
    easy = ensemble(dataclasses.replace(SMALL, epochs=20, penalty=0.5), (1,))
    fit(easy, comparisons(4, 1, 60))
    assert (easy.penalty < 0.5).all()


def test_a_fit_to_returns_finds_their_scale_and_a_fit_to_comparisons_does_not():
    config = dataclasses.replace(SMALL, penalty=0.0, penalty_band=(), epochs=200, learning_rate=5e-3)
    given = comparisons(5, 1)
    fresh = comparisons(6, 1)
    errors = []
    for change in (True, False):
        made = ensemble(dataclasses.replace(config, regress_returns=change), (1,))
        fit(made, given)
        predicted = made.reward(*fresh.side(0)).sum(-1)
        errors.append(float((predicted - fresh.true_return[..., 0]).square().mean() / fresh.true_return[..., 0].var()))
    assert errors[0] < 0.3 < errors[1]


def test_what_was_not_shown_is_not_fitted_to():
    given = comparisons(7, 1, margin=3)

    def fitted(fill: float) -> Tensor:
        changed = dataclasses.replace(given, observation=given.observation.clone())
        changed.observation[:, :, :, :3], changed.observation[:, :, :, -3:] = fill, fill
        made = ensemble(seeds=(1,))
        fit(made, changed)
        return made.parameters.flat

    assert torch.equal(fitted(0.0), fitted(1e3))


def test_rows_that_are_masked_equal_rows_that_are_cut():
    made, g = ensemble(), Generator().manual_seed(0)
    x = torch.randn(R, 3, 5, 2, H + 2, D + A, generator=g)
    label, weight, nothing = torch.rand(R, 3, 5, generator=g), torch.rand(R, 3, 5, generator=g), torch.zeros(R, 3, 5, 2)
    mask = torch.zeros(R, 3, 5, 2, H + 2, dtype=torch.bool)
    mask[..., 1 : H + 1] = True
    whole, cut = made.gradient(Rows(x, label, weight, nothing, mask)), made.gradient(Rows(x[..., 1 : H + 1, :], label, weight, nothing))
    for one, two in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_disagreement_is_the_deviation_of_the_members():
    made, given = ensemble(), comparisons(8)
    seen, done = given.side(0)
    members = made.member_rewards(seen, done)
    torch.testing.assert_close(made.disagreement(seen, done), (members - members.mean(1, keepdim=True)).square().mean(1).sqrt())


def test_a_reward_of_states_alone_does_not_read_the_action():
    made = RewardEnsemble(SMALL, D, 0, [Generator().manual_seed(0)])
    seen, done = comparisons(9, 1).side(0)
    assert torch.equal(made.reward(seen, done), made.reward(seen, done + 100.0))


def test_a_seed_in_a_stack_is_fitted_as_it_would_be_alone():
    given = comparisons(10)
    stacked = ensemble()
    fit(stacked, given)
    for seed in range(R):
        alone = ensemble(seeds=(seed + 1,))
        own = {name: value[seed : seed + 1] for name, value in vars(given).items() if isinstance(value, Tensor)}
        fit(alone, dataclasses.replace(given, **own))
        torch.testing.assert_close(
            stacked.reward(*given.side(0))[seed], alone.reward(*(x[seed : seed + 1] for x in given.side(0)))[0], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(stacked.penalty[seed], alone.penalty[0])


def pictures(seed: int, pairs: int) -> Comparisons:
    """A rater who likes bright ones."""
    g = Generator().manual_seed(seed)
    level = torch.rand(1, pairs, 2, 3, 1, 1, 1, generator=g)
    observation = (255 * level * torch.rand(1, pairs, 2, 3, 2, 44, 44, generator=g)).to(torch.uint8)
    returns = level.flatten(3).sum(-1)
    label, weight = (returns[..., 0] > returns[..., 1]).float(), torch.ones(1, pairs)
    return Comparisons(observation, torch.zeros(1, pairs, 2, 3, 1), label, weight, torch.arange(pairs)[None], returns, weight > 0)


def test_the_reward_of_an_image_is_that_of_the_papers_convolution():
    config = dataclasses.replace(CHRISTIANO_ATARI, hidden=(8,))
    made = RewardEnsemble(config, (2, 44, 44), 0, [Generator().manual_seed(0)])
    given = pictures(0, 4)
    images = given.observation[0, :, 0, 0]
    weights = made.parameters.weights
    for member in range(3):
        h = images.float() / 255.0
        for i, stride in enumerate((3, 2, 1, 1)):
            h = F.leaky_relu(F.conv2d(h, weights[f"kernel_{i}"][0, member], weights[f"kernel_bias_{i}"][0, member], stride), 0.01)
        h = F.leaky_relu(h.flatten(1) @ weights["weight_0"][0, member] + weights["bias_0"][0, member], 0.01)
        expected = (h @ weights["weight_1"][0, member] + weights["bias_1"][0, member]).squeeze(-1)
        ours = made.member_rewards(given.observation[:, :, 0, 0], torch.zeros(1, 4, 1))[0, member]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(made.reward(*given.side(0)), made.reward(given.side(0)[0], given.side(0)[1] + 9.0))


def test_what_a_rater_likes_of_images_is_learned_and_dropout_is_for_learning_only():
    config = dataclasses.replace(CHRISTIANO_ATARI, hidden=(8,), members=2, epochs=12, learning_rate=2e-3, batch_size=8)
    made = RewardEnsemble(config, (2, 44, 44), 0, [Generator().manual_seed(0)])
    given, fresh = pictures(1, 40), pictures(2, 40)
    before = made.generators[0].get_state()
    assert torch.equal(made.reward(*fresh.side(0)), made.reward(*fresh.side(0)))
    assert torch.equal(before, made.generators[0].get_state())
    fit(made, given)
    agreed = (made.logits(fresh.side(0), fresh.side(1)).mean(1) > 0) == (fresh.label > 0.5)
    assert agreed.float().mean() > 0.8
    label, weight = torch.rand(2, 1, 2, 3)
    rows = Rows(given.observation[:, None, :3].expand(-1, 2, -1, -1, -1, -1, -1, -1), label, weight, torch.zeros(1, 2, 3, 2))
    assert not torch.equal(made.gradient(rows)[0], made.gradient(rows)[0])
