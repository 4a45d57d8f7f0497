"""Worlds that do not end when the robot falls: `gym:tutelage.recipes.endless_worlds:EndlessHopper-v0`.

A hopper that learns to flip lies on its back now and then; an episode that ended there would tell it what it should learn from people
(Christiano et al. 2017, appendix A).
"""

import gymnasium

gymnasium.register(
    "EndlessHopper-v0",
    entry_point="gymnasium.envs.mujoco.hopper_v5:HopperEnv",
    max_episode_steps=1000,
    kwargs={"terminate_when_unhealthy": False},
)
