"""What all stages share: the rate, the step, the order of rows."""

import pytest
import torch
from torch import Generator, nn

from tutelage.learn.language import descent
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, pieces, set_dropout, shared, spawned
from tutelage.nets import ranks


def test_the_rate_by_hand():
    linear = Optimization(schedule="linear", final_share=0.0, warmup=2)
    assert [round(linear.rate(1.0, i, 6), 4) for i in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert Optimization(schedule="constant").rate(2.0, 5, 6) == 2.0
    assert Optimization(schedule="linear", final_share=0.0, warmup=1).rate(1.0, 0.97, 6) == 1.0  # updates of PPO are fractions
    cosine = Optimization(schedule="cosine", final_share=0.1)
    assert cosine.rate(1.0, 0, 4) == 1.0 and cosine.rate(1.0, 2, 4) == pytest.approx(0.55) and cosine.rate(1.0, 4, 4) == pytest.approx(0.1)


def test_a_step_is_adams_and_continues_to_the_same_bits():
    def descend(steps: int, state: object = None) -> tuple[nn.Parameter, Descent]:
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        descent = Descent({"w": weight}, 0.1, Optimization(schedule="constant", max_grad_norm=1e9))
        if state is not None:
            descent.load(state)  # type: ignore[arg-type]
        for i in range(steps):
            (weight.square().sum()).backward()
            descent.step(i, 10)
        return weight, descent

    weight, _ = descend(1)
    assert torch.allclose(weight, torch.tensor([0.9, -1.9]), atol=1e-4)  # Adam's first step is the rate
    whole, _ = descend(5)
    _, half = descend(3)
    rest, _ = descend(2, half.state())
    assert torch.equal(whole, rest)


def test_a_gradient_that_is_not_finite_changes_nothing():
    weight = nn.Parameter(torch.ones(2))
    descent = Descent({"w": weight}, 0.1, Optimization())
    (weight.sum() * float("nan")).backward()
    with pytest.raises(TrainingError, match="the gradient of update 3 is not finite; nothing was changed"):
        descent.step(3, 10)
    assert torch.equal(weight, torch.ones(2))


def test_weights_of_another_net_are_refused():
    descent = Descent({"w": nn.Parameter(torch.ones(2))}, 0.1, Optimization())
    with pytest.raises(ValueError, match="those of another net: v"):
        descent.load({"weights": {"v": torch.ones(2)}, "moments": {}})


@pytest.mark.parametrize("lengths", [None, [7, 1, 3, 9, 2, 8, 4, 6, 5, 10]])
def test_a_pass_gives_every_row_once_and_is_found_again(lengths: list[int] | None):
    make = lambda: Passes(10, 4, Generator().manual_seed(3), lengths)
    passes = make()
    first = [passes.take() for _ in range(passes.per_pass)]
    assert sorted(row for batch in first for row in batch) == list(range(10)) and passes.per_pass == 3
    second = [passes.take() for _ in range(2)]
    saved = passes.state()
    other = make()
    other.load(saved)
    assert [other.take() for _ in range(4)] == [passes.take() for _ in range(4)] and first[0] != second[0]


def test_nothing_to_learn_from_is_said():
    with pytest.raises(TrainingError, match="no rows were given"):
        Passes(0, 4, Generator())
    with pytest.raises(TrainingError, match="batch_size=0 was given"):
        Passes(3, 0, Generator())


def test_children_of_a_generator_differ_and_pieces_are_whole():
    parent = Generator().manual_seed(0)
    assert spawned(parent).initial_seed() != spawned(parent).initial_seed()
    assert [list(part) for part in pieces(range(5), 2)] == [[0, 1], [2, 3], [4]] and [list(p) for p in pieces(range(2), None)] == [[0, 1]]


@pytest.mark.parametrize(("rows", "microbatch"), [(17, 8), (17, 1), (17, None), (1, None), (2, 1), (3, 2)])
def test_all_processes_have_as_many_pieces_and_every_row_weighs_once(monkeypatch: pytest.MonkeyPatch, rows: int, microbatch: int | None):
    monkeypatch.setattr(ranks, "ranks", lambda: 2)
    monkeypatch.setattr(descent, "ranks", lambda: 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        found.append(shared(range(rows), microbatch))
    assert len(found[0]) == len(found[1]) and all(len(part) for own in found for part, _ in own)
    assert sorted(row for own in found for part, weight in own for row in part if weight) == list(range(rows))
    assert all(weight in (0.0, 1.0) and len(part) <= (microbatch or rows) for own in found for part, weight in own)


def test_dropout_is_found_wherever_it_is_kept():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.MultiheadAttention(2, 1, dropout=0.2))
    set_dropout(net, 0.0)
    assert net[1].p == 0.0 and net[2].dropout == 0.0
