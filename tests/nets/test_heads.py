"""Every head against torch.distributions, enumeration or quadrature; masks; and seeds that do not touch one another."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from tutelage.games.spec import Box, DictSpace, Discrete, GameError, MultiBinary, MultiDiscrete, Space, TupleSpace
from tutelage.nets.heads import Bernoulli, Categorical, Gaussian, Head, MultiCategorical, Product, TanhGaussian, make_head
from tutelage.nets.parameters import Parameters


def box(*shape: int, low: float = -2.0, high: float = 3.0) -> Box:
    return Box(shape, np.full(shape, low, np.float32), np.full(shape, high, np.float32))


NESTED = DictSpace((("b", TupleSpace((box(2), Discrete(3)))), ("a", MultiBinary((2,))), ("c", MultiDiscrete((2, 4)))))
SPACES: dict[str, tuple[Space, bool]] = {
    "categorical": (Discrete(4), False),
    "multi-categorical": (MultiDiscrete((2, 4, 3)), False),
    "bernoulli": (MultiBinary((3,)), False),
    "gaussian": (box(2, 2), False),
    "tanh-gaussian": (box(3), True),
    "product": (NESTED, False),
}
ENUMERABLE = {
    "categorical": [[float(i)] for i in range(4)],
    "multi-categorical": [list(map(float, a)) for a in itertools.product(range(2), range(4), range(3))],
    "bernoulli": [list(map(float, a)) for a in itertools.product(range(2), repeat=3)],
}


def generators(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


def drawn(head: Head, *lead: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*lead, head.width, generator=Generator().manual_seed(seed), dtype=dtype)


def some_legal(head: Head, *lead: int, seed: int = 5) -> Tensor:
    """About half of the choices; the first of each discrete entry always."""
    legal = torch.rand(*lead, head.legal_width, generator=Generator().manual_seed(seed)) < 0.5
    at = 0
    for part in head.heads if isinstance(head, Product) else (head,):
        for size in part.sizes if isinstance(part, MultiCategorical) else ([part.n] if isinstance(part, Categorical) else []):
            legal[..., at] = True
            at += size
    return legal


@pytest.fixture(params=SPACES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def head(name: str) -> Head:
    return make_head(*SPACES[name])


# --- the right head, of the right size -------------------------------------------------------------------------------------


def test_each_space_has_its_head():
    assert make_head(Discrete(4)) == Categorical(4)
    assert make_head(MultiDiscrete((2, 3))) == MultiCategorical((2, 3))
    assert make_head(MultiBinary((2, 3))) == Bernoulli(6)
    assert make_head(box(2, 2)) == Gaussian(4)
    assert make_head(box(2), squashed=True) == TanhGaussian((-2.0, -2.0), (3.0, 3.0))
    assert make_head(NESTED) == Product((Bernoulli(2), Gaussian(2), Categorical(3), MultiCategorical((2, 4))))
    assert make_head(TupleSpace((Discrete(2),))) == Categorical(2)


def test_sizes_of_a_product_add_up():
    head = make_head(NESTED)
    assert (head.outputs, head.width, head.action_width, head.legal_width) == (2 + 2 + 3 + 6, 2 + 4 + 3 + 6, 2 + 2 + 1 + 2, 3 + 6)
    assert head.shapes(5) == {"log_std_1": (5, 2)}


@pytest.mark.parametrize(
    ("space", "squashed", "sentence"),
    [
        (box(1, high=math.inf), True, "a squashed policy needs bounded actions; these lie between .* and .*inf"),
        (TupleSpace(()), False, "has no entries; a policy needs something to choose"),
        (Box((2,), np.zeros(2), np.ones(2), "uint8"), False, "actions of bytes, \\(2,\\), have no head"),
    ],
)
def test_a_space_without_a_head_is_an_error(space: Space, squashed: bool, sentence: str):
    with pytest.raises(GameError, match=sentence):
        make_head(space, squashed)


def test_shapes_of_everything(head: Head):
    weights = Parameters({"unused": (3, 1)} | head.shapes(3)).weights
    output = torch.randn(3, 5, 2, head.outputs, generator=Generator().manual_seed(0))
    parameters = head.parameters(output, weights)
    legal = torch.ones(3, 5, 2, head.legal_width, dtype=torch.bool)
    action = head.sample(parameters, generators(1, 2, 3), legal)
    assert parameters.shape == (3, 5, 2, head.width) and action.shape == (3, 5, 2, head.action_width)
    assert head.mode(parameters, legal).shape == action.shape
    for number in (head.log_prob(parameters, action, legal), head.entropy(parameters, legal), head.kl(parameters, parameters, legal)):
        assert number.shape == (3, 5, 2) and number.isfinite().all()


def test_the_width_of_a_gaussian_is_a_weight_that_learns():
    head = make_head(NESTED)
    weights = Parameters({"unused": (2, 1)} | head.shapes(2))
    weights.weights["log_std_1"].copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    parameters = head.parameters(torch.zeros(2, 5, head.outputs), weights.leaves)
    assert torch.equal(parameters[1, :, 4:6], torch.tensor([0.3, 0.4]).expand(5, 2))
    action = head.sample(parameters.detach(), generators(1, 2))
    gradient = torch.autograd.grad(head.log_prob(parameters, action).sum(), weights.leaves["log_std_1"])[0]
    noise = (action[..., 2:4] / torch.tensor([[0.1, 0.2], [0.3, 0.4]]).exp()[:, None]).square()
    torch.testing.assert_close(gradient, (noise - 1.0).sum(1))


# --- against torch ---------------------------------------------------------------------------------------------------------


def torchs(name: str, parameters: Tensor) -> list[tuple[Distribution, slice]]:
    """torch's distributions of the entries, and where they stand in the action."""
    if name == "categorical":
        return [(TorchCategorical(logits=parameters), slice(0, 1))]
    if name == "multi-categorical":
        return [(TorchCategorical(logits=part), slice(i, i + 1)) for i, part in enumerate(parameters.split([2, 4, 3], -1))]
    if name == "bernoulli":
        return [(Independent(TorchBernoulli(logits=parameters), 1), slice(0, 3))]
    if name == "gaussian":
        mean, log_std = parameters.chunk(2, -1)
        return [(Independent(Normal(mean, log_std.exp()), 1), slice(0, 4))]
    assert name == "product"
    coins, gaussian, choice, first, second = parameters.split([2, 4, 3, 2, 4], -1)
    mean, log_std = gaussian.chunk(2, -1)
    return [
        (Independent(TorchBernoulli(logits=coins), 1), slice(0, 2)),
        (Independent(Normal(mean, log_std.exp()), 1), slice(2, 4)),
        *((TorchCategorical(logits=part), slice(i, i + 1)) for i, part in ((4, choice), (5, first), (6, second))),
    ]


@pytest.mark.parametrize("name", [name for name in SPACES if name != "tanh-gaussian"])
def test_log_prob_entropy_and_kl_are_torchs(name: str, head: Head):
    p, q = drawn(head, 2, 50, seed=1), drawn(head, 2, 50, seed=2)
    action = head.sample(p, generators(1, 2))
    logp, entropy, kl = torch.zeros(2, 50), torch.zeros(2, 50), torch.zeros(2, 50)
    for (mine, where), (theirs, _) in zip(torchs(name, p), torchs(name, q), strict=True):
        taken = action[..., where]
        logp += mine.log_prob(taken.squeeze(-1) if isinstance(mine, TorchCategorical) else taken)
        entropy += mine.entropy()
        kl += kl_divergence(mine, theirs)
    torch.testing.assert_close(head.log_prob(p, action), logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.entropy(p), entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.kl(p, q), kl, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ENUMERABLE)
@pytest.mark.parametrize("masked", [False, True])
def test_by_enumeration(name: str, head: Head, masked: bool):
    """Probabilities add up to 1; entropy and KL are the sums that define them; illegal actions have probability exactly 0."""
    actions = torch.tensor(ENUMERABLE[name])
    p, q = drawn(head, 1, 1, seed=1), drawn(head, 1, 1, seed=2)
    legal = some_legal(head, 1, 1) if masked and head.legal_width else None
    every = lambda x: None if x is None else x.expand(1, len(actions), -1)
    logp = head.log_prob(p.expand(1, len(actions), -1), actions[None], every(legal)).double()
    logq = head.log_prob(q.expand(1, len(actions), -1), actions[None], every(legal)).double()
    probability = logp.exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-6)
    possible = probability > 0.0
    assert float(head.entropy(p, legal)) == pytest.approx(float(-(probability * logp)[possible].sum()), abs=1e-5)
    assert float(head.kl(p, q, legal)) == pytest.approx(float((probability * (logp - logq))[possible].sum()), abs=1e-5)
    assert torch.equal(head.mode(p, legal)[0], actions[logp.argmax()][None])
    if legal is not None:
        starts = [0, 2, 6] if name == "multi-categorical" else [0]
        allowed = torch.stack([legal[0, 0, start + actions[:, i].long()] for i, start in enumerate(starts)]).all(0)
        assert 0 < allowed.sum() < len(actions)
        assert torch.equal(possible[0], allowed)


def test_the_mode_maximizes_the_density_of_a_gaussian():
    head = Gaussian(2)
    p = drawn(head, 1, 20)
    near = head.mode(p) + 0.1 * torch.randn(1, 20, 2, generator=Generator().manual_seed(3))
    assert (head.log_prob(p, head.mode(p)) > head.log_prob(p, near)).all()


# --- samples follow the probabilities --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENUMERABLE)
@pytest.mark.parametrize("masked", [False, True])
def test_frequencies_are_the_probabilities(name: str, head: Head, masked: bool):
    actions, draws = torch.tensor(ENUMERABLE[name]), 20_000
    p = drawn(head, 1, 1, seed=1)
    legal = some_legal(head, 1, 1) if masked and head.legal_width else None
    every = lambda count: None if legal is None else legal.expand(1, count, -1)
    sample = head.sample(p.expand(1, draws, -1), generators(7), every(draws))
    frequency = (sample[0, :, None] == actions).all(-1).float().mean(0)
    probability = head.log_prob(p.expand(1, len(actions), -1), actions[None], every(len(actions)))[0].exp()
    assert float(frequency.sum()) == pytest.approx(1.0)  # every sample is one of the actions
    assert not frequency[probability == 0.0].any()
    spread = (probability * (1.0 - probability) / draws).sqrt()
    assert ((frequency - probability).abs() <= 4.5 * spread + 1e-9).all()


def test_a_gaussian_has_its_moments():
    head = Gaussian(2)
    p = torch.tensor([0.5, -1.0, math.log(0.3), math.log(2.0)]).expand(1, 40_000, 4)
    sample = head.sample(p, generators(7))[0]
    torch.testing.assert_close(sample.mean(0), torch.tensor([0.5, -1.0]), atol=0.03, rtol=0.0)
    torch.testing.assert_close(sample.std(0), torch.tensor([0.3, 2.0]), atol=0.0, rtol=0.02)


@pytest.mark.parametrize("name", ["gaussian", "tanh-gaussian", "product"])
def test_minus_the_mean_log_prob_of_samples_is_the_entropy(name: str, head: Head):
    p = 0.5 * drawn(head, 1, 1, seed=1).expand(1, 40_000, -1)
    logp = head.log_prob(p, head.sample(p, generators(7)))
    assert float(-logp.mean()) == pytest.approx(float(head.entropy(p)[0, 0]), abs=4.5 * float(logp.std()) / 200)


# --- the squashed Gaussian -------------------------------------------------------------------------------------------------

SQUASHED = [(0.0, 0.0), (0.8, -0.5), (-1.5, 0.3), (0.3, -3.0), (0.5, 1.0), (0.0, 2.0)]


@pytest.mark.parametrize(("mean", "log_std"), SQUASHED)
def test_the_squashed_density_against_torch_and_quadrature(mean: float, log_std: float):
    head = TanhGaussian((-2.0,), (3.0,))
    u = mean + math.exp(log_std) * torch.linspace(-8.0, 8.0, 40_001, dtype=torch.float64)
    u = u[u.abs() < 15.0]  # beyond it even double precision has no action but the bound
    action = (0.5 + 2.5 * u.tanh())[None, :, None]
    p = torch.tensor([mean, log_std], dtype=torch.float64).expand(1, len(u), 2)
    logp = head.log_prob(p, action)[0]
    inner = u.abs() < 8.0
    torchs = TransformedDistribution(Normal(p[0, :, 0], p[0, :, 1].exp()), [TanhTransform()]).log_prob(u.tanh()) - math.log(2.5)
    torch.testing.assert_close(logp[inner], torchs[inner], atol=1e-5, rtol=1e-5)
    normal = Normal(torch.tensor(mean).double(), math.exp(log_std))
    inside = float(normal.cdf(u[-1]) - normal.cdf(u[0]))
    assert float(torch.trapezoid(logp.exp(), action[0, :, 0])) == pytest.approx(inside, abs=1e-4)
    entropy = float(torch.trapezoid(-logp * normal.log_prob(u).exp(), u))
    if log_std <= 0.7:
        assert float(head.entropy(p[:, :1])) == pytest.approx(entropy, abs=1e-6)


def test_the_entropy_of_the_widest_squashed_gaussian():
    """Against the same integral on 40,001 points: the docstring's bound."""
    head = TanhGaussian((-1.0,), (1.0,))
    for mean in torch.linspace(-3.0, 3.0, 13).tolist():
        noise = torch.linspace(-9.0, 9.0, 40_001, dtype=torch.float64)
        u = mean + math.exp(2.0) * noise
        slope = 2.0 * (math.log(2.0) - u - torch.nn.functional.softplus(-2.0 * u))
        density = (-0.5 * noise.square()).exp() / math.sqrt(2.0 * math.pi)
        exact = 2.0 + 0.5 * math.log(2.0 * math.pi * math.e) + float(torch.trapezoid(slope * density, noise))
        assert float(head.entropy(torch.tensor([[[mean, 2.0]]], dtype=torch.float64))) == pytest.approx(exact, abs=1e-3)


def test_the_squashed_kl_is_the_integral():
    head = TanhGaussian((-2.0,), (3.0,))
    u = torch.linspace(-7.0, 7.0, 20_001, dtype=torch.float64)
    action = (0.5 + 2.5 * u.tanh())[None, :, None]
    p, q = (torch.tensor(x, dtype=torch.float64).expand(1, len(u), 2) for x in ([0.2, -0.4], [-0.3, -0.1]))
    logp, logq = head.log_prob(p, action)[0], head.log_prob(q, action)[0]
    integral = torch.trapezoid(logp.exp() * (logp - logq), action[0, :, 0])
    assert float(head.kl(p, q)[0, 0]) == pytest.approx(float(integral), abs=1e-5)


def test_squashed_actions_keep_their_bounds_and_the_bound_has_a_finite_density():
    head = TanhGaussian((-2.0, 0.0), (3.0, 1.0))
    p = drawn(head, 1, 500) * 20.0
    action = head.sample(p, generators(7))
    low, high = torch.tensor(head.low), torch.tensor(head.high)
    assert ((action >= low) & (action <= high)).all() and (action == high).any()
    p.requires_grad_()
    logp = head.log_prob(p, action)
    assert logp.isfinite().all() and torch.autograd.grad(logp.sum(), p)[0].isfinite().all()
    torch.testing.assert_close(head.mode(torch.zeros(1, 1, 4)), torch.tensor([[[0.5, 0.5]]]))


# --- masks -----------------------------------------------------------------------------------------------------------------

MASKABLE = ["categorical", "multi-categorical", "product"]


@pytest.mark.parametrize("name", MASKABLE)
def test_a_row_that_forbids_everything_is_an_error(name: str, head: Head):
    legal = some_legal(head, 2, 3)
    legal[1, 2] = False
    for act in (lambda: head.sample(drawn(head, 2, 3), generators(1, 2), legal), lambda: head.mode(drawn(head, 2, 3), legal)):
        with pytest.raises(GameError, match="no action is legal at index \\[1, 2.* a policy needs at least one that the game allows"):
            act()


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("filler", [50.0, 1e6, -1e6])
def test_logits_of_illegal_actions_change_nothing_and_have_no_gradient(name: str, head: Head, filler: float):
    p, q, legal = drawn(head, 2, 30, seed=1), drawn(head, 2, 30, seed=2), some_legal(head, 2, 30)
    # Where the flags stand among the parameters: a product has coins and a Gaussian before its choices.
    flags = torch.zeros(2, 30, head.width, dtype=torch.bool)
    flags[..., -head.legal_width :] = ~legal
    assert flags.any()
    action = head.sample(p, generators(1, 2), legal)
    changed = torch.where(flags, filler, p)
    assert torch.equal(head.sample(changed, generators(1, 2), legal), action)
    results = []
    for parameters in (p, changed):
        parameters = parameters.clone().requires_grad_()
        kl = head.kl(parameters, q, legal) + head.kl(q, parameters, legal)
        numbers = torch.stack([head.log_prob(parameters, action, legal), head.entropy(parameters, legal), kl])
        gradient = torch.autograd.grad(1e3 * numbers.sum(), parameters)[0]
        assert gradient.isfinite().all() and not gradient[flags].any()
        results.append((numbers.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", MASKABLE)
def test_a_mask_that_allows_everything_is_no_mask(name: str, head: Head):
    p, q = drawn(head, 2, 30, seed=1), drawn(head, 2, 30, seed=2)
    every = torch.ones(2, 30, head.legal_width, dtype=torch.bool)
    action = head.sample(p, generators(1, 2))
    assert torch.equal(head.sample(p, generators(1, 2), every), action)
    assert torch.equal(head.log_prob(p, action, every), head.log_prob(p, action))
    assert torch.equal(head.entropy(p, every), head.entropy(p)) and torch.equal(head.kl(p, q, every), head.kl(p, q))


@pytest.mark.parametrize("name", MASKABLE)
def test_one_legal_action_is_certain(name: str, head: Head):
    flags, choice = {
        "categorical": ([3], [3.0]),
        "multi-categorical": ([1, 5, 8], [1.0, 3.0, 2.0]),
        "product": ([2, 4, 8], [2.0, 1.0, 3.0]),
    }[name]
    legal = torch.zeros(1, 40, head.legal_width, dtype=torch.bool)
    legal[..., flags] = True
    p = drawn(head, 1, 40)
    choices = head.sample(p, generators(1), legal)[..., -len(choice) :]
    assert torch.equal(choices, torch.tensor(choice).expand(1, 40, -1))
    if name != "product":
        assert not head.entropy(p, legal).any() and not head.log_prob(p, choices, legal).any()


@pytest.mark.parametrize("name", MASKABLE)
def test_padding_without_a_legal_action_leaves_no_nan(name: str, head: Head):
    p, legal = drawn(head, 1, 6).requires_grad_(), some_legal(head, 1, 6)
    action = head.sample(p.detach(), generators(1), legal)
    legal[0, 3] = False
    numbers = head.log_prob(p, action, legal) + head.entropy(p, legal) + head.kl(p, p.detach() + 0.1, legal)
    assert numbers.isfinite().all() and torch.autograd.grad(numbers.sum(), p)[0].isfinite().all()


# --- gradients and seeds ---------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_finite_differences(name: str, head: Head):
    p, q = (0.5 * drawn(head, 1, 2, seed=seed, dtype=torch.float64) for seed in (1, 2))
    action = head.sample(p, generators(1)).double()
    legal = some_legal(head, 1, 2) if head.legal_width else None
    if legal is not None:
        action = head.sample(p, generators(1), legal).double()
    p.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: head.log_prob(x, action, legal), (p,))
    assert torch.autograd.gradcheck(lambda x: head.entropy(x, legal), (p,))
    assert torch.autograd.gradcheck(lambda x, y: head.kl(x, y, legal), (p, q))


def test_the_hessian_of_the_kl_is_the_covariance_of_the_scores(name: str, head: Head):
    """Fisher's matrix two ways, by enumeration; TRPO needs the second derivative to be right."""
    if name not in ENUMERABLE:
        return _gaussian_fisher(head, name)
    actions = torch.tensor(ENUMERABLE[name], dtype=torch.float64)
    p = drawn(head, 1, 1, seed=1, dtype=torch.float64)
    score = torch.stack([torch.autograd.functional.jacobian(lambda x, a=a: head.log_prob(x, a[None, None]), p).flatten() for a in actions])
    weight = head.log_prob(p.expand(1, len(actions), -1), actions[None])[0].exp()
    fisher = (weight[:, None] * score).mT @ score
    hessian = torch.as_tensor(torch.autograd.functional.hessian(lambda x: head.kl(p, x).sum(), p)).view_as(fisher)
    torch.testing.assert_close(hessian, fisher)


def _gaussian_fisher(head: Head, name: str) -> None:
    if name == "product":
        return
    p = 0.3 * drawn(head, 1, 1, seed=1, dtype=torch.float64)
    hessian = torch.as_tensor(torch.autograd.functional.hessian(lambda x: head.kl(p, x).sum(), p)).view(head.width, head.width)
    log_std = p.flatten()[head.action_width :]
    torch.testing.assert_close(hessian, torch.diag(torch.cat([(-2.0 * log_std).exp(), torch.full_like(log_std, 2.0)])))


def test_a_seed_in_a_stack_draws_what_it_would_draw_alone(head: Head):
    p = drawn(head, 3, 37, seed=1)
    legal = some_legal(head, 3, 37) if head.legal_width else None
    for mask in (None, legal):
        stacked = head.sample(p, generators(1, 2, 3), mask)
        for r in range(3):
            alone = head.sample(p[r : r + 1], generators(r + 1), None if mask is None else mask[r : r + 1])
            assert torch.equal(stacked[r], alone[0])
    assert not torch.equal(head.sample(p, generators(1, 2, 3)), head.sample(p, generators(4, 5, 6)))


def test_a_seed_without_numbers_leaves_the_others_alone(head: Head):
    p = drawn(head, 3, 5, seed=1)
    action = head.sample(p, generators(1, 2, 3))
    sick = p.clone()
    sick[1] = math.nan
    others: Sequence[int] = [0, 2]
    assert torch.equal(head.sample(sick, generators(1, 2, 3))[others], action[others])
    assert torch.equal(head.log_prob(sick, action)[others], head.log_prob(p, action)[others])
