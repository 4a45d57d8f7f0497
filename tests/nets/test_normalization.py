"""Normalizers against numpy over everything seen, against a loop, and after a save."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.nets.normalization import ObservationNormalizer, RewardScaler


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def window(T: int = 20, R: int = 2, B: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draws(T, R, B, seed=seed) + 0.5, torch.rand(T, R, B, generator=Generator().manual_seed(seed + 100)) < 0.15


# --- observations ----------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_all_observations_seen():
    normalizer = ObservationNormalizer(2, (4,))
    batches = [5.0 + 3.0 * draws(2, n, 4, seed=n) for n in (7, 1, 30)]
    for batch in batches:
        normalizer.update(batch)
    everything = torch.cat(batches, 1).double().numpy()
    x = draws(2, 6, 5, 4, seed=50)
    mean, std = everything.mean(1), np.sqrt(everything.var(1) + 1e-8)
    expected = (x.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(normalizer(x).numpy(), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(normalizer(x[:, 0]).numpy(), expected[:, 0], atol=1e-5, rtol=1e-5)  # any number of axes between


def test_what_was_seen_has_mean_0_and_deviation_1():
    normalizer = ObservationNormalizer(1, (3,))
    x = 100.0 + 0.1 * draws(1, 500, 3)
    normalizer.update(x)
    seen = normalizer(x)[0]
    assert seen.mean(0).abs().max() < 1e-3 and (seen.std(0, unbiased=False) - 1.0).abs().max() < 1e-3


def test_nothing_changes_but_by_update_and_the_input_stays():
    normalizer = ObservationNormalizer(1, (3,))
    x = 20.0 * draws(1, 5, 3)
    before = x.clone()
    assert torch.equal(normalizer(x), x.clamp(-10.0, 10.0))  # nothing seen yet
    assert torch.equal(normalizer(x), normalizer(x)) and torch.equal(x, before)
    normalizer.update(x)
    assert not torch.equal(normalizer(x), x.clamp(-10.0, 10.0)) and torch.equal(x, before)


def test_it_clips():
    normalizer = ObservationNormalizer(1, (1,), clip=2.0)
    normalizer.update(draws(1, 1000, 1))
    assert normalizer(torch.tensor([[[1e6], [-1e6], [float("inf")]]])).flatten().tolist() == [2.0, -2.0, 2.0]


def test_a_constant_entry_becomes_zero_and_not_nan():
    normalizer = ObservationNormalizer(1, (2,))
    x = torch.cat([draws(1, 50, 1), torch.full((1, 50, 1), 7.0)], -1)
    normalizer.update(x)
    assert not normalizer(x)[..., 1].any() and normalizer(x)[..., 0].any()


def test_what_is_not_real_is_not_seen():
    with_padding, without = ObservationNormalizer(2, (4,)), ObservationNormalizer(2, (4,))
    x, mask = draws(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    without.update(x[:, :6])
    mask[:, 6:] = False
    x[:, 6:] = float("nan")
    with_padding.update(x, mask)
    assert torch.equal(with_padding(draws(2, 5, 4, seed=3)), without(draws(2, 5, 4, seed=3)))


def test_images_of_floats_keep_their_shape():
    normalizer = ObservationNormalizer(2, (1, 3, 3))
    x = draws(2, 40, 1, 3, 3)
    normalizer.update(x)
    assert normalizer(x.view(2, 8, 5, 1, 3, 3)).shape == (2, 8, 5, 1, 3, 3)


def test_seeds_never_mix_and_a_save_brings_the_same_bits():
    stacked = ObservationNormalizer(3, (4,))
    batches = [draws(3, 8, 4, seed=seed) for seed in (1, 2, 3)]
    for batch in batches[:2]:
        stacked.update(batch)
    alone = ObservationNormalizer(1, (4,))
    for batch in batches[:2]:
        alone.update(batch[1:2])
    torch.testing.assert_close(stacked(batches[2])[1:2], alone(batches[2][1:2]))
    loaded = ObservationNormalizer(3, (4,))
    saved = {name: tensor.clone() for name, tensor in stacked.state().items()}
    loaded.load(saved)
    assert torch.equal(loaded(batches[2]), stacked(batches[2]))
    for normalizer in (stacked, loaded):
        normalizer.update(batches[2])
    assert torch.equal(loaded(batches[0]), stacked(batches[0]))


# --- rewards ---------------------------------------------------------------------------------------------------------------


def loop(windows: list[tuple[Tensor, Tensor]], discount: float) -> np.ndarray:
    """Every running return that one seed saw, as Gymnasium's wrapper goes: [seed, number]."""
    R, B = windows[0][0].shape[1:]
    seen: list[list[float]] = [[] for _ in range(R)]
    for r in range(R):
        for b in range(B):
            running = 0.0
            for reward, boundary in windows:
                for t in range(len(reward)):
                    running = discount * running + float(reward[t, r, b])
                    seen[r].append(running)
                    running = 0.0 if boundary[t, r, b] else running
    return np.array(seen)


def test_the_scale_is_that_of_the_running_return_across_windows():
    scaler = RewardScaler(2, 3, 0.9)
    windows = [window(seed=1), window(7, seed=2), window(1, seed=3)]
    for reward, boundary in windows:
        scaler.update(reward, boundary)
    std = np.sqrt(loop(windows, 0.9).var(1) + 1e-8)
    reward = windows[0][0]
    np.testing.assert_allclose(scaler(reward).numpy(), reward.numpy() / std[None, :, None], rtol=1e-5)


def test_the_mean_stays_and_the_sign_with_it():
    scaler = RewardScaler(1, 2, 0.9)
    reward = torch.rand(50, 1, 2, generator=Generator().manual_seed(1)) + 1.0
    scaler.update(reward, torch.zeros(50, 1, 2, dtype=torch.bool))
    scaled = scaler(reward)
    assert (scaled > 0.0).all()
    torch.testing.assert_close(scaled / reward, (scaled / reward)[0, 0, 0].expand(50, 1, 2))


def test_rewards_clip_and_before_the_first_update_nothing_else():
    scaler = RewardScaler(1, 2, 0.9, clip=1.5)
    reward = torch.tensor([[[0.5, -7.0]]])
    assert scaler(reward).tolist() == [[[0.5, -1.5]]] and reward.tolist() == [[[0.5, -7.0]]]


def test_steps_that_are_not_real_are_not_counted():
    reward, boundary = window()
    mask = torch.rand(reward.shape, generator=Generator().manual_seed(7)) < 0.8
    scaler = RewardScaler(2, 3, 0.9)
    scaler.update(reward, boundary, mask)
    assert torch.equal(scaler.moments.count, mask.sum((0, 2)).double())


def test_reward_seeds_never_mix_and_a_save_brings_the_same_bits():
    first, second = window(R=3, seed=1), window(R=3, seed=2)
    stacked, alone, loaded = RewardScaler(3, 3, 0.9), RewardScaler(1, 3, 0.9), RewardScaler(3, 3, 0.9)
    stacked.update(*first)
    loaded.load({name: tensor.clone() for name, tensor in stacked.state().items()})
    for scaler in (stacked, loaded):
        scaler.update(*second)
    assert torch.equal(stacked(second[0]), loaded(second[0])) and torch.equal(stacked.running, loaded.running)
    for reward, boundary in (first, second):
        alone.update(reward[:, 1:2], boundary[:, 1:2])
    torch.testing.assert_close(alone(second[0][:, 1:2]), stacked(second[0])[:, 1:2])
    assert stacked.running.any() and not stacked.running[second[1][-1]].any()


def test_a_state_is_not_the_live_tensor():
    scaler = RewardScaler(2, 3, 0.9)
    scaler.update(*window())
    kept = scaler.state()
    other = RewardScaler(2, 3, 0.9)
    other.load(kept)
    scaler.update(*window(seed=5))
    assert other.moments.count.tolist() == [60.0, 60.0] and scaler.moments.count.tolist() == [120.0, 120.0]


@pytest.mark.parametrize("T", [1, 2, 33])
def test_a_window_of_any_length(T: int):
    scaler = RewardScaler(2, 3, 0.9)
    reward, boundary = window(T)
    scaler.update(reward, boundary)
    assert float(scaler.moments.mean[0]) == pytest.approx(loop([(reward, boundary)], 0.9)[0].mean(), abs=1e-6)
