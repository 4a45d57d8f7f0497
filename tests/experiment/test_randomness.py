"""Generators: one seed and one path give the same numbers everywhere, and any other gives others."""

import torch

from tutelage.experiment.randomness import generator, seed_of


def test_the_seed_of_a_path_is_fixed_for_all_time():
    # SHA-256 of "7/rollout/3", its first eight bytes, halved: an old run must be repeatable by a new version.
    assert seed_of(7, "rollout/3") == 0x9503A18670CF6BB3 >> 1
    assert all(0 <= seed_of(seed, "x") < 2**63 for seed in range(100))


def test_equal_paths_draw_equal_numbers_and_others_do_not():
    draws = {(seed, path): torch.rand(4, generator=generator(seed, path)) for seed in (0, 1, 11) for path in ("a", "b", "1/a")}
    assert all(torch.equal(draw, torch.rand(4, generator=generator(*key))) for key, draw in draws.items())
    values = list(draws.values())
    assert not any(torch.equal(x, y) for i, x in enumerate(values) for y in values[:i])


def test_a_seed_and_a_path_do_not_run_into_one_another():
    assert seed_of(1, "1/a") != seed_of(11, "/a") and seed_of(1, "2/a") != seed_of(12, "a")


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
