"""Gumbel estimators: the draw's law, gradients by hand and by loops, the conditional noise's law, bias and variance on a quadratic."""

import math
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.equations.bellman import allow
from tutelage.equations.gumbel import gapped, gumbel_max, gumbel_rao, perturbed_given, straight_through

ESTIMATORS = [(straight_through, 1), (gumbel_rao, 4), (gapped, 1)]
THETA = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0], dtype=torch.float64)


def exponential(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(shape, dtype=dtype).exponential_(generator=torch.Generator().manual_seed(seed))


def pulled(estimator, logits: Tensor, noise: Tensor, temperature: float, v: Tensor) -> tuple[Tensor, Tensor]:
    """The draw, and what v becomes at the logits."""
    logits = logits.clone().requires_grad_()
    draw = estimator(logits, noise, temperature)
    return draw.detach(), torch.autograd.grad(draw, logits, v)[0]


# The draw


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("estimator", "S"), ESTIMATORS)
def test_the_draw_is_one_hot_to_the_bit_and_the_gumbel_max(estimator, S, dtype):
    logits, noise = (
        3.0 * torch.randn(50, 40, 5, dtype=dtype, generator=torch.Generator().manual_seed(1)),
        exponential(S, 50, 40, 5, dtype=dtype),
    )
    for temperature in (1e-3, 0.3, 1.0, 1e3):
        draw = estimator(logits.requires_grad_(), noise, temperature).detach()
        assert draw.dtype == dtype and draw.unique().tolist() == [0.0, 1.0] and (draw.sum(-1) == 1.0).all()
        assert torch.equal(draw.argmax(-1), (logits.detach() - noise[0].log()).argmax(-1))
    assert not gumbel_max(logits, noise[0]).requires_grad


@pytest.mark.parametrize(("estimator", "S"), ESTIMATORS)
def test_frequencies_are_the_softmax(estimator, S):
    N = 50_000
    count = estimator(THETA.expand(N, 5), exponential(S, N, 5, seed=2), 0.5).sum(0)
    expected = N * THETA.softmax(-1)
    assert ((count - expected).square() / expected).sum() < 18.47  # chi-square, 4 degrees of freedom, p = 0.001


# Gradients


def test_straight_through_with_two_choices_by_hand():
    # theta = (ln 3, 0), E = (1, 1/2): x = (ln 3, ln 2), y = (3/5, 2/5) at tau = 1; y_1 y_2 (v_1 - v_2) = 6/25 * 5
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    draw, gradient = pulled(straight_through, row(math.log(3), 0.0), row(1.0, 0.5)[None], 1.0, row(7.0, 2.0))
    assert draw.tolist() == [1.0, 0.0] and gradient.tolist() == pytest.approx([1.2, -1.2], abs=1e-15)
    # tau = 1/2: y = (9, 4) / 13, and the slope of x / tau is 2
    _, gradient = pulled(straight_through, row(math.log(3), 0.0), row(1.0, 0.5)[None], 0.5, row(7.0, 2.0))
    assert gradient.tolist() == pytest.approx([2 * 36 / 169 * 5, -2 * 36 / 169 * 5], abs=1e-14)


def test_gapped_by_hand():
    # theta = (0, 0), whatever is drawn: the other is moved 1 below, y (1 - y) with y = sigmoid(1)
    row = lambda *x: torch.tensor(x, dtype=torch.float64)
    slope = math.e / (1 + math.e) ** 2
    for noise in (row(1.0, 2.0), row(2.0, 1.0)):
        _, gradient = pulled(gapped, row(0.0, 0.0), noise[None], 1.0, row(1.0, 0.0))
        assert gradient.tolist() == pytest.approx([slope, -slope], abs=1e-15)
    # theta = (3, 0, 2.5): the first drawn moves the third to 2; the second drawn moves to 3, both others to 2; without a gap only itself
    theta, v = row(3.0, 0.0, 2.5), row(1.0, -2.0, 0.5)
    first, second = row(0.1, 1.0, 1.0), row(1.0, 1e-9, 1.0)
    narrow = lambda logits, noise, temperature: gapped(logits, noise, temperature, gap=0.0)
    cases = ((gapped, first, [3.0, 0.0, 2.0]), (gapped, second, [2.0, 3.0, 2.0]), (narrow, second, [3.0, 3.0, 2.5]))
    for estimator, noise, x in cases:
        y = row(*x).softmax(-1)
        torch.testing.assert_close(pulled(estimator, theta, noise[None], 1.0, v)[1], y * (v - y @ v))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("name", ["straight_through", "gumbel_rao", "gapped"])
def test_against_a_loop_with_the_whole_jacobian(name, temperature):
    """In numpy, from the probabilities and not their logarithms, as the papers write it."""
    estimator, S = {"straight_through": ESTIMATORS[0], "gumbel_rao": ESTIMATORS[1], "gapped": ESTIMATORS[2]}[name]
    g = torch.Generator().manual_seed(3)
    logits, v = (torch.randn(6, 2, 4, dtype=torch.float64, generator=g) for _ in range(2))
    noise = exponential(S, 6, 2, 4, seed=4)
    draw, gradient = pulled(estimator, logits, noise, temperature, v)
    for i in np.ndindex(6, 2):
        z, E = logits[i].numpy(), np.stack([e[i].numpy() for e in noise])
        D = int(np.argmax(z - np.log(E[0])))
        assert draw[i].tolist() == [float(k == D) for k in range(4)]
        if name == "straight_through":
            perturbed = [z - np.log(E[0])]
        elif name == "gapped":
            lower = np.array([0.0 if k == D else max(z[k] + 1.0 - z.max(), 0.0) for k in range(4)])
            raised = np.array([z.max() - z[k] if k == D else 0.0 for k in range(4)])
            perturbed = [z + raised - lower]
        else:
            Z, perturbed = np.exp(z).sum(), []
            for e in E[1:]:
                x = -np.log(e / np.exp(z) + e[D] / Z)
                x[D] = np.log(Z) - np.log(e[D])
                perturbed.append(x)
        expected = np.zeros(4)
        for x in perturbed:
            y = np.exp(x / temperature) / np.exp(x / temperature).sum()
            jacobian = (np.diag(y) - np.outer(y, y)) / temperature
            expected += jacobian.T @ v[i].numpy() / len(perturbed)
        np.testing.assert_allclose(gradient[i].numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("estimator", "S"), ESTIMATORS)
def test_the_limits_of_temperature(estimator, S):
    """Hot: y is uniform, and tau times the gradient (v - mean v) / K. Cold: y is one-hot, and no gradient is left."""
    noise, v = exponential(S, 100, 5, seed=5), torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    _, hot = pulled(estimator, THETA.expand(100, 5), noise, 1e7, v)
    torch.testing.assert_close(1e7 * hot, (v - v.mean(-1, keepdim=True)) / 5, rtol=1e-4, atol=1e-5)
    _, cold = pulled(estimator, THETA.expand(100, 5), noise, 1e-6, v)
    assert cold.abs().max() < 1e-12


# The conditional noise


def test_given_the_choice_it_is_the_argmax_and_over_all_choices_the_noise_is_gumbel():
    N = 40_000
    logits = THETA.expand(N, 5)
    choice = gumbel_max(logits, exponential(N, 5, seed=7))
    x = perturbed_given(logits, choice, exponential(2, N, 5, seed=8))
    assert torch.equal(x.argmax(-1), choice.argmax(-1).expand(2, N))

    def kolmogorov_smirnov(sample: Tensor) -> float:
        F = (-(-sample.sort().values).exp()).exp()
        return float(torch.maximum(F - torch.arange(N) / N, torch.arange(1, N + 1) / N - F).max())

    gumbel = x[0] - THETA.log_softmax(-1)
    for k in range(5):
        assert kolmogorov_smirnov(gumbel[:, k]) < 1.95 / math.sqrt(N)  # p = 0.001
    se = math.pi / math.sqrt(6 * N)
    torch.testing.assert_close(gumbel.mean(0), torch.full((5,), 0.5772156649, dtype=torch.float64), atol=4 * se, rtol=0.0)
    # As unconditional ones: independent of each other, variance pi^2 / 6
    torch.testing.assert_close(gumbel.T.cov(), math.pi**2 / 6 * torch.eye(5, dtype=torch.float64), atol=0.06, rtol=0.0)
    # The maximum is Gumbel, and the same whatever was chosen
    top = x[0].amax(-1)
    assert kolmogorov_smirnov(top) < 1.95 / math.sqrt(N)
    for k in range(5):
        own = top[choice[:, k] > 0.0]
        assert abs(float(own.mean()) - 0.5772156649) < 4 * math.pi / math.sqrt(6 * len(own))


# Bias and variance

DRAWS = 15_000


def estimates(estimator, S: int, theta: Tensor, slope, temperature: float, seed: int) -> Tensor:
    """DRAWS gradients of f(D) at the logits; slope: the gradient of f."""
    noise = exponential(S, DRAWS, len(theta), seed=seed)
    logits = theta.expand(DRAWS, -1)
    return pulled(estimator, logits, noise, temperature, slope(estimator(logits, noise, temperature)))[1]


def quadratic(seed: int):
    """f(x) = x'Ax / 2 + b'x over five choices: theta, f at the vertices, the gradient of f."""
    g = torch.Generator().manual_seed(seed)
    theta, b = (torch.randn(5, dtype=torch.float64, generator=g) for _ in range(2))
    A = torch.randn(5, 5, dtype=torch.float64, generator=g)
    A = A + A.T
    return theta, 0.5 * A.diagonal() + b, lambda x: x @ A + b


def spread(sample: Tensor) -> float:
    """The trace of the covariance."""
    return float(sample.var(0).sum())


def test_bias_and_variance_on_quadratics():
    """Over six quadratics. REINFORCE by enumeration; that it varies more than straight_through is no law: it depends on the level of f.

    Variances measured, all six added: 5.9 REINFORCE, 1.7 straight_through, 1.7 gumbel_rao of 1 sample, 1.2 of 8; bias 1.04, at tau = 0.1
    0.19.
    """
    total = defaultdict[str, float](float)
    for seed in range(6):
        theta, f, slope = quadratic(seed)
        p = theta.softmax(-1)
        exact = p * (f - p @ f)
        logits = theta.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(logits.softmax(-1) @ f, logits)[0], exact)
        score = f[:, None] * (torch.eye(5, dtype=torch.float64) - p)  # f(D) grad log p(D), a row for each D
        torch.testing.assert_close(p @ score, exact)
        total["reinforce"] += float((p @ (score - exact).square()).sum())

        straight = estimates(straight_through, 1, theta, slope, 1.0, seed)
        one, eight = (estimates(gumbel_rao, S, theta, slope, 1.0, seed + 50) for S in (2, 9))
        for name, sample in (("straight", straight), ("rao 1", one), ("rao 8", eight)):
            total[name] += spread(sample)
        for rao in (one, eight):  # the same mean: within five standard errors
            error = ((straight.var(0) + rao.var(0)) / DRAWS).sqrt()
            assert ((straight.mean(0) - rao.mean(0)).abs() < 5.0 * error).all()
        assert spread(eight) < 0.95 * spread(straight)  # for each quadratic, by Rao and Blackwell
        total["hot bias"] += float((straight.mean(0) - exact).norm())
        cold = estimates(straight_through, 1, theta, slope, 0.1, seed)
        assert spread(cold) > 2.0 * spread(straight)
        total["cold bias"] += float((cold.mean(0) - exact).norm())
    assert total["straight"] < 0.5 * total["reinforce"]
    assert total["rao 8"] < 0.8 * total["straight"] and total["rao 1"] == pytest.approx(total["straight"], rel=0.05)
    assert total["cold bias"] < 0.3 * total["hot bias"]


def test_the_moments_of_straight_through_in_closed_form():
    """Two even choices, f linear with slope 1, where the truth is p (1 - p) = 1/4.

    At tau = 1 the mean is the integral of sigma'(l)^2, 1/6. As tau falls to 0 it tends to 1/4, the mean square to 1 / (24 tau).
    """
    even = torch.zeros(2, dtype=torch.float64)
    v = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for estimator, S in ((straight_through, 1), (gumbel_rao, 2), (gumbel_rao, 6)):
        sample = estimates(estimator, S, even, lambda x: v.expand_as(x), 1.0, seed=9)[:, 0]
        assert abs(float(sample.mean()) - 1 / 6) < 4.0 * float(sample.std()) / math.sqrt(DRAWS)
    cold = estimates(straight_through, 1, even, lambda x: v.expand_as(x), 0.01, seed=9)[:, 0]
    assert abs(float(cold.mean()) - 1 / 4) < 4.0 * float(cold.std()) / math.sqrt(DRAWS)
    assert float(cold.square().mean()) == pytest.approx(1 / 0.24, rel=0.3)  # its own standard error is 8 percent


def test_gapped_is_its_enumeration():
    """Given D nothing is random: the mean is the sum over D of p(D) times one gradient."""
    theta, _, slope = quadratic(1)
    sure = 1.0 - (1.0 - 1e-200) * torch.eye(5, dtype=torch.float64)  # row d draws d
    vertices = torch.eye(5, dtype=torch.float64)
    draw, gradient = pulled(gapped, theta.expand(5, 5), sure[None], 0.6, slope(vertices))
    assert torch.equal(draw, vertices)
    p, sample = theta.softmax(-1), estimates(gapped, 1, theta, slope, 0.6, seed=10)
    mean = p @ gradient
    variance = p @ (gradient - mean).square()
    assert ((sample.mean(0) - mean).abs() < 4.0 * (variance / DRAWS).sqrt()).all()
    torch.testing.assert_close(sample.var(0), variance, rtol=0.1, atol=0.0)


# What may not be chosen, and bad input


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("estimator", "S"), ESTIMATORS)
def test_illegal_choices_are_as_if_they_were_not_there(estimator, S, dtype):
    g = torch.Generator().manual_seed(11)
    logits, v = (torch.randn(300, 3, 6, dtype=dtype, generator=g) for _ in range(2))
    legal = torch.tensor([True, False, True, True, False, False])
    noise = exponential(S, 300, 3, 6, seed=12, dtype=dtype)
    few = pulled(estimator, logits[..., legal], noise[..., legal], 0.7, v[..., legal])
    # Minus infinity, and the finite stand-in that learners mask with
    for masked in (torch.where(legal, logits, -torch.inf), allow(logits, legal.expand_as(logits))):
        draw, gradient = pulled(estimator, masked, noise, 0.7, v)
        assert draw.isfinite().all() and gradient.isfinite().all()
        assert (draw[..., ~legal] == 0.0).all() and (gradient[..., ~legal] == 0.0).all()
        assert torch.equal(draw[..., legal], few[0])
        torch.testing.assert_close(gradient[..., legal], few[1])
    # One legal choice: sure, and without a gradient. None, as after an end: finite with the stand-in.
    only = torch.arange(6) == 3
    draw, gradient = pulled(estimator, torch.where(only, logits, -torch.inf), noise, 0.7, v)
    assert torch.equal(draw, only.to(dtype).expand_as(draw)) and (gradient == 0.0).all()
    draw, gradient = pulled(estimator, allow(logits, torch.zeros_like(logits, dtype=torch.bool)), noise, 0.7, v)
    assert draw.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize(("estimator", "S"), ESTIMATORS)
def test_extreme_noise_and_logits_leave_no_nan(estimator, S):
    tiny = torch.finfo(torch.float32).tiny
    logits = torch.tensor([0.0, 90.0, -90.0, 1e4, -1e4])
    for seed in range(20):
        noise = torch.tensor([tiny, 1e-20, 1.0, 20.0, 88.0])[torch.rand(S, 5, generator=torch.Generator().manual_seed(seed)).argsort(-1)]
        draw, gradient = pulled(estimator, logits, noise, 0.1, torch.arange(5.0))
        assert draw.sum() == 1.0 and gradient.isfinite().all()


def test_bad_input_is_named():
    noise = exponential(2, 5)
    for estimator in (straight_through, gapped):
        with pytest.raises(ValueError, match="2 samples .* exactly one"):
            estimator(THETA, noise, 1.0)
    with pytest.raises(ValueError, match="1 samples .* at least one to average"):
        gumbel_rao(THETA, noise[:1], 1.0)
    for estimator, S in ESTIMATORS:
        for temperature in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="temperature"):
                estimator(THETA, exponential(S, 5), temperature)


# In a process of its own: the compiler cannot look through the checks of shapes that pytest wraps every function in.
PROGRAM = """
import torch
from tutelage.equations.gumbel import gapped, gumbel_rao, straight_through

torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
logits, v = torch.randn(7, 3, 5, generator=g), torch.randn(7, 3, 5, generator=g)
logits[0, :, 1] = -torch.inf
for estimator, S in ((straight_through, 1), (gumbel_rao, 4), (gapped, 1)):
    compiled = torch.compile(estimator, fullgraph=True, backend=BACKEND)
    noise = torch.empty(S, 7, 3, 5).exponential_(generator=g)
    for temperature in (1.0, 0.9, 0.8):
        results = []
        for function in (estimator, compiled):
            x = logits.clone().requires_grad_()
            draw = function(x, noise, temperature)
            results.append((draw.detach(), torch.autograd.grad(draw, x, v)[0]))
        (eager_draw, eager_gradient), (draw, gradient) = results
        assert torch.equal(draw, eager_draw)
        torch.testing.assert_close(gradient, eager_gradient)
"""


def test_compiled_in_one_graph():
    """With the tracing of torch.compile and of its gradient, without code generation."""
    run = [sys.executable, "-c", PROGRAM.replace("BACKEND", "'aot_eager'")]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
