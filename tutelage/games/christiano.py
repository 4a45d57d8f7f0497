"""Eight MuJoCo tasks as Christiano et al. 2017 taught them (arXiv 1706.03741): nothing but the picture says what is wanted.

The appendix changes two things, because the agent, and a person who rates clips, must not learn the task from elsewhere.
An episode that ends at a fall tells that falling is bad: every episode here has full length, and the true reward, which
only an oracle and the evaluation read, has "a penalty which encourages the parameters to remain in the range" instead.
Torques cannot be seen: what they cost is not part of the true reward. A bonus for being alive would be a constant, and is left out.

The worlds are the v5 ones of Gymnasium with their observations. With v the forward velocity in m/s and z the torso's height in m:

    hopper           v + (z - 1)
    walker2d         v + (z - 2)
    ant              v + (z - 1.2)
    swimmer, half-cheetah    v
    reacher          -|fingertip - target|
    pendulum         -angle^2
    double-pendulum  -0.01 x^2 - (y - 2)^2 - 0.001 w1^2 - 0.005 w2^2 + 10 (y - 1)

where x, y are the tip's place in m, w1 and w2 the angular velocities of both joints in rad/s, and the angle is in rad, 0 upright.

What the paper leaves open, and how it is decided here
- The penalties. The paper says only that all its rewards are second-degree polynomials of the features, which a jump at the
  range's edge is not, and tells its raters to prefer the higher torso. The terms above are those of rl-teacher
  (github.com/nottombrown/rl-teacher, envs.py), which fit both: they fall as the robot falls, and pay for height inside the range too.
  The pitch of hopper and walker, which v5's rule bounds, has no term there and none here.
- The horizon: Gymnasium's, but 25 and 50 steps for the pendulums, as in rl-teacher. A pole that has fallen stays down: of
  1,500 steps with uniform actions 99.7 % were spent fallen (double pendulum: 97 %), of the first 25 steps 84 % (80 %).
- v5's rule for the hopper that no velocity exceeds 100 guards against a diverging simulation. That is an error here.

All that a reward is made of is observed, v as the velocity at the end of a step where the reward has its mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.games import options as address_options
from tutelage.games.gymnasium import GymnasiumGame, gymnasium
from tutelage.games.mujoco import check_divergence
from tutelage.games.spec import GameError


@dataclass(frozen=True)
class Task:
    """One of the paper's tasks, in terms of Gymnasium's."""

    identifier: str
    """Of the world in Gymnasium's registry."""
    horizon: int
    """Steps of every episode."""
    settings: Mapping[str, Any]
    """Of v5's constructor, so that its reward has no cost of control, no bonus and no end; and its camera where that is too far off."""
    term: Callable[[Any], float] = lambda data: 0.0
    """Of the simulation's data, added to v5's reward: what replaces the end of an episode."""
    pays: bool = True
    """Whether v5's reward counts: the pendulum's is nothing but a bonus for not having ended."""


_NO_BONUS = {"ctrl_cost_weight": 0.0, "healthy_reward": 0.0, "terminate_when_unhealthy": False}
# Whoever rates clips must see the arm and the poles; v5's own cameras stand so far off that they are a few pixels wide.
_CLOSE_UP = {"distance": 0.75, "elevation": -90.0, "lookat": np.zeros(3)}
_FRONT = {"distance": 4.0, "elevation": 0.0, "lookat": np.array([0.0, 0.0, 0.2])}
TASKS: dict[str, Task] = {
    "hopper": Task("Hopper-v5", 1000, _NO_BONUS, lambda data: float(data.qpos[1]) - 1.0),
    "walker2d": Task("Walker2d-v5", 1000, _NO_BONUS, lambda data: float(data.qpos[1]) - 2.0),
    "swimmer": Task("Swimmer-v5", 1000, {"ctrl_cost_weight": 0.0}),
    "half-cheetah": Task("HalfCheetah-v5", 1000, {"ctrl_cost_weight": 0.0}),
    "ant": Task("Ant-v5", 1000, {**_NO_BONUS, "contact_cost_weight": 0.0}, lambda data: float(data.qpos[2]) - 1.2),
    "reacher": Task("Reacher-v5", 50, {"reward_control_weight": 0.0, "default_camera_config": _CLOSE_UP}),
    "pendulum": Task("InvertedPendulum-v5", 25, {}, lambda data: -(float(data.qpos[1]) ** 2), pays=False),
    "double-pendulum": Task(
        "InvertedDoublePendulum-v5",
        50,
        {"healthy_reward": 0.0, "default_camera_config": _FRONT},
        # The tip's height as v5's own rule reads it: `site_xpos` belongs to the start of the last substep.
        lambda data: 10.0 * (float(data.site_xpos[0, 2]) - 1.0),
    ),
}

CLIP_STEPS: dict[str, int] = {
    "hopper": 60, "walker2d": 45, "swimmer": 60, "half-cheetah": 30, "ant": 30, "reacher": 15, "pendulum": 15, "double-pendulum": 15,
}  # fmt: skip
"""Steps of a clip of 1.5 s, by the paper 15 to 60 depending on the task (Christiano et al. 2017, appendix A.1).

The seconds are those that a person watches, at the frame rates of rl-teacher (40, 30, 20 or 10 steps per second): they give the
paper's 15 to 60. Simulated seconds do not: 1.5 s of hopper are 188 steps of 8 ms, and reacher's whole episode lasts 1 s.
"""


class ChristianoEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A v5 world that never terminates and pays the paper's reward. It remembers nothing, so a snapshot is that of the world below."""

    def __init__(self, task: Task, horizon: int, name: str) -> None:
        super().__init__(
            gymnasium.make(task.identifier, max_episode_steps=horizon, disable_env_checker=True, render_mode="rgb_array", **task.settings)
        )
        self._task, self._name = task, name

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """As Gymnasium's `step`; a simulation that diverged ends in a GameError."""
        observation, paid, _, limit, info = self.env.step(action)
        core: Any = self.env.unwrapped
        check_divergence(core.data, self._name)
        return observation, (float(paid) if self._task.pays else 0.0) + self._task.term(core.data), False, limit, info


def make_christiano(path: str, copies: int, options: Mapping[str, Any]) -> GymnasiumGame:
    """path: "name" or "name?horizon=1000", of a name in `TASKS`. Raises GameError for an option or a value that there is not."""
    name, _, query = path.partition("?")
    address = f"christiano:{path}"
    task = TASKS[name]

    def build(horizon: int = task.horizon) -> GymnasiumGame:
        if horizon < 1:
            raise GameError(f"{address}: horizon={horizon} was given; an episode needs at least one step")
        return GymnasiumGame(lambda: ChristianoEnv(task, horizon, address), copies, address)

    return address_options.build(build, f"christiano:{name}", {**address_options.parse(query, address), **options}, address)
