"""AgileRL's MATD3 in simple_spread of mpe2 (continuous), eight copies, an update for every hundred steps: `agilerl_loop.py THREADS`.

The loop is that of its tutorials: worlds in processes of their own (`AsyncPettingZooVecEnv`), and nothing measured but the loop. Nets,
their differences from ours and the batch are those of agilerl_matd3.py with 64-64, and so are the agents' names, for those of the world
differ only in a number, which would give them one net.
"""

# pyright: reportMissingImports=false
# The peer lives in benchmarks/.venvs/agilerl.

import sys

import numpy as np
import torch
from agilerl.algorithms import MATD3
from agilerl.components.data import MultiAgentTransition, transition_to_tensordict
from agilerl.components.replay_buffer import ReplayBuffer
from agilerl.vector.pz_async_vec_env import AsyncPettingZooVecEnv
from mpe2 import simple_spread_v3
from pettingzoo.utils.wrappers import BaseParallelWrapper
from protocol import serve

COPIES, BATCH, UPDATE_EVERY = 8, 1024, 100 // 8
threads = int(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(0)


NAMES = {"agent_0": "first", "agent_1": "second", "agent_2": "third"}


class Renamed(BaseParallelWrapper):
    """The same world with other names of its agents."""

    def __init__(self):
        super().__init__(simple_spread_v3.parallel_env(continuous_actions=True))
        self.possible_agents = list(NAMES.values())
        self._world_names = {name: old for old, name in NAMES.items()}

    @property
    def agents(self):
        return [NAMES[agent] for agent in self.env.agents]

    def observation_space(self, agent):
        return self.env.observation_space(self._world_names[agent])

    def action_space(self, agent):
        return self.env.action_space(self._world_names[agent])

    def reset(self, seed=None, options=None):
        return tuple({NAMES[agent]: value for agent, value in answer.items()} for answer in self.env.reset(seed, options))

    def step(self, actions):
        answers = self.env.step({self._world_names[agent]: action for agent, action in actions.items()})
        return tuple({NAMES[agent]: value for agent, value in answer.items()} for answer in answers)


def main():
    """Fill the memory, then serve blocks of steps."""
    world = AsyncPettingZooVecEnv([Renamed for _ in range(COPIES)])
    names = world.agents
    learner = MATD3(
        [world.single_observation_space(name) for name in names], [world.single_action_space(name) for name in names],
        agent_ids=names, policy_freq=2, batch_size=BATCH, vect_noise_dim=COPIES, device="cpu",
        net_config={
            "latent_dim": 64, "max_latent_dim": 64, "encoder_config": {"hidden_size": [64]}, "head_config": {"hidden_size": [64]},
        },
    )  # fmt: skip
    memory = ReplayBuffer(max_size=100_000, device="cpu")
    learner.set_training_mode(True)
    playing = {"seen": world.reset()[0], "info": None, "steps": 0}

    def steps(count):
        for _ in range(count // COPIES):
            action, raw = learner.get_action(obs=playing["seen"], infos=playing["info"])
            following, reward, terminated, truncated, playing["info"] = world.step(action)
            kept = transition_to_tensordict(
                MultiAgentTransition(obs=playing["seen"], action=raw, reward=reward, next_obs=following, done=terminated)
            )
            kept.batch_size = torch.Size([COPIES])
            memory.add(kept)
            playing["seen"], playing["steps"] = following, playing["steps"] + 1
            if playing["steps"] % UPDATE_EVERY == 0 and len(memory) >= BATCH:
                learner.learn(memory.sample(BATCH))
            over = np.array([np.nan_to_num(terminated[name], nan=1.0) + np.nan_to_num(truncated[name], nan=1.0) for name in names]) > 0
            ended = [copy for copy in range(COPIES) if over[:, copy].all()]
            if ended:
                learner.reset_action_noise(ended)

    steps(2 * BATCH)
    serve(steps)
    world.close()


if __name__ == "__main__":
    main()
