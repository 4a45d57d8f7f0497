"""QPA, RUNE, STAR and RIME: each switch changes what its paper says, and nothing else does."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from tests.learn.preference.test_pebble import QUICK, Classroom, equal
from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.replay import Replay
from tutelage.experience.trajectory import Batch, Transition
from tutelage.feedback.query import FeedbackError
from tutelage.learn.deep import sac
from tutelage.learn.preference import rime, student
from tutelage.learn.preference.rime import Rime, trust
from tutelage.learn.preference.star import Conservative
from tutelage.rewards import learned
from tutelage.rewards.comparisons import Comparisons
from tutelage.rewards.learned import RewardEnsemble

pytestmark = pytest.mark.usefixtures("unchecked")


def with_student(**changes: float) -> student.Config:
    return dataclasses.replace(student.Config(), **changes)


class Batches:
    """What the SAC of a classroom is given."""

    def __init__(self, room: Classroom) -> None:
        self.given: list[Batch] = []
        inner = room.pebble.sac.update_on
        room.pebble.sac.update_on = lambda batch: (self.given.append(batch), inner(batch))[1]


def test_with_every_switch_off_a_step_is_sacs_own(tmp_path: Path):
    room = Classroom(tmp_path, dataclasses.replace(QUICK, student=with_student(disagreement_decay=0.5, softness=3.0)))
    calls: list[int] = []
    inner = room.pebble.sac.improve
    room.pebble.sac.improve = lambda replay: (calls.append(1), inner(replay))[1]
    room.run(90)
    assert len(calls) == 60 + QUICK.updates_after_reset
    assert equal(room, Classroom(tmp_path / "plain").run(90))


def test_rune_pays_for_disagreement_less_and_less_and_only_once_there_is_a_model(tmp_path: Path):
    config = dataclasses.replace(QUICK, student=with_student(disagreement_bonus=0.5, disagreement_decay=0.1))
    room = Classroom(tmp_path, config)
    batches = Batches(room)
    room.run(69)
    memory = room.replay.reward.flatten(1)
    for seed in range(2):  # before the first answers a batch holds what memory holds
        assert torch.isin(batches.given[-1].reward[seed], memory[seed]).all()
    room.run(16)  # 15 steps after the 70th
    batch, ensemble = batches.given[-1], room.pebble.ensemble
    spread = ensemble.normalized(ensemble.member_rewards(batch.observation, batch.action)).std(1, unbiased=False)
    expected = ensemble.reward(batch.observation, batch.action) + 0.5 * 0.9**15 * spread
    torch.testing.assert_close(batch.reward, expected, atol=1e-5, rtol=1e-4)
    relabeled = ensemble.reward(room.replay.observations(), room.replay.actions())
    torch.testing.assert_close(room.replay.reward[:, : relabeled.shape[1]], relabeled, atol=1e-5, rtol=1e-4)  # memory is not touched


def test_qpa_takes_its_share_from_the_newest_episodes(tmp_path: Path):
    config = dataclasses.replace(QUICK, recent_episodes=1, student=with_student(recent_share=0.25))
    room = Classroom(tmp_path, config, seeds=(0,)).run(460)  # two episodes of 200 steps have ended
    assert room.replay.newest_episodes(1) == [260] and room.replay.newest_episodes(2) == [460] and room.replay.newest_episodes(9) == [460]
    batches = Batches(room)
    held = room.replay.observations()[0]
    room.run(40)
    recent = 0
    for batch in batches.given:
        where = torch.cat([(held == row).all(-1).nonzero().flatten()[:1] for row in batch.observation[0, 12:]])
        recent += len(where)
        assert (where >= 200).all()  # the last quarter of the sixteen
        older = [(held == row).all(-1).nonzero().flatten()[:1] for row in batch.observation[0, :12]]
        assert len(older) == 12
    assert recent > 100
    everywhere = torch.cat([(held == row).all(-1).nonzero().flatten()[:1] for batch in batches.given for row in batch.observation[0, :12]])
    assert float((everywhere < 200).float().mean()) == pytest.approx(200 / 480, abs=0.1)


R, N, D, A = 2, 5, 3, 2


def conservative(pull: float = 0.1) -> Conservative:
    generators = [Generator().manual_seed(i) for i in range(R)]
    return Conservative(pull, 6.0, (D, A), sac.Config(hidden=(8,), learning_rate=0.01, target_rate=0.5), generators, torch.device("cpu"))


def transitions() -> tuple[Batch, Tensor, Tensor]:
    g = Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    terminated = torch.tensor([[True, False, False, False, False]] * R)
    batch = Batch(draw(R, N, D), draw(R, N, A), draw(R, N), draw(R, N, D), terminated, torch.ones(R, N))
    return batch, draw(R, N, A), torch.tensor([[False, False, True, True, True]] * R)


def test_stars_critic_bootstraps_from_what_was_done_next():
    made, (batch, next_action, known) = conservative(), transitions()
    weights, target = made.train.weights("conservative"), made.train.targets["conservative"].weights
    target["bias_1"] += 1.0
    y = batch.reward + 0.99 * torch.where(batch.terminated, 0.0, made.value(target, batch.next_observation, next_action))
    expected: list[Tensor] = []
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    for seed in range(R):
        rows = [0, 2, 3, 4]  # of the second the next action is not known, and its future is not nothing
        x = torch.cat([batch.observation, batch.action], -1)[seed, rows]
        hidden = torch.relu(x @ leaves["weight_0"][seed] + leaves["bias_0"][seed])
        error = (hidden @ leaves["weight_1"][seed] + leaves["bias_1"][seed]).squeeze(-1) - y[seed, rows]
        expected.append(0.5 * error.square().mean())
    gradients = torch.autograd.grad(torch.stack(expected).sum(), list(leaves.values()))
    group = made.train.groups["conservative"]
    group.optimizer.step = lambda gradient, active=None: seen.append(gradient)
    seen: list[Tensor] = []
    made.update(batch, next_action, known)
    torch.testing.assert_close(seen[0], group.parameters.gather(gradients), atol=1e-6, rtol=1e-4)


def test_the_actor_pays_the_pull_and_nobody_else_does(tmp_path: Path):
    made = sac.SAC(
        sac.Config(hidden=(8,), batch_size=8),
        Classroom(tmp_path).game.observation_space,
        Classroom(tmp_path).game.action_space,
        [Generator().manual_seed(i) for i in range(R)],
    )
    held = Conservative(0.3, 6.0, (3, 1), made.config, made.train.generators, made.device)
    g = Generator().manual_seed(5)
    batch = Batch(
        torch.randn(R, 8, 3, generator=g), torch.rand(R, 8, 1, generator=g), torch.randn(R, 8, generator=g),
        torch.randn(R, 8, 3, generator=g), torch.zeros(R, 8, dtype=torch.bool), torch.ones(R, 8),
    )  # fmt: skip
    noise = torch.randn(R, 2, 8, 1, generator=g)
    leaves = {name: group.parameters.leaves for name, group in made.train.groups.items()}

    def gradients() -> dict[str, list[Tensor]]:
        loss, _ = made._loss([leaves["critic"], leaves["actor"], leaves["temperature"]], made.train.targets["critic"].weights, batch, noise)
        return {name: list(torch.autograd.grad(loss.sum(), list(own.values()), retain_graph=True)) for name, own in leaves.items()}

    plain = gradients()
    made.pull = held.pull
    pulled = gradients()
    for name in ("critic", "temperature"):
        assert all(torch.equal(one, two) for one, two in zip(plain[name], pulled[name], strict=True))
    from tutelage.nets.tanh_gaussian import tanh_gaussian

    action, logp = tanh_gaussian(made.actor(leaves["actor"], batch.observation), noise[:, 0])
    values = held.critic(held.train.weights("conservative"), torch.cat([batch.observation, action], -1)).squeeze(-1)
    extra = torch.autograd.grad((0.3 * (logp - values / 6.0)).mean(1).sum(), list(leaves["actor"].values()))
    for one, two, difference in zip(plain["actor"], pulled["actor"], extra, strict=True):
        torch.testing.assert_close(two - one, difference, atol=1e-5, rtol=1e-3)
    assert max(float(x.abs().max()) for x in extra) > 1e-3


def test_star_trains_and_refuses_a_compiled_learner(tmp_path: Path):
    config = dataclasses.replace(QUICK, student=with_student(pull=0.1))
    room = Classroom(tmp_path, config).run(90)
    held = room.pebble.student.conservative
    assert held is not None and held.train.groups["conservative"].optimizer.steps.tolist() == [24.0, 24.0]  # since it was reset at step 70
    assert "conservative" in room.pebble.frozen()
    again = Classroom(tmp_path, config).load(room.state())
    assert equal(room.run(20), again.run(20))
    with pytest.raises(FeedbackError, match=r"student\.pull changes what SAC's actor pays"):
        Classroom(tmp_path, dataclasses.replace(config, sac=dataclasses.replace(config.sac, compile=True)))


def test_next_actions_are_those_of_the_next_slot_where_there_is_one(tmp_path: Path):
    room = Classroom(tmp_path, seeds=(0,)).run(210)
    columns = torch.arange(210)[None]
    action, known = room.replay.next_actions(columns)
    done = room.replay.actions()[0]
    expected = [t not in (199, 209) for t in range(210)]  # an episode's last step, and the newest
    assert known[0].tolist() == expected
    for t in range(209):
        if expected[t]:
            assert torch.equal(action[0, t], done[t + 1])


def test_trust_by_hand():
    loss = torch.tensor([0.1, 0.5, 2.0, 6.8, 7.5])
    mean = sum((0.1, 0.5, 2.0, 6.8, 7.5)) / 5
    variance = sum((x - mean) ** 2 for x in (0.1, 0.5, 2.0, 6.8, 7.5)) / 5
    bound = -math.log(0.5) + 0.25 + min(0.1 * variance, 3.0)
    assert 0.5 < bound < 2.0
    trusted, flipped = trust(loss, 0.5, 0.1)
    assert trusted.tolist() == [True, True, False, False, False]
    assert flipped.tolist() == [False, False, False, False, True]  # -ln 0.001 = 6.9
    wide, none = trust(loss, 0.001, 3.0)  # the allowance is 3 at most: 6.9 + 3
    assert wide.all() and not none.any()


def sifted(probability: Tensor, label: Tensor, largest: float, fits: int) -> tuple[Comparisons, Rime]:
    count = label.shape[1]
    made = RewardEnsemble(learned.Config(hidden=(4,)), D, A, [Generator().manual_seed(0)])
    made.fits += fits
    sieve = Rime(rime.Config(fits=10), made)
    sieve.largest = [largest]
    zeros = torch.zeros(1, count, 2, 4, D), torch.zeros(1, count, 2, 4, A)
    weight = torch.tensor([[1.0] * (count - 1) + [0.0]])
    given = Comparisons(*zeros, label.clone(), weight, torch.arange(count)[None], torch.zeros(1, count, 2), weight > 0)
    believed = sieve.sift(given, probability)
    assert torch.equal(given.label, label) and torch.equal(given.weight, weight)  # flips are for this fit only
    return believed, sieve


def test_labels_are_trusted_left_out_or_flipped():
    probability = torch.tensor([[0.9, 0.6, 0.2, 0.0005, 0.5]])
    label = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]])  # the last one pads
    believed, sieve = sifted(probability, label, math.inf, 0)
    assert torch.equal(believed.label, label) and believed.weight.tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0]]
    assert sieve.largest[0] == pytest.approx(-math.log(0.0005), rel=1e-4)
    believed, sieve = sifted(probability, label, 1.0, 10)
    loss = bradley_terry_loss(torch.logit(probability[0, :4].double()), label[0, :4].double())
    bound = 0.5 + min(float(loss.var(unbiased=False)), 3.0)
    assert 0.92 < bound < 6.9
    assert believed.weight.tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0]] and believed.label.tolist() == [[1.0, 0.0, 0.0, 0.0, 1.0]]
    assert sieve.largest[0] == pytest.approx(-math.log(0.4), rel=1e-4)
    believed, _ = sifted(torch.tensor([[0.9, 0.9, 0.9, 0.05, 0.5]]), torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]]), 1.0, 10)
    assert believed.weight.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]]


def test_a_warm_model_says_what_is_new(tmp_path: Path):
    room = Classroom(tmp_path, dataclasses.replace(QUICK, rime=rime.Config(warm_start_steps=400))).run(60)
    reward = room.pebble.entropy.refresh(room.replay.observations())
    room.pebble.rime.warm_start(room.replay, reward)
    predicted = room.pebble.ensemble.reward(room.replay.observations(), room.replay.actions())
    for seed in range(2):
        assert float(torch.corrcoef(torch.stack([predicted[seed], reward[seed]]))[0, 1]) > 0.6


def test_rime_ends_and_goes_on_to_the_same_bits(tmp_path: Path):
    config = dataclasses.replace(QUICK, rime=rime.Config(fits=3, warm_start_steps=3))
    room = Classroom(tmp_path, config).run(85)
    assert all(math.isfinite(x) for x in room.pebble.rime.largest)
    again = Classroom(tmp_path, config).load(room.state())
    assert again.pebble.rime.largest == room.pebble.rime.largest and equal(room.run(20), again.run(20))


@pytest.mark.parametrize(("sizes", "expected"), [("constant", [6, 4, 4]), ("falling", [6, 4, 4]), ("rising", [6, 4, 4])])
def test_session_sizes(tmp_path: Path, sizes: str, expected: list[int]):
    config = dataclasses.replace(QUICK, labels=100, session_sizes=sizes)
    room = Classroom(tmp_path, config, seeds=(0,))
    room.run(140)
    asked = [now[0] - before for (_, now), before in zip(room.sessions, [0, *[own[0] for _, own in room.sessions]], strict=False)]
    total = 2000
    factors = {
        "constant": [1.0] * 3,
        "falling": [(total - t) / total for t in (70, 100, 130)],
        "rising": [total / (total - t + 1) for t in (70, 100, 130)],
    }
    assert asked == [6, *(round(4 * factor) for factor in factors[sizes][1:])] == expected


def test_episodes_that_end_together_are_each_counted_whole():
    held, g = Replay(100, 1, 3, (2,), 1), Generator().manual_seed(0)
    no = torch.zeros(1, 3, dtype=torch.bool)
    for t in range(20):
        seen = torch.randn(1, 3, 2, generator=g)
        ends = torch.full((1, 3), t % 10 == 9)
        held.add(Transition(seen, torch.zeros(1, 3, 1), torch.zeros(1, 3), seen, seen, no, ends, ~no))
        if t == 14:
            assert held.newest_episodes(2) == [15]
    assert held.newest_episodes(2) == [10] and held.newest_episodes(3) == [10] and held.newest_episodes(4) == [20]
    held.add(Transition(seen, torch.zeros(1, 3, 1), torch.zeros(1, 3), seen, seen, no, no, ~no))
    assert held.newest_episodes(4) == [21] and held.newest_episodes(3) == [11] and held.newest_episodes(3) == [11]
    assert held.draw_newest(4, [11], [g]).shape == (1, 4)
