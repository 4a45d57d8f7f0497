"""What a SAC is fed when it learns from a learned reward: as PEBBLE has it, or as QPA, RUNE and STAR do.

QPA (Hu et al. 2024, arXiv 2305.17400, section 4.2): half of every batch comes from the newest episodes, so that the critic knows best where
the policy is. RUNE (Liang et al. 2022, arXiv 2205.12401, eq. 4): disagreement of the reward model's members is paid for, less and less.
STAR: see star.py. Each is a switch, off by default; then this is SAC's own update and nothing else.

Where we depart from the papers
- RUNE's bonus is added when a batch is drawn, so that all of memory always has the present one.
Left out: QPA's single reward net, which is a setting of the reward model.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from tutelage.experience.replay import Replay
from tutelage.learn.deep.sac import SAC
from tutelage.learn.preference.star import Conservative
from tutelage.rewards.learned import RewardEnsemble


@dataclass(frozen=True)
class Config:
    """What QPA, RUNE and STAR add to the learner."""

    recent_share: float = 0.0
    """Share of the learner's batch from the newest episodes, those that clips are cut from (QPA: 0.5)."""
    disagreement_bonus: float = 0.0
    """beta_0: what the members' disagreement is paid with (RUNE: 0.05)."""
    disagreement_decay: float = 0.0
    """rho: after t steps of learning the bonus is beta_0 (1 - rho)^t (RUNE: 1e-3 to 1e-5)."""
    pull: float = 0.0
    """eta: how strongly the policy is held near what a critic recommends that only knows what was done (STAR: 0.1)."""
    softness: float = 6.0
    """omega: what that critic's values are divided by (STAR: 6)."""


class Student:
    """A SAC, and what its batches and its actor get beside."""

    def __init__(self, config: Config, sac: SAC, widths: tuple[int, int], recent_episodes: int) -> None:
        """widths: of observation and action. recent_episodes: how many count as the newest."""
        self.config, self.sac, self.recent_episodes = config, sac, recent_episodes
        self.conservative: Conservative | None = None
        if config.pull:
            self.conservative = Conservative(config.pull, config.softness, widths, sac.config, sac.train.generators, sac.device)
            sac.pull = self.conservative.pull

    def reset_critics(self, chosen: Bool[Tensor, "R"]) -> None:
        """Fresh critics for the chosen seeds, all of them: what they knew was about another reward."""
        self.sac.reset_critic(chosen)
        if self.conservative is not None:
            self.conservative.reset(chosen)

    def frozen(self) -> dict[str, Bool[Tensor, "R"]]:
        """Which seeds have a net that stopped at its last finite weights, by net."""
        return self.sac.frozen() | ({} if self.conservative is None else self.conservative.train.frozen())

    def improve(self, replay: Replay, ensemble: RewardEnsemble, learned: Bool[Tensor, "R"], steps: int) -> dict[str, Tensor]:
        """`updates_per_step` gradient steps; metrics `[R]` of the last. learned: seeds that the ensemble pays; steps: since it does."""
        config, sac = self.config, self.sac
        if not config.recent_share and not config.disagreement_bonus and self.conservative is None:
            return sac.improve(replay)
        metrics: dict[str, Tensor] = {}
        for _ in range(sac.config.updates_per_step):
            recent = round(config.recent_share * sac.config.batch_size)
            columns = replay.draw(sac.config.batch_size - recent, sac.train.generators)
            if recent:
                newest = replay.newest_episodes(self.recent_episodes)
                columns = torch.cat([columns, replay.draw_newest(recent, newest, sac.train.generators)], 1)
            batch = replay.take(columns)
            if config.disagreement_bonus:
                spread = ensemble.disagreement(batch.observation, batch.action) * learned[:, None].to(batch.reward.device)
                batch = replace(
                    batch, reward=batch.reward + config.disagreement_bonus * (1.0 - config.disagreement_decay) ** steps * spread
                )
            if self.conservative is not None:
                next_action, known = replay.next_actions(columns)
                self.conservative.update(sac.unit(batch), sac.scaled(next_action), known)
            metrics = sac.update_on(batch)
        return metrics
