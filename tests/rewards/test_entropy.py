"""The state-entropy reward: whose neighbors count, and when."""

import pytest
import torch
from torch import Generator, Tensor

from tutelage.experience.trees import pack, unpack
from tutelage.rewards.entropy import StateEntropy

R, M, D, K = 2, 60, 3, 4


def states(seed: int = 0, count: int = M) -> Tensor:
    return torch.randn(R, count, D, generator=Generator().manual_seed(seed))


def slow(query: Tensor, others: Tensor) -> Tensor:
    """Distance to the K-th nearest of the others, `[R, N]`; the others must not hold the query."""
    return torch.cdist(query, others, compute_mode="donot_use_mm_for_euclid_dist").sort(-1).values[..., K - 1]


def nothing(observation: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(*observation.shape[:-1], 1), torch.full(observation.shape[:-1], torch.nan)


def test_each_held_state_is_measured_from_all_the_others():
    entropy, held = StateEntropy(K), states()
    expected = torch.cat([slow(held[:, [i]], torch.cat([held[:, :i], held[:, i + 1 :]], 1)) for i in range(M)], 1)
    torch.testing.assert_close(entropy.refresh(held), expected / expected.std(-1, keepdim=True))


@pytest.mark.parametrize("neighbors", [1, K])
def test_a_new_state_is_measured_from_all_the_held_ones(neighbors: int):
    entropy, held, new = StateEntropy(neighbors), states(), states(1, 1)
    entropy.refresh(held)
    nearest = torch.cdist(new, held).sort(-1).values[..., neighbors - 1]  # the k-th, not the (k + 1)-th: it is not among them
    torch.testing.assert_close(entropy.reward(new, *nothing(new)), nearest / entropy.std)


def test_states_that_come_together_are_neighbors_of_one_another():
    entropy, held, new = StateEntropy(K), states(), states(1, 3)
    entropy.refresh(held)
    expected = torch.cat([slow(new[:, [i]], torch.cat([held, new[:, :i], new[:, i + 1 :]], 1)) for i in range(3)], 1)
    torch.testing.assert_close(entropy.reward(new, *nothing(new)), expected / entropy.std)


def test_before_the_first_refresh_every_state_is_worth_nothing_and_afterwards_it_is_frozen():
    entropy, held, new = StateEntropy(K), states(), states(1, 5)
    assert (entropy.reward(new, *nothing(new)) == 0.0).all()
    entropy.refresh(held)
    before = entropy.reward(new, *nothing(new))
    held.fill_(0.0)  # the ring goes on; what is measured from does not
    assert torch.equal(entropy.reward(new, *nothing(new)), before)
    assert (before > 0.0).all()


def test_copies_of_one_state_are_worth_nothing_and_not_nan():
    entropy = StateEntropy(K)
    assert (entropy.refresh(torch.ones(R, M, D)) == 0.0).all()
    new = states(1, 2)
    assert entropy.reward(new, *nothing(new)).isfinite().all()


def test_a_lonely_state_is_worth_more():
    held = states()
    held[:, 7] = 20.0
    assert (StateEntropy(K).refresh(held).argmax(-1) == 7).all()


def test_seeds_do_not_mix():
    entropy, other, held, new = StateEntropy(K), StateEntropy(K), states(), states(1, 2)
    changed = held.clone()
    changed[0] *= 3.0
    assert torch.equal(entropy.refresh(held)[1], other.refresh(changed)[1])
    assert torch.equal(entropy.reward(new, *nothing(new))[1], other.reward(new, *nothing(new))[1])
    assert not torch.equal(entropy.reward(new, *nothing(new))[0], other.reward(new, *nothing(new))[0])


@pytest.mark.parametrize("refreshed", [True, False])
def test_state_and_load(refreshed: bool):
    entropy, other, new = StateEntropy(K), StateEntropy(K), states(1, 3)
    if refreshed:
        entropy.refresh(states())
    other.load(unpack(*pack(entropy.state())))
    assert torch.equal(entropy.reward(new, *nothing(new)), other.reward(new, *nothing(new)))
