"""Reports of reward models whose faults are known."""

import pytest
import torch

from tutelage.evaluate.reward_reports import JudgedPairs, reward_report, told


def drawn(N: int = 4000, members: int = 3, seed: int = 0, slope: float = 0.0, scale: float = 1.0) -> JudgedPairs:
    """Pairs whose preferred answer was drawn by Bradley-Terry from the scores divided by `scale`; members see noise of their own."""
    g = torch.Generator().manual_seed(seed)
    score, length = torch.randn(2, N, generator=g), torch.randint(5, 30, (2, N), generator=g).float()
    score = score + slope * length
    swap = torch.rand(N, generator=g) > torch.sigmoid(score[0] - score[1])
    score, length = (torch.where(swap, x.flip(0), x) for x in (score, length))
    members_score = scale * score[:, None] + 0.1 * torch.randn(2, members, N, generator=g)
    sure = ["high" if gap > 1.0 else "low" for gap in (score[0] - score[1]).abs().tolist()]
    return JudgedPairs(members_score[0], members_score[1], length[0], length[1], sure, ["a", "b"] * (N // 2))


def test_a_model_that_is_the_truth():
    found = reward_report(drawn())
    assert found.pairs == 4000 and 0.65 < found.accuracy.estimate < 0.75
    assert found.accuracy.low < found.accuracy.estimate < found.accuracy.high
    assert found.calibration_error < 0.03 and abs(found.length_correlation) < 0.05 and abs(found.length_slope) < 0.01
    assert found.by_confidence["high"].estimate > found.by_confidence["low"].estimate + 0.1
    assert found.by_source["a"].low < found.by_source["b"].estimate < found.by_source["a"].high
    assert found.member_agreement is not None and found.member_agreement > 0.9
    assert "beats 'prefer the" in told(found) and "members agree" in told(found)


def test_a_model_that_is_too_sure_and_one_that_counts_words():
    assert reward_report(drawn(scale=4.0)).calibration_error > 0.1
    long = reward_report(drawn(slope=0.3))
    assert long.length_correlation > 0.8
    assert long.by_length["longer"].estimate > long.by_length["shorter"].estimate
    assert long.longer.estimate == pytest.approx(1.0 - long.shorter.estimate)


def test_a_rule_that_beats_the_model_is_named():
    pairs = drawn(members=1, slope=0.3)
    useless = JudgedPairs(pairs.rejected, pairs.chosen, pairs.chosen_length, pairs.rejected_length)
    text = told(reward_report(useless))
    assert "'prefer the longer' beats the model" in text and "members" not in text
    fair = drawn(members=1)
    few = JudgedPairs(fair.chosen[:, :12], fair.rejected[:, :12], fair.chosen_length[:12], fair.rejected_length[:12])
    assert "is open" in told(reward_report(few))


def test_agreement_of_members_by_hand():
    chosen = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    found = reward_report(JudgedPairs(chosen, torch.zeros(3, 2), torch.tensor([3.0, 4.0]), torch.tensor([3.0, 2.0])))
    assert found.member_agreement == pytest.approx((1.0 + 1 / 3) / 2)
    assert found.by_length.keys() == {"equal", "longer"} and found.accuracy.estimate == 1.0


def test_nothing_or_no_number_is_refused():
    for scores in (torch.zeros(1, 0), torch.full((1, 2), torch.nan)):
        N = scores.shape[1]
        with pytest.raises(ValueError, match=f"scores of {N} pairs were given"):
            reward_report(JudgedPairs(scores, scores, torch.ones(N), torch.ones(N)))
    with pytest.raises(ValueError, match="1 names were given for 2 pairs"):
        reward_report(JudgedPairs(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2), torch.ones(2), source=["a"]))
