"""The family by name: what each paper after Christiano 2017 and PEBBLE switched on, with its numbers for DeepMind Control.

Each is PEBBLE with a few fields set, so that they can be compared fairly and combined freely. On Meta-World the papers have other
numbers of labels and of steps between sessions, which are theirs to set who run it; the recipes do.
Landscape: model-free, off-policy, online; continuous actions; scale: deep
"""

from dataclasses import dataclass, field
from typing import Literal

from tutelage.learn.deep.ppo import Config as PPOConfig
from tutelage.learn.preference import christiano, pebble
from tutelage.learn.preference.meta_reward_net import Config as MetaConfig
from tutelage.learn.preference.rime import Config as RimeConfig
from tutelage.learn.preference.student import Config as StudentConfig
from tutelage.learn.preference.surf import Config as SurfConfig
from tutelage.rewards import learned


@dataclass(frozen=True)
class Surf(pebble.Config):
    """SURF: pseudo-labels and temporal crops (Park et al. 2022)."""

    surf: SurfConfig = field(default_factory=lambda: SurfConfig(unlabeled_ratio=100, crop_shortest=45, crop_longest=55))
    """Pseudo-labels and crops."""
    reward_model: learned.Config = field(default_factory=lambda: learned.Config(epochs=1000, target_accuracy=1.0))
    """The ensemble that predicts the reward (SURF: 1,000 passes a session, whatever the accuracy)."""


@dataclass(frozen=True)
class MetaRewardNet(pebble.Config):
    """Meta-Reward-Net: the critic's opinion of the reward (Liu et al. 2022)."""

    meta: MetaConfig = field(default_factory=lambda: MetaConfig(every=1_000))
    """The critic's opinion of the reward."""


@dataclass(frozen=True)
class QPA(pebble.Config):
    """Query-policy alignment: questions, and half of every batch, from the newest ten episodes (Hu et al. 2024)."""

    recent_episodes: int = 10
    """Clips are cut from this many newest episodes (QPA: 10)."""
    student: StudentConfig = field(default_factory=lambda: StudentConfig(recent_share=0.5))
    """What the learner gets beside the learned reward."""
    surf: SurfConfig = field(default_factory=lambda: SurfConfig(crop_shortest=35, crop_longest=45))
    """Pseudo-labels and crops (QPA: crops only)."""
    reward_model: learned.Config = field(default_factory=lambda: learned.Config(members=1, epochs=2000, target_accuracy=1.0))
    """The ensemble that predicts the reward (QPA: one net; 20 crops of each label a pass are 20 passes here)."""
    sampler: str = "uniform"
    """Which candidates are asked (QPA: uniform; one net cannot disagree with itself)."""


@dataclass(frozen=True)
class Rune(pebble.Config):
    """RUNE: disagreement is paid for (Liang et al. 2022)."""

    student: StudentConfig = field(default_factory=lambda: StudentConfig(disagreement_bonus=0.05, disagreement_decay=1e-5))
    """What the learner gets beside the learned reward."""


@dataclass(frozen=True)
class Rime(pebble.Config):
    """RIME: labels that are not believed (Cheng et al. 2024)."""

    rime: RimeConfig = field(default_factory=lambda: RimeConfig(fits=60, warm_start_steps=1_000))
    """Labels that are not believed."""


@dataclass(frozen=True)
class Star(pebble.Config):
    """STAR: smoothed labels and a policy that stays near what was done (Bai et al. 2025)."""

    session_every: int = 5_000
    """Steps between sessions (STAR: 5,000)."""
    reward_model: learned.Config = field(default_factory=lambda: learned.Config(label_smoothing=0.05, epochs=200))
    """The ensemble that predicts the reward (STAR: smoothing 0.05, 200 passes)."""
    student: StudentConfig = field(default_factory=lambda: StudentConfig(pull=0.1))
    """What the learner gets beside the learned reward."""


@dataclass(frozen=True)
class PrefPPO(christiano.Config):
    """PrefPPO of PEBBLE and B-Pref: this, with PPO and PEBBLE's reward model, after exploring by state entropy."""

    labels: int = 1_000
    initial_share: float = 0.1
    initial_steps: int = 1_000
    schedule_steps: float | None = None
    session_labels: int = 100
    segment_length: int = 50
    recent_episodes: int = 100
    neighbors: int = 5
    learner: Literal["trpo", "ppo", "a2c"] = "ppo"
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            hidden=(256, 256, 256), window=500, epochs=20, learning_rate=5e-5, gae_lambda=0.92, clip_range=0.4, normalize_observation=True
        )
    )
    reward_model: learned.Config = field(default_factory=learned.Config)
