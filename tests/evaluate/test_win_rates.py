"""Win rates: ties, intervals, orders and lengths, where the answer is known."""

import pytest
import torch

from tutelage.evaluate.win_rates import Verdicts, agreement, in_both_orders, outcomes, win_rate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_outcomes_and_their_rate_by_hand():
    outcome = outcomes(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 4.0, -1.0]))
    assert outcome.tolist() == [1.0, 0.5, 0.0, 1.0]
    assert outcomes(torch.tensor([1.0, 2.0]), torch.tensor([0.6, 1.0]), band=0.5).tolist() == [0.5, 1.0]
    found = win_rate(outcome, generator())
    assert (found.wins, found.ties, found.losses, found.rate) == (2, 1, 1, 0.625)
    assert found.wilson.low < found.bootstrap.estimate == 0.625 < found.wilson.high
    assert found == win_rate(outcome, generator()) and found.controlled is None and found.warning == ""


def test_intervals_cover_what_they_say():
    g, covered = generator(1), [0, 0]
    for _ in range(200):
        found = win_rate((torch.rand(120, generator=g) < 0.7).float(), g, resamples=200)
        for i, interval in enumerate((found.wilson, found.bootstrap)):
            covered[i] += interval.low <= 0.7 <= interval.high
    assert all(180 <= count <= 199 for count in covered)


def test_a_win_by_length_is_warned_of():
    g = generator(2)
    longer = torch.rand(4000, generator=g) < 0.9
    win = (torch.rand(4000, generator=g) < torch.where(longer, 0.9, 0.1)).float()
    found = win_rate(win, g, torch.where(longer, 30.0, 12.0), torch.full((4000,), 20.0))
    assert found.controlled is not None
    assert found.rate > 0.75 and found.controlled.by_difference == pytest.approx(0.5, abs=0.1) and found.controlled.effect > 1.0
    assert "length explains the rest" in found.warning
    fair = win_rate((torch.rand(4000, generator=g) < 0.8).float(), g, torch.where(longer, 30.0, 12.0), torch.full((4000,), 20.0))
    assert fair.warning == ""


@pytest.mark.parametrize("outcome", [torch.zeros(0), torch.tensor([0.5, 1.2]), torch.tensor([-0.1])])
def test_what_is_no_outcome_is_refused(outcome: torch.Tensor):
    with pytest.raises(ValueError, match=r"outcomes were given; at least one, each in \[0, 1\], was expected"):
        win_rate(outcome, generator())


class Biased:
    """Prefers the longer text, and whatever comes first by `bias` nats."""

    def __init__(self, bias: float) -> None:
        self.bias = bias

    def prefers_first(self, prompts, first, second) -> torch.Tensor:
        return torch.sigmoid(torch.tensor([len(a) - len(b) + self.bias for a, b in zip(first, second, strict=True)]))


def test_both_orders_take_out_a_preference_for_a_place():
    prompts, ours, theirs = ["p"] * 3, ["aaa", "a", "aa"], ["a", "aaa", "aa"]
    fair, biased = (in_both_orders(Biased(bias), prompts, ours, theirs) for bias in (0.0, 2.5))
    assert fair.position_bias == pytest.approx(0.0, abs=1e-6)
    assert fair.consistent == 1.0 and biased.consistent == 0.0  # lengths differ by 2 at most: the place decides every time
    assert biased.position_bias > 0.3
    truth = torch.tensor([1.0, 0.0, 0.5])
    assert biased.ours_first[1] > 0.5  # in one order the first answer wins although it is worse
    assert agreement(biased.outcome, truth).estimate > agreement(biased.ours_first, truth).estimate
    assert biased.outcome[2].item() == pytest.approx(0.5)


def test_a_judge_who_answers_too_little_is_refused():
    class Short(Biased):
        def prefers_first(self, prompts, first, second) -> torch.Tensor:
            return torch.tensor([0.5])

    with pytest.raises(ValueError, match=r"the judge answered \(1,\) for 2 pairs; one probability for each was expected"):
        in_both_orders(Short(0.0), ["p", "q"], ["a", "b"], ["b", "a"])


def test_agreement_counts_a_tie_as_half():
    assert agreement(torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.9])).estimate == pytest.approx(2.5 / 4)
    assert Verdicts(torch.tensor([0.8]), torch.tensor([0.2])).outcome.item() == pytest.approx(0.5)
