"""One team of a game against opponents that do not learn: the same world, seen and paid for one side."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from tutelage.games.against import Against
from tutelage.games.make import make
from tutelage.games.nested import flat_width
from tutelage.games.particle.address import make_world
from tutelage.games.particle.game import ParticleGame
from tutelage.games.particle.scripted import ScriptedTeam, chase_of
from tutelage.games.particle.tag import Tag
from tutelage.games.spec import GameError

SIDES = {"prey": ("predators", (0, 1, 2), 16), "predators": ("prey", (3,), 14)}
"""Who is frozen -> who plays, which agents they are in the whole game, and the width of what they observe."""


def script() -> ScriptedTeam:
    world = make_world("particle:simple_tag")
    assert isinstance(world, Tag)
    return ScriptedTeam(world, chase_of(world))


@pytest.mark.parametrize("frozen", SIDES)
def test_it_is_the_whole_game_in_which_the_others_follow_their_script(frozen: str):
    _, agents, width = SIDES[frozen]
    own, whole, everybody = make(f"particle:simple_tag?frozen={frozen}", 4), make("particle:simple_tag", 4), script()
    assert isinstance(own, Against) and own.players is not None and len(own.players.groups) == 1
    assert own.players.teams == (tuple(range(len(agents))),) and flat_width(own.players.groups[0].observation_space) == width
    g, draw = (0 if frozen == "prey" else 1), Generator().manual_seed(0)
    seen, all_seen = own.reset(seed=range(4)), whole.reset(seed=range(4))
    for step in range(60):
        assert isinstance(seen, tuple) and isinstance(all_seen, tuple) and torch.equal(seen[0], all_seen[g])
        action = torch.randint(5, (4, len(agents)), generator=draw)
        joint = list(everybody.act(all_seen))
        joint[g] = action
        ours, theirs = own.step((action,)), whole.step(tuple(joint))
        for name in ("reward", "terminated", "mask"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)[:, list(agents)])
        assert torch.equal(ours.boundary, theirs.boundary) and bool(ours.boundary.all()) == (step % 25 == 24)
        seen, all_seen = ours.observation, theirs.observation
        if ours.boundary.any():
            seen, all_seen = own.reset(where=ours.boundary), whole.reset(where=theirs.boundary)


def test_a_copy_goes_on_bit_by_bit_in_another_game():
    one, two = (make("particle:simple_tag?frozen=prey", 2) for _ in range(2))
    draw = Generator().manual_seed(0)
    one.reset(seed=[3, 4])
    actions = torch.randint(5, (9, 2, 3), generator=draw)
    for step in range(5):
        held = one.step((actions[step],)).observation
    for copy in (0, 1):
        assert torch.equal(two.restore(copy, one.snapshot(copy))[0], held[0][copy])  # type: ignore[index]
    for step in range(5, 9):
        ours, theirs = one.step((actions[step],)), two.step((actions[step],))
        assert torch.equal(ours.observation[0], theirs.observation[0]) and torch.equal(ours.reward, theirs.reward)  # type: ignore[index]


def test_scripts_hunt_and_flee():
    """Touches are paid 10: hunters catch who moves at random more often than who flees, and random hunters hardly anybody."""
    world = make_world("particle:simple_tag")
    assert isinstance(world, Tag)
    hunt, flee = chase_of(world)[0], chase_of(world)[3]
    paid: dict[str, float] = {}
    random = lambda: Generator().manual_seed(1)
    for name, wishes in {
        "random": [random(), random(), random(), flee], "both": [hunt, hunt, hunt, flee], "hunters": [hunt, hunt, hunt, random()],
    }.items():  # fmt: skip
        game, team = ParticleGame(world, 100), ScriptedTeam(world, wishes)
        seen, total = game.reset(seed=range(100)), torch.zeros(())
        for _ in range(25):
            step = game.step(team.act(seen))
            seen, total = step.observation, total + step.reward[:, 0].mean()
        paid[name] = float(total)
    assert paid["random"] < 5.0 < 20.0 < paid["both"] < paid["hunters"] - 10.0


def test_games_that_have_no_sides_are_refused():
    with pytest.raises(GameError, match="a game of one agent was given"):
        Against(make("gym:CartPole-v1", 1), 0, script())
    rivals = make("particle:simple_spread", 1)
    assert rivals.players is not None
    rivals.players = replace(rivals.players, teams=((0,), (1, 2)))
    with pytest.raises(GameError, match="shares its spaces with others; each group needs to be of one team"):
        Against(rivals, 0, script())
    with pytest.raises(GameError, match="frozen"):
        make("particle:simple_tag?frozen=everybody", 1)
    choosy = make("particle:simple_tag", 1)
    choosy.legal = lambda: torch.ones(1, 20, dtype=torch.bool)
    with pytest.raises(GameError, match="a game in which some choices are illegal was given"):
        Against(choosy, 0, script()).reset(seed=[0])
