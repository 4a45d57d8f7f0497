"""The stacked Adam against one torch optimiser per member, and the promise that members do not touch one another."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tutelage.experience.trees import pack, unpack
from tutelage.nets.adam import StackedAdam
from tutelage.nets.parameters import Parameters

R, STEPS = 3, 60
SHAPES = {"weight": (R, 5, 7), "bias": (R, 1, 7), "scale": (R,)}


def draws(seed: int, steps: int = STEPS) -> list[Tensor]:
    """Flat gradients; their size differs by orders of magnitude, so that clipping and epsilon matter."""
    g = torch.Generator().manual_seed(seed)
    size = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    return [torch.randn(size, generator=g) * 10.0 ** torch.randint(-4, 2, (1,), generator=g).item() for _ in range(steps)]


def made(**options) -> StackedAdam:
    parameters = Parameters(SHAPES)
    parameters.flat.copy_(torch.randn(len(parameters.flat), generator=torch.Generator().manual_seed(1)))
    return StackedAdam(parameters, **options)


def member(parameters: Parameters, flat: Tensor, r: int) -> Tensor:
    return torch.cat([view[r].reshape(-1) for view in parameters.split(flat).values()])


def reference(optimizer: StackedAdam, r: int, rate: float, decay: float, decoupled: bool = True) -> tuple[Tensor, torch.optim.Optimizer]:
    weights = member(optimizer.parameters, optimizer.parameters.flat, r).clone().requires_grad_()
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return weights, kind([weights], lr=rate, weight_decay=decay)


def follow(weights: Tensor, optimizer: torch.optim.Optimizer, gradient: Tensor, max_norm: float | None) -> None:
    weights.grad = gradient.clone()
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_([weights], max_norm)
    optimizer.step()


def all_move(step: int) -> None:
    return None


def some_move(step: int) -> Tensor:
    return torch.tensor([step % 2 == 0, step % 3 != 1, step < 40])


@pytest.mark.parametrize("active", [all_move, some_move])
@pytest.mark.parametrize("rates", [1e-2, (1e-3, 3e-2, 5e-2)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_each_member_moves_as_under_an_optimizer_of_its_own(
    active: Callable[[int], Tensor | None], rates: float | tuple[float, ...], decay: float, max_norm: float | None
):
    ours = made(learning_rate=rates if isinstance(rates, float) else torch.tensor(rates), weight_decay=decay, max_grad_norm=max_norm)
    own_rates = list(rates) if isinstance(rates, tuple) else [rates] * R
    theirs = [reference(ours, r, own_rates[r], decay) for r in range(R)]
    for step, gradient in enumerate(draws(2)):
        moving = active(step)
        ours.step(gradient, moving)
        for r, (weights, optimizer) in enumerate(theirs):
            if moving is None or moving[r]:
                follow(weights, optimizer, member(ours.parameters, gradient, r), max_norm)
    for r, (weights, _) in enumerate(theirs):
        torch.testing.assert_close(member(ours.parameters, ours.parameters.flat, r), weights.detach(), atol=1e-6, rtol=1e-6)
    assert len({tuple(w.tolist()) for w, _ in theirs}) == R  # members that end equal would prove little


def test_without_decay_it_is_plain_adam():
    ours = made(learning_rate=1e-2)
    weights, optimizer = reference(ours, 0, 1e-2, 0.0, decoupled=False)
    for gradient in draws(3):
        ours.step(gradient)
        follow(weights, optimizer, member(ours.parameters, gradient, 0), None)
    torch.testing.assert_close(member(ours.parameters, ours.parameters.flat, 0), weights.detach(), atol=1e-6, rtol=1e-6)


def test_the_parameters_that_losses_see_are_the_ones_that_move():
    ours = made(learning_rate=1e-2)
    before = ours.parameters.leaves["weight"].detach().clone()
    ours.step(draws(4)[0])
    assert (ours.parameters.leaves["weight"] != before).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_freezes_its_member_alone(value: float):
    ours, plain = made(learning_rate=1e-2), made(learning_rate=1e-2)
    for step, gradient in enumerate(draws(5)):
        plain.step(gradient)
        broken = gradient.clone()
        if step == 10:
            before = member(ours.parameters, ours.parameters.flat, 1).clone()
            ours.parameters.split(broken)["bias"][1, 0, 3] = value
        ours.step(broken)
    assert ours.frozen.tolist() == [False, True, False]
    assert torch.equal(member(ours.parameters, ours.parameters.flat, 1), before)
    for r in (0, 2):  # not a bit differs, although from then on not all members move
        for mine, other in [(x.flat, y.flat) for x, y in [(ours.parameters, plain.parameters)]] + [
            (ours.first_moment, plain.first_moment),
            (ours.second_moment, plain.second_moment),
        ]:
            assert torch.equal(member(ours.parameters, mine, r), member(ours.parameters, other, r))


def test_gradients_that_cancel_or_overflow_in_the_sum_freeze_nobody():
    ours = made(learning_rate=1e-2)
    ours.step(torch.full_like(ours.parameters.flat, 1e19))
    assert not ours.frozen.any() and ours.second_moment.isfinite().all()


def test_a_gradient_whose_square_overflows_freezes_its_member():
    # Its second moment would be infinite from then on, and the member would stand still without anybody being told.
    ours = made(learning_rate=1e-2)
    gradient = torch.zeros_like(ours.parameters.flat)
    ours.parameters.split(gradient)["weight"][1, 0, 0] = 1e20
    ours.step(gradient)
    assert ours.frozen.tolist() == [False, True, False] and ours.second_moment.isfinite().all()


def test_two_infinities_of_opposite_sign_are_found():
    ours = made(learning_rate=1e-2)
    gradient = torch.zeros_like(ours.parameters.flat)
    ours.parameters.split(gradient)["weight"][0, 0, 0], ours.parameters.split(gradient)["weight"][2, 0, 0] = float("inf"), -float("inf")
    ours.step(gradient)
    assert ours.frozen.tolist() == [True, False, True]


def test_a_member_that_rests_is_not_judged_by_a_gradient_that_nobody_uses():
    ours = made(learning_rate=1e-2)
    gradient = torch.zeros_like(ours.parameters.flat)
    ours.parameters.split(gradient)["scale"][1] = float("nan")
    ours.step(gradient, torch.tensor([True, False, True]))
    assert not ours.frozen.any()


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_what_others_do_changes_no_bit_of_a_member(max_norm: float | None):
    """Other gradients, other rests: member 1 always moves and must come out the same."""

    def last(seed: int, resting: bool) -> Tensor:
        ours = made(learning_rate=1e-2, weight_decay=0.01, max_grad_norm=max_norm)
        for step, (common, other) in enumerate(zip(draws(6), draws(seed), strict=True)):
            views, sources = ours.parameters.split(other), ours.parameters.split(common)
            for name, view in views.items():
                view[1] = sources[name][1]
            ours.step(other, torch.tensor([step % 3 == 0, True, step < 5]) if resting else None)
        return member(ours.parameters, ours.parameters.flat, 1)

    assert torch.equal(last(7, False), last(8, False))
    assert torch.equal(last(7, False), last(8, True))


def test_reset_forgets_the_chosen_members_only():
    ours, fresh = made(learning_rate=1e-2), made(learning_rate=1e-2)
    for gradient in draws(9, 20):
        ours.step(gradient)
    before = member(ours.parameters, ours.first_moment, 0).clone()
    ours.reset(torch.tensor([False, True, False]))
    assert ours.steps.tolist() == [20.0, 0.0, 20.0]
    assert (member(ours.parameters, ours.second_moment, 1) == 0.0).all()
    assert torch.equal(member(ours.parameters, ours.first_moment, 0), before)
    fresh.parameters.flat.copy_(ours.parameters.flat)
    for gradient in draws(10, 5):
        ours.step(gradient)
        fresh.step(gradient)
    assert torch.equal(member(ours.parameters, ours.parameters.flat, 1), member(ours.parameters, fresh.parameters.flat, 1))
    assert not torch.equal(member(ours.parameters, ours.parameters.flat, 0), member(ours.parameters, fresh.parameters.flat, 0))


@pytest.mark.parametrize("active", [all_move, some_move])
def test_saved_and_loaded_it_goes_on_to_the_same_bits(active: Callable[[int], Tensor | None]):
    ours, again = made(learning_rate=1e-2), made(learning_rate=1e-2)
    gradients = draws(11)
    gradients[6][0] = float("nan")
    for step in range(30):
        ours.step(gradients[step], active(step))
    again.load(unpack(*pack(ours.state())))
    again.parameters.flat.copy_(ours.parameters.flat)
    for step in range(30, STEPS):
        ours.step(gradients[step], active(step))
        again.step(gradients[step], active(step))
    assert torch.equal(ours.parameters.flat, again.parameters.flat)
    assert torch.equal(ours.frozen, again.frozen) and ours.frozen[0]


def test_weights_without_a_common_member_axis_are_refused():
    with pytest.raises(ValueError, match=r"one leading member axis.*\[2, 3\]"):
        Parameters({"weight": (2, 4, 4), "bias": (3, 1, 4)})
