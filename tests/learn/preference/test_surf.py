"""SURF: what is taken for a label, what a crop may be, and what one step of the fit sees."""

import dataclasses

import pytest
import torch
from torch import Generator, Tensor

from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Transition
from tutelage.experience.trees import pack, unpack
from tutelage.feedback.query import FeedbackError
from tutelage.learn.preference.surf import Config, Surf, pseudo_labels, temporal_crop
from tutelage.rewards import learned
from tutelage.rewards.comparisons import Rows
from tutelage.rewards.learned import RewardEnsemble

R, E, H, D, A = 2, 3, 6, 3, 1
BOTH = Config(unlabeled_ratio=4, unlabeled_batch=2, threshold=0.6, unlabeled_weight=0.5, crop_shortest=4, crop_longest=8)


def generators(salt: int = 0) -> list[Generator]:
    return [Generator().manual_seed(100 * salt + seed) for seed in range(R)]


def ensemble() -> RewardEnsemble:
    made = RewardEnsemble(learned.Config(members=E, hidden=(8,), bounded=False), D, A, generators(1))
    made.parameters.weights["weight_1"] *= 6.0  # with opinions
    return made


def replay(steps: int = 80, capacity: int = 100) -> Replay:
    made, g = Replay(capacity, R, 1, (D,), A), Generator().manual_seed(0)
    observation = torch.randn(R, 1, D, generator=g)
    for t in range(steps):
        following, no = torch.randn(R, 1, D, generator=g), torch.zeros(R, 1, dtype=torch.bool)
        end = torch.full((R, 1), t % 20 == 19)
        made.add(Transition(observation, torch.randn(R, 1, A, generator=g), observation[..., 0], following, following, no, end, ~no))
        observation = following
    return made


def rows(labeled: int = 5, steps: int = H + 4) -> Rows:
    g = Generator().manual_seed(3)
    x = torch.randn(R, E, labeled, 2, steps, D + A, generator=g)
    return Rows(
        x, torch.rand(R, E, labeled, generator=g).round(), torch.full((R, E, labeled), 1.0 / labeled), torch.zeros(R, E, labeled, 2)
    )


def test_both_clips_of_a_pair_are_cut_to_one_length_and_start_where_they_like():
    mask = temporal_crop((R, E, 4000), 60, 45, 55, generators())
    length = mask.sum(-1)
    assert torch.equal(length[..., 0], length[..., 1])
    assert sorted(length.unique().tolist()) == list(range(45, 56))
    for value in range(45, 56):
        assert float((length[..., 0] == value).float().mean()) == pytest.approx(1.0 / 11.0, abs=0.01)
    start = mask.int().argmax(-1)
    ends = 60 - mask.flip(-1).int().argmax(-1)
    assert torch.equal(ends - start, length)  # one piece
    assert float((start[..., 0] != start[..., 1]).float().mean()) > 0.8
    longest = start[length == 55]
    assert sorted(longest.unique().tolist()) == list(range(6))
    assert not torch.equal(mask[:, 0], mask[:, 1])  # members cut for themselves


def test_a_member_that_is_sure_labels_and_nothing_flows_through_it():
    logit = torch.tensor([-5.0, -0.1, 0.1, 5.0], requires_grad=True)
    label, sure = pseudo_labels(torch.sigmoid(logit), 0.99)
    assert label.tolist() == [0.0, 0.0, 1.0, 1.0] and sure.tolist() == [True, False, False, True]
    assert not label.requires_grad


def test_the_sum_over_rows_is_the_papers_loss():
    made, held = ensemble(), replay()
    surf = Surf(BOTH, H, generators(2))
    surf.collect(held, [6, 6], 10)
    augment = surf.augment(made, held)
    assert augment is not None
    given = rows()
    seen = augment(given)
    assert seen.mask is not None and seen.x.shape[2] == 15
    assert torch.equal(seen.x[:, :, :5], given.x) and torch.equal(seen.label[:, :, :5], given.label)
    _, loss, _ = made.gradient(seen)

    def rewards(x: Tensor, seed: int, member: int) -> Tensor:
        net = {name: weight[seed, member] for name, weight in made.parameters.weights.items()}
        hidden = torch.nn.functional.leaky_relu(x @ net["weight_0"] + net["bias_0"], 0.01)
        return (hidden @ net["weight_1"] + net["bias_1"]).squeeze(-1)

    for seed in range(R):
        for member in range(E):
            labeled, unlabeled = torch.zeros(()), torch.zeros(())
            for n in range(15):
                x, mask = seen.x[seed, member, n], seen.mask[seed, member, n]
                logit = rewards(x[0], seed, member)[mask[0]].sum() - rewards(x[1], seed, member)[mask[1]].sum()
                if n < 5:
                    labeled += bradley_terry_loss(logit, given.label[seed, member, n]) / 5
                else:  # judged as a rater would see it: the middle six of the ten steps that are kept
                    p = torch.sigmoid(rewards(x[0, 2:8], seed, member).sum() - rewards(x[1, 2:8], seed, member).sum())
                    assert seen.label[seed, member, n] == float(p > 0.5)
                    unlabeled += bradley_terry_loss(logit, seen.label[seed, member, n]) * float(max(p, 1.0 - p) > 0.6) / 10
            assert loss[seed, member].item() == pytest.approx(float(labeled + 0.5 * unlabeled), rel=1e-4)


def test_unlabeled_pairs_are_whole_clips_of_one_episode_and_leave_with_the_memory():
    held = replay(80)
    surf = Surf(BOTH, H, generators(2))
    surf.collect(held, [3, 2], 10)
    assert [len(own) for own in surf.places] == [12, 8]
    for own in surf.places:
        assert (own[..., 0] % 20 + 10 <= 20).all()  # H + 2 x 2 steps before the episode's end
    surf.collect(held, [0, 0], 10)
    assert [len(own) for own in surf.places] == [12, 8]
    g = Generator().manual_seed(1)
    no = torch.zeros(R, 1, dtype=torch.bool)
    for _ in range(110):  # a hundred steps are kept: everything of then is forgotten
        seen = torch.randn(R, 1, D, generator=g)
        held.add(Transition(seen, torch.zeros(R, 1, A), seen[..., 0], seen, seen, no, no, ~no))
    augment = surf.augment(ensemble(), held)
    assert augment is not None and augment(rows()).x.shape[2] == 5


def test_what_is_drawn_is_what_the_replay_holds():
    held = replay(60, capacity=40)  # the ring has come round
    surf = Surf(dataclasses.replace(BOTH, crop_longest=0, crop_shortest=0), H, generators(2))
    surf.collect(held, [4, 4], 10)
    made = ensemble()
    augment = surf.augment(made, held)
    assert augment is not None
    seen = augment(rows(5, H))
    everything = torch.cat([held.observations(), held.actions()], -1)
    for seed in range(R):
        for clip in seen.x[seed, 0, 5:].flatten(0, 1):
            starts = (everything[seed] == clip[0]).all(-1).nonzero().flatten()
            assert len(starts) == 1
    assert seen.mask is None


def test_without_either_half_a_fit_sees_nothing_new():
    assert Surf(Config(), H, generators()).augment(ensemble(), replay()) is None
    only = Surf(Config(crop_shortest=3, crop_longest=5), H, generators())
    only.collect(replay(), [4, 4], 10)
    augment = only.augment(ensemble(), replay())
    assert only.margin == 0 and augment is not None and augment(rows(5, H)).x.shape[2] == 5


def test_what_another_seed_draws_changes_nothing():
    held, made = replay(), ensemble()
    surf, again = (Surf(BOTH, H, generators(2)) for _ in range(2))
    for one in (surf, again):
        one.collect(held, [3, 3], 10)
    first = surf.augment(made, held)
    assert first is not None
    for _ in range(5):  # a fit that takes longer
        first(rows())
    second = again.augment(made, held)
    assert second is not None
    second(rows())
    third, fourth = surf.augment(made, held), again.augment(made, held)
    assert third is not None and fourth is not None
    one, two = third(rows()), fourth(rows())
    assert torch.equal(one.x, two.x) and one.mask is not None and two.mask is not None and torch.equal(one.mask, two.mask)


def test_saved_and_loaded_it_draws_the_same():
    held, surf, again = replay(), Surf(BOTH, H, generators(2)), Surf(BOTH, H, generators(2))
    surf.collect(held, [3, 3], 10)
    again.load(unpack(*pack(surf.state())))
    assert all(torch.equal(one, two) for one, two in zip(surf.places, again.places, strict=True))


def test_crops_without_a_length_are_refused():
    with pytest.raises(FeedbackError, match="crops of 0 to 55 steps were asked for"):
        Config(crop_longest=55)
    with pytest.raises(FeedbackError, match="crops of 56 to 55 steps"):
        Config(crop_shortest=56, crop_longest=55)
    assert Config(crop_shortest=45, crop_longest=55).margin(50) == 5 and Config(crop_shortest=35, crop_longest=45).margin(50) == 0
