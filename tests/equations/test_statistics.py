"""Moments against numpy, intervals against a loop, an exact enumeration and their own coverage."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tutelage.equations.statistics import (
    RunningMoments,
    calibration,
    expected_calibration_error,
    interquartile_mean,
    mean_of,
    paired_probability_of_improvement,
    probability_of_improvement,
    standardized,
    stratified_bootstrap_interval,
    variance_of,
    whitened,
    wilson_interval,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def mean(scores: Tensor) -> Tensor:
    return scores.mean((-2, -1))


# --- moments ---------------------------------------------------------------------------------------------------------------


def assert_moments(moments: RunningMoments, samples: np.ndarray) -> None:
    """Of [N, ...] samples, to float64 rounding."""
    assert (moments.count == len(samples)).all()
    np.testing.assert_allclose(moments.mean.numpy(), samples.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.std.numpy(), samples.std(0), rtol=1e-12)


def test_moments_by_hand():
    moments = RunningMoments.zeros().update(torch.tensor([1.0, 3.0])).update(torch.tensor([8.0]))
    assert (moments.count.item(), moments.mean.item(), moments.m2.item()) == (3.0, 4.0, 26.0)
    assert moments.std.item() == pytest.approx(math.sqrt(26 / 3), abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_moments_agree_with_numpy_for_any_split(seed: int):
    samples = 3 * draw(500, 4, seed=seed) + 1000
    edges = sorted({0, 500, *torch.randint(500, (20,), generator=generator(seed)).tolist()})
    moments = RunningMoments.zeros(4)
    for start, end in itertools.pairwise(edges):
        moments = moments.update(samples[start:end])
    assert_moments(moments, samples.numpy())


def test_moments_of_single_precision_are_taken_in_double():
    samples = (draw(20_000) + 4096).float()
    moments = RunningMoments.zeros()
    for x in samples.split(7):
        moments = moments.update(x)
    assert_moments(moments, samples.numpy().astype(np.float64))


def test_moments_keep_members_apart():
    samples = draw(3, 60, 4) * torch.tensor([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    moments = RunningMoments.zeros(3, 4).update(samples[:, :25], dim=1).update(samples[:, 25:], dim=1)
    assert_moments(moments, samples.transpose(0, 1).numpy())
    both = RunningMoments.of(samples, dim=(1, 2))
    np.testing.assert_allclose(both.std.numpy(), samples.numpy().std((1, 2)), rtol=1e-12)


def test_masked_samples_change_nothing():
    samples, mask = draw(2, 50, 3), torch.rand(2, 50, 1, generator=generator()) < 0.7
    padded = torch.where(mask, samples, math.nan)
    moments = RunningMoments.zeros(2, 3).update(padded[:, :20], 1, mask[:, :20]).update(padded[:, 20:], 1, mask[:, 20:])
    for r in range(2):
        kept = samples[r][mask[r, :, 0]]
        assert_moments(RunningMoments(moments.count[r], moments.mean[r], moments.m2[r]), kept.numpy())


def test_an_empty_batch_changes_nothing():
    before = RunningMoments.of(draw(10, 3))
    for after in (before.update(draw(0, 3)), before.update(draw(5, 3), mask=torch.zeros(5, 1, dtype=torch.bool))):
        assert torch.equal(after.count, before.count)
        assert torch.equal(after.mean, before.mean)
        assert torch.equal(after.m2, before.m2)
    nothing = RunningMoments.zeros(3).update(draw(0, 3))
    assert (nothing.mean == 0.0).all()
    assert nothing.std.isnan().all()


def test_whole_numbers_have_moments():
    assert_moments(RunningMoments.of(torch.arange(10, dtype=torch.uint8)), np.arange(10.0))


def test_saved_moments_continue_to_the_same_bits():
    first, second = draw(30, 4).float(), draw(17, 4, seed=1).float()
    moments = RunningMoments.zeros(4).update(first)
    restored = RunningMoments(**load(save(vars(moments))))
    straight, resumed = moments.update(second), restored.update(second)
    for name, value in vars(straight).items():
        assert value.dtype == torch.float64
        assert torch.equal(value, getattr(resumed, name))


def test_moments_hold_no_graph():
    assert not RunningMoments.zeros().update(draw(5).requires_grad_()).mean.requires_grad


def test_moments_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"moments of shape \(3,\) cannot take samples of shape \(4,\)"):
        RunningMoments.zeros(3).update(draw(5, 4))


# --- interquartile mean ----------------------------------------------------------------------------------------------------


def test_iqm_by_hand():
    one = torch.tensor([[9.0, -100.0, 2.0, 3.0, 1.0, 1000.0, 4.0, 5.0]]).T  # 8 runs, 1 task: the middle four are 2, 3, 4, 5
    assert interquartile_mean(one).item() == 3.5
    five = torch.tensor([[0.0], [1.0], [2.0], [6.0], [100.0]])  # a quarter of five is one whole score
    assert interquartile_mean(five).item() == 3.0


@pytest.mark.parametrize(("runs", "tasks"), [(1, 1), (3, 1), (5, 2), (10, 7)])
def test_iqm_against_a_loop(runs: int, tasks: int):
    scores = draw(4, runs, tasks)
    for i in range(4):
        x = sorted(scores[i].flatten().tolist())
        cut = len(x) // 4
        kept = x[cut : len(x) - cut]
        assert float(interquartile_mean(scores)[i]) == pytest.approx(sum(kept) / len(kept), abs=1e-12)


def test_iqm_gradient_against_finite_differences():
    assert torch.autograd.gradcheck(interquartile_mean, draw(6, 2).requires_grad_())


# --- bootstrap -------------------------------------------------------------------------------------------------------------


def test_equal_scores_leave_no_doubt():
    scores = torch.tensor([[1.0, 5.0]]).expand(6, 2)  # tasks differ, runs do not: a resample within tasks changes nothing
    interval = stratified_bootstrap_interval(scores, mean, generator())
    assert (interval.low, interval.estimate, interval.high) == (3.0, 3.0, 3.0)


def test_bootstrap_against_every_possible_resample():
    scores = torch.tensor([[0.0], [1.0], [3.0], [7.0], [20.0]], dtype=torch.float64)
    every = sorted(sum(chosen) / 5 for chosen in itertools.product(scores[:, 0].tolist(), repeat=5))
    interval = stratified_bootstrap_interval(scores, mean, generator(), resamples=200_000, confidence=0.9)
    assert interval.estimate == pytest.approx(6.2)
    assert interval.low == pytest.approx(np.quantile(every, 0.05), abs=0.21)  # resampled means lie on a grid of 0.2
    assert interval.high == pytest.approx(np.quantile(every, 0.95), abs=0.21)


def test_bootstrap_against_a_loop_with_the_same_draws():
    scores = draw(6, 3)
    interval = stratified_bootstrap_interval(scores, interquartile_mean, generator(5), resamples=300, confidence=0.8)
    drawn = torch.randint(6, (300, 6, 3), generator=generator(5)).tolist()
    values: list[float] = []
    for rows in drawn:
        resample = torch.stack([torch.stack([scores[rows[i][j], j] for j in range(3)]) for i in range(6)])
        values.append(interquartile_mean(resample).item())
    assert (interval.low, interval.high) == pytest.approx((np.quantile(values, 0.1), np.quantile(values, 0.9)), abs=1e-12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        interval = stratified_bootstrap_interval(draw(30, 2, seed=trial), mean, generator(trial), resamples=300, confidence=0.9)
        covered += interval.low <= 0.0 <= interval.high
    assert 165 <= covered <= 192  # 180 expected, standard deviation 4; percentile intervals of 30 runs are slightly narrow


def test_the_same_generator_gives_the_same_interval():
    scores = draw(6, 3)
    first, second, other = (stratified_bootstrap_interval(scores, mean, generator(seed)) for seed in (1, 1, 2))
    assert first == second != other


# --- probability of improvement --------------------------------------------------------------------------------------------


def test_unpaired_improvement_by_hand():
    x = torch.tensor([[1.0], [2.0]])
    y = torch.tensor([[0.0], [2.0], [3.0]])
    # of six pairs: 1 > 0, 2 > 0 and a tie of 2 with 2
    assert probability_of_improvement(x, y, generator(), allow_few=True).estimate == pytest.approx(2.5 / 6, abs=1e-12)


def test_unpaired_improvement_against_a_loop():
    x, y = (2 * draw(6, 3)).round(), (2 * draw(7, 3, seed=1)).round()  # rounded, so that there are ties
    wins = [float(a > b) + 0.5 * float(a == b) for j in range(3) for a in x[:, j] for b in y[:, j]]
    interval = probability_of_improvement(x, y, generator(5), resamples=100)
    assert interval.estimate == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    back = probability_of_improvement(y, x, generator(5), resamples=100)
    assert back.estimate == pytest.approx(1 - interval.estimate, abs=1e-12)
    # the same draws, first those of x, then those of y
    same = generator(5)
    xs, ys = (scores[torch.randint(len(scores), (100, *scores.shape), generator=same), torch.arange(3)] for scores in (x, y))
    pairs = xs.unsqueeze(2) - ys.unsqueeze(1)
    rates = (0.5 * (1 + pairs.sign())).mean((1, 2, 3))
    assert (interval.low, interval.high) == pytest.approx((np.quantile(rates, 0.025), np.quantile(rates, 0.975)), abs=1e-12)


def test_paired_improvement_by_hand():
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0], [5.0, 5.0]])
    y = torch.tensor([[0.0, 5.0], [3.0, 4.0], [3.0, 6.0], [1.0, 4.0], [4.0, 4.0]])
    # task 1: win, loss, tie, win, win = 3.5;  task 2: tie, win, loss, win, win = 3.5
    assert paired_probability_of_improvement(x, y, generator()).estimate == pytest.approx(0.7, abs=1e-12)


def test_pairing_sees_what_a_common_seed_effect_hides():
    seeds = 100 * draw(8, 1)
    x, y = seeds + 1, seeds  # always better by one, beside differences of a hundred between seeds
    paired = paired_probability_of_improvement(x, y, generator())
    assert (paired.low, paired.estimate, paired.high) == (1.0, 1.0, 1.0)
    unpaired = probability_of_improvement(x, y, generator())
    assert unpaired.low < 0.5 < unpaired.estimate < 0.6


@pytest.mark.parametrize("improvement", [probability_of_improvement, paired_probability_of_improvement])
def test_a_method_against_itself_is_a_coin(improvement):
    x = draw(6, 2)
    assert improvement(x, x, generator()).estimate == 0.5


# --- what is refused -------------------------------------------------------------------------------------------------------

INTERVALS = {
    "bootstrap": lambda scores, **options: stratified_bootstrap_interval(scores, mean, generator(), **options),
    "unpaired": lambda scores, **options: probability_of_improvement(draw(6, 2), scores, generator(), **options),
    "paired": lambda scores, **options: paired_probability_of_improvement(scores, scores, generator(), **options),
}


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
def test_fewer_than_five_runs_have_no_interval(interval):
    with pytest.raises(ValueError, match="an interval from 4 runs would mislead; five are needed"):
        interval(draw(4, 2))
    assert interval(draw(4, 2), allow_few=True).low <= interval(draw(4, 2), allow_few=True).high
    assert interval(draw(5, 2)).low <= interval(draw(5, 2)).high


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_without_a_score_is_refused(interval, bad: float):
    scores = draw(6, 2)
    scores[3, 1] = bad
    with pytest.raises(ValueError, match=r"scores of shape \(6, 2\) are empty or not finite"):
        interval(scores)


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=INTERVALS)
@pytest.mark.parametrize("options", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 1.0}])
def test_an_impossible_bootstrap_is_refused(interval, options):
    with pytest.raises(ValueError, match="a bootstrap needs at least 1 and a number in"):
        interval(draw(6, 2), **options)


# --- calibration -----------------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    foretold = torch.tensor([[0.12, 0.0], [0.18, 1.0], [0.95, 1.0], [1.0, 0.5]], dtype=torch.float64)
    found = calibration(foretold)
    assert found["count"] == [2.0, 2.0]
    assert found["probability"] == pytest.approx([0.15, 0.975]) and found["frequency"] == pytest.approx([0.5, 0.75])


def test_a_forecaster_who_tells_the_truth_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(200_000, generator=generator, dtype=torch.float64)
    outcome = (torch.rand(200_000, generator=generator, dtype=torch.float64) < probability).double()
    found = calibration(torch.stack([probability, outcome], -1), bins=20)
    assert sum(found["count"]) == 200_000 and len(found["count"]) == 20
    assert found["frequency"] == pytest.approx(found["probability"], abs=0.02)


# --- each member's own mean and spread ---------------------------------------------------------------------------------------


def test_means_and_variances_of_members_by_hand():
    x = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    assert mean_of(x).tolist() == [3.0, 4.0] and variance_of(x).tolist() == [7.0, 0.0]
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert mean_of(x, mask).tolist() == [1.5, 0.0] and variance_of(x, mask).tolist() == [0.5, 0.0]
    torch.testing.assert_close(standardized(x)[0], torch.tensor([-2.0, -1.0, 3.0]) / 7.0**0.5)
    assert standardized(x)[1].tolist() == [0.0] * 3


@pytest.mark.parametrize("shape", [(3, 12), (3, 4, 5)])
def test_members_are_standardized_each_by_its_own_as_numpy_does(shape: tuple[int, ...]):
    x, mask = 5.0 + 3.0 * draw(*shape), (torch.rand(shape, generator=generator(1)) < 0.6).double()
    for ours, real in ((standardized(x), torch.ones_like(x)), (standardized(x, mask), mask)):
        for r in range(3):
            kept = x[r][real[r] > 0.0].numpy()
            expected = (x[r].numpy() - kept.mean()) / (kept.std(ddof=1) + 1e-8)
            np.testing.assert_allclose(ours[r].numpy(), expected, rtol=1e-12, atol=1e-12)
            other = x.clone()
            other[(r + 1) % 3] *= -7.0
            assert torch.equal(standardized(other, real)[r], standardized(x, real)[r])
    torch.testing.assert_close(standardized(x, torch.ones_like(x)), standardized(x), rtol=1e-12, atol=1e-12)


def test_a_single_sample_is_left_alone():
    x = torch.tensor([[3.0], [-1.0]])
    assert torch.equal(standardized(x), x)


def test_whitening_by_the_population():
    x = torch.linspace(1.2, 2.0, 9, dtype=torch.float64).view(3, 3)
    expected = [0.0508, 0.4381, 0.8254, 1.2127, 1.6000, 1.9873, 2.3746, 2.7619, 3.1492]
    assert whitened(x, shift_mean=False).flatten().tolist() == pytest.approx(expected, abs=5e-5)
    advantage = torch.tensor([0.7596, 0.7470, 0.6600, 0.6000], dtype=torch.float64)
    assert whitened(advantage).tolist() == pytest.approx([1.0402, 0.8466, -0.4844, -1.4024], abs=2e-3)  # rounded advantages


def test_what_is_masked_moves_no_whitened_number():
    x, mask = torch.tensor([[1.0, 2.0, torch.nan], [4.0, torch.inf, 0.0]]), torch.tensor([[True, True, False], [True, False, False]])
    for shift in (True, False):
        reached = whitened(x, mask, shift)
        assert reached[~mask].tolist() == [0.0] * 3
        torch.testing.assert_close(reached[mask], whitened(x[mask], shift_mean=shift))


def test_wilson_of_two_published_win_rates_overlap():
    dpo, ppo = wilson_interval(158, 256), wilson_interval(146, 256)
    assert (dpo.low, dpo.high) == pytest.approx((0.556, 0.675), abs=5e-4)
    assert (ppo.low, ppo.high) == pytest.approx((0.509, 0.629), abs=5e-4)
    assert ppo.high > dpo.low
    assert (wilson_interval(0, 10).low, wilson_interval(10, 10).high) == pytest.approx((0.0, 1.0), abs=1e-12)
    # The bounds are where the score test just rejects: (p - b)^2 = z^2 b (1 - b) / n.
    z = 1.959963984540054
    for bound in (dpo.low, dpo.high):
        assert (158 / 256 - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / 256)
    for wins, trials in ((-1.0, 5), (6.0, 5), (0.0, 0)):
        with pytest.raises(ValueError, match="an interval needs wins"):
            wilson_interval(wins, trials)


def test_calibration_error_by_hand():
    foretold = torch.tensor([[0.05, 0.0], [0.05, 1.0], [0.95, 1.0], [0.85, 1.0]])
    # bin 0: |0.5 - 0.05| of two; bin 9: 0.05 of one; bin 8: 0.15 of one
    assert expected_calibration_error(foretold) == pytest.approx(0.25 * (2 * 0.45 + 0.05 + 0.15), abs=1e-6)
