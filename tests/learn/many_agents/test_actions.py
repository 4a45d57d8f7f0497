"""Encoded actions by hand, draws against their law, and gradients against autograd through hand-written estimators."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from tutelage.equations.gumbel import gumbel_rao
from tutelage.games.spec import Box, DictSpace, Discrete, GameError, MultiBinary, MultiDiscrete
from tutelage.learn.many_agents.actions import ESTIMATORS, Choices, Reals, actions_of, joined

LOPSIDED = Box((2,), np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
TWO = Choices((2, 3))
JOINT = Choices((2, 3), joint=True)


def reals() -> Reals:
    made = actions_of(LOPSIDED, "agent")
    assert isinstance(made, Reals)
    return made


def exponentials(*shape: int, seed: int = 0) -> Tensor:
    return torch.empty(shape).exponential_(generator=Generator().manual_seed(seed))


def test_reals_lie_between_minus_one_and_one():
    action, encoded = torch.tensor([[-2.0, 0.0], [0.0, 0.5], [2.0, 1.0], [1.0, 0.25]]), [[-1, -1], [0, 0], [1, 1], [0.5, -0.5]]
    assert reals().encode(action).tolist() == encoded
    torch.testing.assert_close(reals().decode(reals().encode(action)), action)
    assert reals().width == reals().entries == reals().outputs == 2


def test_reals_are_disturbed_by_hand():
    output, noise = torch.tensor([0.0, 0.0, 9.0, 0.0]), torch.tensor([1.0, -9.0, 1.0, 0.0])
    line = Reals(-torch.ones(4), torch.ones(4))
    assert line.perturbed(output, noise, 0.2, 0.5).tolist() == pytest.approx([0.2, -0.5, 1.0, 0.0], abs=1e-6)
    assert line.perturbed(output, noise, 0.2, torch.inf).tolist() == pytest.approx([0.2, -1.0, 1.0, 0.0], abs=1e-6)
    for same in (line.greedy(output), line.climbing(output, noise, ESTIMATORS["straight-through"][0], 1.0)):
        torch.testing.assert_close(same, output.tanh())
    assert line.masked(output, None) is output


def test_random_reals_are_uniform_on_the_box():
    made = reals()
    noise = made.noise([Generator().manual_seed(i) for i in range(2)], (3, 20_000))
    assert noise.shape == (2, 3, 20_000, 2)
    played = made.decode(made.uniform(noise, None)).flatten(0, 2)
    assert played.amin(0).tolist() == pytest.approx([-2.0, 0.0], abs=1e-3) and played.amax(0).tolist() == pytest.approx(
        [2.0, 1.0], abs=1e-3
    )
    quarter = torch.quantile(played[:100_000], torch.tensor([0.25, 0.5, 0.75]), dim=0)
    torch.testing.assert_close(quarter, torch.tensor([[-1.0, 0.25], [0.0, 0.5], [1.0, 0.75]]), atol=0.02, rtol=0.0)


def test_choices_are_one_hot_vectors():
    assert Choices((3,)).encode(torch.tensor([[2.0], [0.0]])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert TWO.encode(torch.tensor([[1.0, 2.0]])).tolist() == [[0, 1, 0, 0, 1]]
    assert Choices((2, 2)).encode(torch.tensor([[1.0, 0.0]])).tolist() == [[0, 1, 1, 0]]
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3)).float()
    assert torch.equal(TWO.decode(TWO.encode(every)), every)
    assert (TWO.width, TWO.entries, TWO.outputs, JOINT.width, JOINT.outputs) == (5, 2, 5, 5, 6)


@pytest.mark.parametrize("made", [TWO, JOINT])
def test_draws_have_the_law_of_the_softmax(made: Choices):
    count, logits = 200_000, torch.tensor([0.3, -1.0, 0.8, 0.1, -0.4, 1.1])[: made.outputs]
    drawn = made.perturbed(logits.expand(count, -1), exponentials(count, 1, made.outputs), 0.7, 0.1)
    index = made.decode(drawn)
    assert torch.equal(made.encode(index), drawn)
    frequency = torch.bincount((index[:, 0] * 3 + index[:, 1]).long(), minlength=6) / count
    if made.joint:
        law = logits.softmax(0)
    else:
        law = (logits[:2].softmax(0)[:, None] * logits[2:].softmax(0)).flatten()
    torch.testing.assert_close(frequency, law, atol=0.005, rtol=0.0)


def test_the_likeliest_is_played_without_noise():
    assert TWO.greedy(torch.tensor([0.1, 0.2, 3.0, 1.0, 2.0])).tolist() == [0, 1, 1, 0, 0]
    assert JOINT.greedy(torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 0.0])).tolist() == [0, 1, 0, 1, 0]  # combination 4 is (1, 1)


LEGAL = torch.tensor([[True, False, True, False, True], [True, True, False, False, True]])


@pytest.mark.parametrize("made", [TWO, JOINT])
def test_what_is_illegal_is_never_drawn_and_has_no_gradient(made: Choices):
    """A combination is legal when each of its choices is; the others keep their relative chances."""
    logits = torch.tensor([2.0, 9.0, -1.0, 4.0, 0.5, 7.0])[: made.outputs].repeat(2, 1).requires_grad_()
    masked = made.masked(logits, LEGAL)
    noise = exponentials(2, 3_000, 1, made.outputs)
    for drawn in (
        made.perturbed(masked[:, None].expand(-1, 3_000, -1).detach(), noise, 0.0, 0.0),
        made.uniform(noise, LEGAL[:, None].expand(-1, 3_000, -1)),
        made.greedy(masked)[:, None],
    ):
        assert not (drawn.bool() & ~LEGAL[:, None]).any()
        assert (drawn.sum(-1) == 2).all()
    allowed = torch.tensor([[all(LEGAL[k][[i, 2 + j]]) for i, j in product(range(2), range(3))] for k in range(2)])
    for name, (estimator, many) in ESTIMATORS.items():
        played = made.climbing(made.masked(logits, LEGAL), noise[:, :1].expand(-1, 1, 3 if many else 1, -1)[:, 0], estimator, 1.0)
        [slope] = torch.autograd.grad((played * torch.arange(1.0, 6.0)).sum(), logits)
        assert slope.isfinite().all() and not slope[~(allowed if made.joint else LEGAL)].any(), name
    assert made.masked(logits, None) is logits


def test_uniform_over_what_is_legal():
    legal = torch.tensor([True, False, True, False, True])
    for made in (TWO, JOINT):
        drawn = made.uniform(exponentials(100_000, 1, made.outputs), legal.expand(100_000, -1)).mean(0)
        torch.testing.assert_close(drawn, torch.tensor([1.0, 0.0, 0.5, 0.0, 0.5]), atol=0.01, rtol=0.0)


@pytest.mark.parametrize(("made", "temperature"), [(TWO, 1.0), (TWO, 0.4), (JOINT, 0.7)])
def test_the_straight_through_gradient_is_that_of_a_hand_written_one(made: Choices, temperature: float):
    logits = torch.randn(7, made.outputs, generator=Generator().manual_seed(1)).requires_grad_()
    noise, weight = exponentials(7, 1, made.outputs), torch.randn(7, 5, generator=Generator().manual_seed(2))
    estimator, _ = ESTIMATORS["straight-through"]
    played = made.climbing(logits, noise, estimator, temperature)
    [ours] = torch.autograd.grad((played * weight).sum().sin(), logits)
    pieces: list[Tensor] = []
    for row, e in zip(logits, noise[:, 0], strict=True):
        hot: list[Tensor] = []
        for z, x in zip(row.split(made.outputs if made.joint else [2, 3]), e.split(made.outputs if made.joint else [2, 3]), strict=True):
            gumbel = -x.log()
            y = ((z + gumbel) / temperature).softmax(0)
            hard = torch.zeros_like(y)
            hard[(z + gumbel).argmax()] = 1.0
            hot.append(y + (hard - y).detach())
        if made.joint:  # of (i, j) the first choice is i, the second j
            table = hot[0].view(2, 3)
            hot = [table.sum(1), table.sum(0)]
        pieces.append(torch.cat(hot))
    theirs = torch.stack(pieces)
    torch.testing.assert_close(played, theirs)
    assert set(played.detach().flatten().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(ours, torch.autograd.grad((theirs * weight).sum().sin(), logits)[0])


def test_gumbel_rao_takes_the_first_sample_for_the_choice_and_averages_the_rest():
    logits, noise = torch.randn(4, 3, generator=Generator().manual_seed(3)).requires_grad_(), exponentials(4, 6, 3)
    estimator, many = ESTIMATORS["gumbel-rao"]
    assert many and not ESTIMATORS["gapped"][1]
    played = Choices((3,)).climbing(logits, noise, estimator, 0.5)
    assert torch.equal(played, Choices((3,)).perturbed(logits, noise, 0.0, 0.0))
    [ours] = torch.autograd.grad(played[:, 0].sum(), logits)
    [theirs] = torch.autograd.grad(gumbel_rao(logits, noise.movedim(1, 0), 0.5)[:, 0].sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_each_seed_draws_from_its_own_generator():
    for made in (reals(), TWO, JOINT):
        both = made.noise([Generator().manual_seed(1), Generator().manual_seed(2)], (3, 4), 2)
        [alone] = made.noise([Generator().manual_seed(2)], (3, 4), 2)
        assert torch.equal(both[1], alone)
        assert both.shape == ((2, 3, 4, 2) if isinstance(made, Reals) else (2, 3, 4, 2, made.outputs))


def test_several_agents_actions_are_one_after_the_other():
    line = Reals(torch.zeros(1), 4.0 * torch.ones(1))
    both = joined([reals(), line], joint=False)
    assert isinstance(both, Reals) and both.low.tolist() == [-2, 0, 0] and both.high.tolist() == [2, 1, 4]
    choices = joined([Choices((3,)), TWO], joint=True)
    assert isinstance(choices, Choices) and choices.sizes == (3, 2, 3) and choices.outputs == 18
    with pytest.raises(GameError, match="of whom some choose and others give reals"):
        joined([line, TWO], joint=False)


@pytest.mark.parametrize(
    "space",
    [
        MultiBinary((2,)),
        DictSpace((("a", Discrete(2)),)),
        Box((2, 2), -np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)),
        Box((1,), -np.ones(1, np.float32), np.full(1, np.inf, np.float32)),
    ],
)
def test_other_spaces_are_refused_by_the_name_of_who_acts(space: Box | MultiBinary | DictSpace):
    with pytest.raises(GameError, match="^wolf, hare .*bounded"):
        actions_of(space, "wolf, hare")
    assert actions_of(MultiDiscrete((2, 3)), "wolf").width == 5


def test_actions_follow_the_device():
    """Encoding and decoding where the nets are; `meta` stands for any other device."""
    made = reals()
    there = torch.zeros(4, 2, device="meta")
    assert made.encode(there).device.type == made.decode(there).device.type == "meta"
