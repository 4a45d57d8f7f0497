"""Films and cross-play of many agents."""

import numpy as np
import pytest
import torch

from tutelage.evaluate.clips import record_episode
from tutelage.evaluate.cross_play import CrossPlay
from tutelage.evaluate.episodes import evaluate
from tutelage.games.make import make
from tutelage.games.spec import GameError, Nested


class Always:
    """Everybody does the same."""

    def __init__(self, choice: int, sizes: tuple[int, ...]) -> None:
        self.choice, self.sizes = choice, sizes

    def act(self, observation: Nested, deterministic: bool = True) -> Nested:
        assert isinstance(observation, tuple)
        return tuple(torch.full((len(observation[0]), n), self.choice) for n in self.sizes)


def test_an_episode_of_many_is_filmed():
    frames = list(record_episode(Always(1, (3,)), make("particle:simple_spread", 1), seed=0, max_steps=5))
    assert len(frames) > 1 and all(np.asarray(frame).ndim == 3 for frame in frames)


def test_every_team_is_played_by_its_own_policy():
    game = make("particle:simple_tag", 2)  # three adversaries, one prey
    assert game.players is not None
    hunters, prey = game.players.teams
    play = CrossPlay(game.players, {hunters: Always(1, (3, 1)), prey: Always(4, (3, 1))})
    actions = play.act(game.reset(seed=[0, 1]))
    assert isinstance(actions, tuple)
    assert [a.tolist() for a in actions] == [[[1, 1, 1]] * 2, [[4]] * 2]
    result = evaluate(play, game, episodes=2, seed=0)
    assert result.each is not None and result.each.shape == (2, 4)
    torch.testing.assert_close(result.returns, result.each[:, list(hunters)].mean(1))


def test_nobody_is_played_twice_or_not_at_all():
    game = make("particle:simple_tag", 1)
    assert game.players is not None
    with pytest.raises(GameError, match=r"policies were given for agents \[0, 1, 2\]; each of 0 to 3 needs exactly one"):
        CrossPlay(game.players, {(0, 1, 2): Always(0, (3, 1))})
