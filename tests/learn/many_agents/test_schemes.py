"""How joint experience is cut for each scheme, by hand: agents 0 and 2 are of one kind and come first, agent 1 is of another."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.games.nested import legal_width
from tutelage.games.spec import Box, DictSpace, Discrete, GameError, Group, Players
from tutelage.learn.many_agents.nets import outcomes
from tutelage.learn.many_agents.schemes import View

Make = Callable[..., Any]
SEEN = torch.arange(8.0).view(1, 1, 8) + 100.0 * torch.arange(2.0).view(1, 2, 1)
"""Agent 0 sees 0 1 2, agent 2 sees 3 4 5, agent 1 sees 6 7; 100 more in the second sample."""
NUMBERS = torch.tensor([[[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]])
"""One number of each agent, in the order of the game."""


def test_concurrent_agents_are_learners_side_by_side(players: Make):
    view = View(players("reals"), (0, 1, 2), "concurrent")
    first, second = view.observations(SEEN)
    assert first.tolist() == [[[0, 1, 2], [100, 101, 102]], [[3, 4, 5], [103, 104, 105]]]
    assert second.tolist() == [[[6, 7], [106, 107]]]
    assert [x.tolist() for x in view.each(NUMBERS, lambda x: x)] == [[[10, 20], [12, 22]], [[11, 21]]]
    assert view.critics == [(2, 3, 2), (1, 2, 1)] and not view.joint
    assert [x.tolist() for x in view.seen_by_critics([first, second], 1)] == [first.tolist(), second.tolist()]


def test_seeds_come_first_and_agents_within_them(players: Make):
    view = View(players("reals"), (0, 1, 2), "concurrent")
    first, _ = view.observations(torch.cat([SEEN, 1000.0 + SEEN]))
    assert first[:, 0, 0].tolist() == [0, 3, 1000, 1003]
    assert view.each(torch.cat([NUMBERS, 1000.0 + NUMBERS]), lambda x: x)[0][:, 0].tolist() == [10, 12, 1010, 1012]


def test_critics_that_see_all_see_the_same_and_are_paid_differently(players: Make):
    view = View(players("reals"), (0, 1, 2), "ct-de")
    per_unit = view.observations(SEEN)
    assert [x.shape for x in per_unit] == [(2, 2, 3), (1, 2, 2)]
    [shown] = view.seen_by_critics(per_unit, 1)
    assert shown.tolist() == SEEN.expand(3, -1, -1).tolist()
    assert [x.tolist() for x in view.each(NUMBERS, lambda x: x)] == [[[10, 20], [12, 22], [11, 21]]]
    assert view.critics == [(3, 8, 5)] and view.joint
    own, others = ([torch.full((2, 2, 2), x), torch.full((1, 2, 1), x)] for x in (1.0, 0.0))
    own[0][1], own[1][0] = 2.0, 3.0
    [turns] = view.own_turn(own, others, 1)
    assert turns[:, 0].tolist() == [[1, 1, 0, 0, 0], [0, 0, 2, 2, 0], [0, 0, 0, 0, 3]]


def test_shared_nets_are_given_everybody_s_samples(players: Make):
    view = View(players("alike"), (0, 1, 2), "shared")
    seen = torch.arange(9.0).view(1, 1, 9) + 100.0 * torch.arange(2.0).view(1, 2, 1)
    [one] = view.observations(seen)
    assert one.tolist() == [[[0, 1, 2], [100, 101, 102], [3, 4, 5], [103, 104, 105], [6, 7, 8], [106, 107, 108]]]
    assert [x.tolist() for x in view.each(NUMBERS, lambda x: x)] == [[[10, 20, 11, 21, 12, 22]]]
    assert view.units[0].learners == 1 and view.critics == [(1, 3, 2)]
    [told] = View(players("alike"), (0, 1, 2), "shared", agent_id=True).observations(seen)
    assert told[0, ::2, 3:].tolist() == torch.eye(3).tolist() and told[0, 1::2, 3:].tolist() == torch.eye(3).tolist()
    assert torch.equal(told[..., :3], one)


def test_a_centralized_team_is_one_agent(players: Make, batch: Make):
    view, given = View(players("reals"), (0, 1, 2), "centralized"), batch(players("reals"))
    assert [x.tolist() for x in view.observations(SEEN)] == [SEEN.tolist()]
    assert view.critics == [(1, 8, 5)] and view.units[0].actions.outputs == 5
    [reward], [terminated], [mask] = outcomes(view, given)
    assert terminated.any() and not given.terminated.all(-1).all()
    for r, n in product(range(2), range(5)):
        assert reward[r, n].item() == pytest.approx(sum(given.reward[r, n].tolist()) / 3)
        assert terminated[r, n].item() == all(given.terminated[r, n].tolist())
        assert mask[r, n].item() == float(any(given.mask[r, n].tolist()))


def test_its_joint_head_has_a_logit_for_every_combination(players: Make):
    assert View(players("choices"), (0, 1, 2), "centralized").units[0].actions.outputs == 3 + 3 + 2 + 3
    assert View(players("choices"), (0, 1, 2), "centralized", joint_head=True).units[0].actions.outputs == 3 * 3 * 2 * 3
    assert View(players("choices"), (0, 1, 2), "centralized", joint_head=True).critics == [(1, 8, 11)]


def test_a_team_takes_its_agents_out_of_a_group(players: Make):
    """Agents 0 and 2 of a group of three, which do not lie side by side."""
    kinds = players("alike", [(1,), (0, 2)])
    seen = torch.arange(9.0).view(1, 1, 9)
    for scheme, expected in {
        "concurrent": [[[0, 1, 2]], [[6, 7, 8]]],
        "shared": [[[0, 1, 2], [6, 7, 8]]],
        "centralized": [[[0, 1, 2, 6, 7, 8]]],
    }.items():
        view: Any = View(kinds, (0, 2), scheme)  # type: ignore[arg-type]
        assert view.observations(seen)[0].tolist() == expected
        joint = torch.full((1, 1, 6), torch.nan)
        view.play(view.actions(torch.tensor([[[-2.0, 0.25, 9.0, 9.0, 1.0, 0.75]]])), 1, joint)
        assert joint.nan_to_num(-7.0).tolist() == [[[-2.0, 0.25, -7.0, -7.0, 1.0, 0.75]]]  # the opponent's were left alone
    assert View(kinds, (1,), "ct-de").observations(seen)[0].tolist() == [[[3, 4, 5]]]


def test_agents_need_not_come_in_order_of_their_groups():
    line, choice = Box((1,), -np.ones(1, np.float32), np.ones(1, np.float32)), Discrete(2)
    kinds = Players(("a", "b", "c"), (Group((1,), line, choice), Group((0, 2), line, choice)), ((0, 1, 2),))
    for scheme, expected in {"concurrent": [[[11, 21]], [[10, 20], [12, 22]]], "ct-de": [[[11, 21], [10, 20], [12, 22]]]}.items():
        view: Any = View(kinds, (0, 1, 2), scheme)  # type: ignore[arg-type]
        assert [x.tolist() for x in view.each(NUMBERS, lambda x: x)] == expected
        assert torch.cat(view.observations(torch.tensor([[[1.0, 0.0, 2.0]]])))[:, 0, 0].tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
@pytest.mark.parametrize("kinds", ["alike", "alike choices", "reals", "choices", "mixed"])
def test_what_is_encoded_is_played_as_it_was(players: Make, batch: Make, scheme: Any, kinds: str):
    if (scheme == "shared" and "alike" not in kinds) or (scheme == "centralized" and kinds == "mixed"):
        return  # these are refused
    view, action = View(players(kinds), (0, 1, 2), scheme), batch(players(kinds)).action
    joint = torch.full_like(action, torch.nan)
    view.play(view.actions(action), 2, joint)
    torch.testing.assert_close(joint, action)


@pytest.mark.parametrize("scheme", ["ct-de", "concurrent", "shared", "centralized"])
def test_legal_choices_are_cut_as_actions_are(players: Make, batch: Make, scheme: Any):
    kinds = players("alike choices" if scheme == "shared" else "choices")
    view, given = View(kinds, (0, 1, 2), scheme), batch(kinds, restricted=True)
    for legal, action in zip(view.legal(given.legal), view.actions(given.action), strict=True):
        assert legal is not None and legal.shape == action.shape
        assert not (action.bool() & ~legal).any()  # what was taken was legal
    assert view.legal(None) == [None] * len(view.units)


def test_choosers_beside_agents_with_reals_keep_their_legal_choices(players: Make):
    """A team of both: only agent 1 chooses, and it must not choose what is illegal."""
    kinds = players("mixed")
    legal = torch.tensor([[[True, False, True]]])
    assert legal_width(kinds.action_space) == 3
    of_reals, of_choices = View(kinds, (0, 1, 2), "ct-de").legal(legal)
    assert of_reals is None
    assert of_choices is not None and of_choices.tolist() == [[[True, False, True]]]


def refused(players: Players, sentence: str, team: tuple[int, ...] = (0, 1, 2), **options: Any) -> None:
    with pytest.raises(GameError) as refusal:
        View(players, team, **options)
    assert str(refusal.value) == sentence


def test_bad_input(players: Make):
    refused(
        players("reals"),
        "scheme=shared was given; one net cannot serve agents with different spaces, and agent_0, agent_2 and agent_1 differ",
        scheme="shared",
    )
    View(players("reals", [(0, 2), (1,)]), (0, 2), "shared")  # whom it is not about does not matter
    for scheme in ("ct-de", "concurrent", "centralized"):
        refused(
            players("alike"),
            f"agent_id was given with scheme={scheme}; only shared nets need to be told who asks",
            scheme=scheme,
            agent_id=True,
        )
    refused(
        players("mixed"),
        "one centralized actor was asked for agents of whom some choose and others give reals; it can do one of both",
        scheme="centralized",
    )


def test_unbounded_reals_and_nested_actions_are_refused_with_the_agents_names():
    line, free = Box((1,), -np.ones(1, np.float32), np.ones(1, np.float32)), Box((1,), *np.array([[-np.inf], [np.inf]], np.float32))
    kinds = Players(("ann", "bob", "cy"), (Group((0, 1), line, free), Group((2,), line, Discrete(2))), ((0, 1, 2),))
    with pytest.raises(GameError, match="ann, bob needs a vector of bounded continuous actions"):
        View(kinds, (0, 1, 2), "ct-de")
    nested = Players(("ann",), (Group((0,), line, DictSpace((("a", line), ("b", Discrete(2))))),), ((0,),))
    with pytest.raises(GameError, match="ann chooses from DictSpace.*choices or a vector of bounded reals were expected"):
        View(nested, (0,), "ct-de")


def test_agents_with_equal_nested_spaces_can_share_nets():
    """They need a group each (`spec.stacked`), and their spaces do not differ."""
    line = Box((1,), -np.ones(1, np.float32), np.ones(1, np.float32))
    space = DictSpace((("place", line), ("which", Discrete(2))))
    kinds = Players(("a", "b"), (Group((0,), space, Discrete(2)), Group((1,), space, Discrete(2))), ((0, 1),))
    view, joint = View(kinds, (0, 1), "shared"), torch.arange(6.0).view(1, 1, 6)
    assert view.observations(joint)[0].tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert isinstance(view.each(NUMBERS[..., :2], lambda x: x)[0], Tensor)
