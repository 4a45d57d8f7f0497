import itertools
import math
from statistics import pstdev

import pytest
import torch
from torch import Tensor

from tutelage.feedback.query import FeedbackError
from tutelage.feedback.samplers import SAMPLERS, disagreement, disagreement_k_center, entropy, entropy_k_center, k_center, uniform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def slow_top(scores: list[float], count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda n: -scores[n])[:count]


def slow_disagreement(p: Tensor) -> list[float]:
    return [pstdev([float(p[e, n]) for e in range(p.shape[0])]) for n in range(p.shape[1])]


def slow_entropy(p: Tensor) -> list[float]:
    h = lambda x: -x * math.log(x) - (1 - x) * math.log(1 - x)
    return [sum(h(float(p[e, n])) for e in range(p.shape[0])) / p.shape[0] for n in range(p.shape[1])]


def slow_k_center(features: Tensor, count: int, labeled: list[Tensor]) -> list[int]:
    centers, chosen = list(labeled), []
    for _ in range(count):
        best, farthest = None, -1.0
        for n in range(len(features)):
            distance = min((math.dist(features[n].tolist(), c.tolist()) for c in centers), default=math.inf)
            if n not in chosen and distance > farthest:
                best, farthest = n, distance
        chosen.append(best)
        centers.append(features[best])
    return chosen


def test_uniform_draws_without_replacement_and_every_set_equally_often():
    g = generator()
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for _ in range(3000):
        i, j = uniform(4, 2, g).tolist()
        counts[min(i, j), max(i, j)] += 1
    assert all(abs(n - 500) < 110 for n in counts.values())  # five standard deviations
    assert sorted(uniform(5, 5, g).tolist()) == [0, 1, 2, 3, 4]


def test_uniform_depends_on_its_generator_only():
    torch.manual_seed(1)
    a = uniform(100, 10, generator(3))
    torch.manual_seed(2)
    assert torch.equal(a, uniform(100, 10, generator(3)))
    assert not torch.equal(a, uniform(100, 10, generator(4)))


def test_disagreement_by_hand():
    # Standard deviations .4, 0, .1: the undecided pair 1 is agreed upon, so it is the last to be asked about.
    p = torch.tensor([[0.1, 0.5, 0.8], [0.9, 0.5, 1.0]])
    assert disagreement(p, 3).tolist() == [0, 2, 1]
    assert entropy(p, 3).tolist() == [1, 0, 2]


def test_equals_go_to_the_lower_index():
    assert disagreement(torch.full((3, 50), 0.5), 4).tolist() == [0, 1, 2, 3]
    assert entropy(torch.full((3, 50), 0.5), 4).tolist() == [0, 1, 2, 3]


def test_certain_members_have_no_entropy():
    assert entropy(torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.5, 1.0]]), 2).tolist() == [1, 0]


def test_scores_against_slow_loops():
    p = probabilities(3, 40)
    assert disagreement(p, 12).tolist() == slow_top(slow_disagreement(p), 12)
    assert entropy(p, 12).tolist() == slow_top(slow_entropy(p), 12)


@pytest.mark.parametrize("known", [0, 1, 5])
def test_k_center_against_a_slow_loop(known: int):
    features = torch.randn(30, 7, generator=generator(1), dtype=torch.float64)
    labeled = 2.0 * torch.randn(known, 7, generator=generator(2), dtype=torch.float64)
    assert k_center(features, 9, labeled).tolist() == slow_k_center(features, 9, list(labeled))


def test_k_center_by_hand():
    features = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    assert k_center(features, 3).tolist() == [0, 2, 3]
    assert k_center(features, 3, torch.tensor([[10.0]])).tolist() == [0, 3, 1]


def test_k_center_never_chooses_twice_where_all_coincide():
    features = torch.full((300, 40), 1000.1)
    labeled = features[:60]
    assert sorted(k_center(features, 300, labeled).tolist()) == list(range(300))


def test_k_center_tells_a_copy_of_a_labeled_pair_from_a_near_one():
    # |a|^2 + |b|^2 - 2ab would put all of them at rounding distances, of which any may be the largest.
    labeled = 1000.0 * torch.randn(60, 60, generator=generator())
    near = labeled.clone()
    near[37, 0] += 0.01
    assert k_center(near, 1, labeled).tolist() == [37]


@pytest.mark.parametrize(("hybrid", "score"), [(disagreement_k_center, slow_disagreement), (entropy_k_center, slow_entropy)])
def test_hybrids_cover_the_top_half_only(hybrid, score):
    p = probabilities(3, 20)
    features = torch.randn(20, 5, generator=generator(1), dtype=torch.float64)
    labeled = torch.randn(2, 5, generator=generator(2), dtype=torch.float64)
    half = slow_top(score(p), 10)
    expected = [half[i] for i in slow_k_center(features[half], 4, list(labeled))]
    assert hybrid(p, features, 4, labeled).tolist() == expected
    assert set(hybrid(p, features, 10, labeled).tolist()) == set(half)
    assert len(set(hybrid(p, features, 15, labeled).tolist())) == 15  # more than half are wanted


def test_stacked_seeds_choose_as_if_alone():
    p, features, labeled = probabilities(4, 3, 20), probabilities(4, 20, 6, seed=1), probabilities(4, 5, 6, seed=2)
    for name, sampler in SAMPLERS.items():
        if name == "uniform":
            continue
        given = {"probabilities": p, "features": features, "labeled": labeled}
        stacked = sampler.choose(count=6, **{key: given[key] for key in sampler.inputs})
        assert stacked.shape == (4, 6)
        for r in range(4):
            alone = sampler.choose(count=6, **{key: given[key][r] for key in sampler.inputs})
            assert torch.equal(stacked[r], alone), name


def test_the_table_names_every_sampler_and_its_inputs():
    given = {
        "candidates": 20,
        "generator": generator(),
        "probabilities": probabilities(3, 20),
        "features": probabilities(20, 6),
        "labeled": None,
    }
    for name, sampler in SAMPLERS.items():
        assert sampler.choose.__name__ == name
        assert len(set(sampler.choose(count=6, **{key: given[key] for key in sampler.inputs}).tolist())) == 6


def test_no_more_than_there_are_and_none_of_none():
    with pytest.raises(FeedbackError, match="7 queries shall be chosen from 6 candidates"):
        disagreement(probabilities(3, 6), 7)
    with pytest.raises(FeedbackError, match="7 queries"):
        uniform(6, 7, generator())
    with pytest.raises(FeedbackError, match="7 queries"):
        k_center(probabilities(6, 2), 7)
    with pytest.raises(FeedbackError, match="7 queries"):
        entropy_k_center(probabilities(3, 6), probabilities(6, 2), 7)
    assert k_center(probabilities(6, 2), 0).shape == (0,)


@pytest.mark.parametrize("name", ["disagreement", "entropy", "k_center"])
def test_nan_is_never_the_most_wanted(name: str):
    p = probabilities(3, 6)
    p[1, 2] = math.nan
    with pytest.raises(FeedbackError, match="contain NaN or infinity"):
        SAMPLERS[name].choose(p, count=2)
