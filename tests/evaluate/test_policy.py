"""Frozen policies: one observation or many, arrays or tensors, plain or nested, and a sentence for what does not fit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.evaluate.policy import MemberPolicy, StackedPolicy
from tutelage.games.spec import Box, DictSpace, Discrete, GameError, MultiBinary, TupleSpace


def box(*shape: int, dtype: str = "float32") -> Box:
    return Box(shape, np.full(shape, -9.0, dtype), np.full(shape, 9.0, dtype), dtype)


PLAIN = box(3)


def wide(width: int) -> Box:
    return Box((width,), np.full(width, -1e6, "float32"), np.full(width, 1e6, "float32"))


ACTIONS = wide(2)
NESTED = DictSpace((("camera", TupleSpace((box(2, 2), Discrete(3)))), ("arm", MultiBinary((2,)))))


class Told:
    """Member r answers (r + 1) times the sum of the observation, and its negative when it is not deterministic."""

    def act(self, observation: Tensor, deterministic: bool = False, legal: Tensor | None = None, carry: Any = None) -> Tensor:
        factor = torch.arange(1.0, 1.0 + len(observation))[:, None, None]
        total = factor * observation.sum(-1, keepdim=True).expand(-1, -1, 2)
        return total if deterministic else -total

    def carry(self, copies: int) -> None:
        """No memory."""


def test_one_observation_gives_one_action_and_a_batch_gives_a_batch():
    policy = MemberPolicy(Told(), 3, 1, PLAIN, ACTIONS)
    assert policy.act(torch.tensor([1.0, 2.0, 3.0])).tolist() == [12.0, 12.0]
    assert policy.act(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])).tolist() == [[12.0, 12.0], [2.0, 2.0]]
    assert policy.act(torch.ones(0, 3)).shape == (0, 2) and policy.act(torch.ones(1, 3)).shape == (1, 2)
    assert policy.act(torch.ones(3), deterministic=False).tolist() == [-6.0, -6.0]


@pytest.mark.parametrize(
    "observation",
    [
        [1.0, 2.0, 3.0],
        np.array([1, 2, 3]),
        np.array([1.0, 2.0, 3.0]),
        np.array([3.0, 2.0, 1.0], np.float32)[::-1],
        np.array([1.0, 2.0, 3.0], ">f4").astype(np.float16),
        torch.tensor([1, 2, 3]),
    ],
    ids=["list", "int64", "float64", "backwards", "half", "integers"],
)
def test_any_array_will_do(observation: Any):
    assert MemberPolicy(Told(), 1, 0, PLAIN, ACTIONS).act(observation).tolist() == [6.0, 6.0]


def test_an_array_that_may_only_be_read_gives_no_warning(recwarn: pytest.WarningsRecorder):
    observation = np.ones(3, np.float32)
    observation.setflags(write=False)
    MemberPolicy(Told(), 1, 0, PLAIN, ACTIONS).act(observation)
    assert len(recwarn) == 0


def test_nested_observations_are_laid_side_by_side_in_the_order_of_the_space():
    class Shown(Told):
        def act(self, observation: Tensor, deterministic: bool = False, legal: Tensor | None = None, carry: Any = None) -> Tensor:
            return observation

    policy = MemberPolicy(Shown(), 1, 0, NESTED, wide(9))
    one = {"camera": (np.array([[1, 2], [3, 4]]), 2), "arm": np.array([0, 1], np.int8)}
    flat = [0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 1.0]
    assert policy.act(one).tolist() == flat
    many = {"camera": [np.stack([one["camera"][0]] * 2), np.array([2, 0])], "arm": torch.tensor([[0, 1], [1, 1]])}
    assert policy.act(many).tolist() == [flat, [1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("space", "observation", "sentence"),
    [
        (PLAIN, np.zeros(4), r"of shape \(4,\); \(3,\) was expected, or a batch"),
        (PLAIN, 1.0, r"of shape \(\); \(3,\) was expected, or a batch"),
        (PLAIN, np.zeros((3, 2)), r"of shape \(3, 2\); \(3,\) was expected"),
        (PLAIN, "left", r"none of this game: "),
        (PLAIN, None, r"none of this game: "),
        (PLAIN, {"camera": np.zeros(3)}, r"none of this game: "),
        (NESTED, np.zeros(9), r"a dict are expected, not ndarray"),
        (NESTED, {"arm": np.zeros(2)}, r"none of this game: it has no entry 'camera'"),
        (NESTED, {"arm": np.zeros((5, 2)), "camera": (np.zeros((4, 2, 2)), np.zeros(4))}, r"of shape \(5, 2\), \(4, 2, 2\), \(4,\);"),
        (NESTED, {"arm": np.zeros(2), "camera": (np.zeros((2, 2)), 3)}, r"Class values must be smaller"),
        (NESTED, {"arm": np.zeros(2), "camera": (np.zeros((2, 2)), -1)}, r"Class values must be non-negative"),
    ],
)
def test_what_does_not_fit_is_refused(space: Any, observation: Any, sentence: str):
    with pytest.raises(GameError, match=f"^the policy was given an observation .*{sentence}") as error:
        MemberPolicy(Told(), 2, 0, space, ACTIONS).act(observation)
    assert "\n" not in str(error.value)


def test_stacked_members_answer_for_their_own_copies():
    policy = StackedPolicy(Told(), 2, PLAIN, ACTIONS)
    observation = torch.arange(12.0).view(4, 3)
    assert policy.act(observation)[:, 0].tolist() == [3.0, 12.0, 2 * 21.0, 2 * 30.0]
    members = [MemberPolicy(Told(), 2, member, PLAIN, ACTIONS) for member in (0, 1)]
    assert torch.equal(policy.act(observation), torch.cat([members[0].act(observation[:2]), members[1].act(observation[2:])]))
