"""A reward learned from comparisons: an ensemble of nets in one stack.

Christiano et al. 2017 (arXiv 1706.03741), sec. 2.2; settings of PEBBLE (Lee et al. 2021) where they differ; `CHRISTIANO` has the
former's. The ensemble takes clips, labels and weights as tensors and knows nothing of who gave them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor

from tutelage.equations.preferences import bradley_terry_loss, preference_logit
from tutelage.games.nested import action_width, observation_shape
from tutelage.games.spec import Box, Space
from tutelage.nets.adam import StackedAdam
from tutelage.nets.body import Body
from tutelage.nets.conv import CHRISTIANO as CHRISTIANO_CONV
from tutelage.nets.conv import Conv
from tutelage.nets.mlp import MLP
from tutelage.nets.parameters import Parameters
from tutelage.rewards.comparisons import Rows
from tutelage.rewards.source import RewardSource

ROWS = 1536  # that go through the nets at once on CPU, all members together: their activations stay in the cache
PICTURES = 96  # the same of images


@dataclass(frozen=True)
class Config:
    """Settings of the ensemble."""

    members: int = 3
    """Nets in the ensemble (Christiano: 3; PEBBLE: 3)."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers (PEBBLE: 256, 256, 256)."""
    learning_rate: float = 3e-4
    """Of Adam (PEBBLE: 3e-4)."""
    weight_decay: float = 0.0
    """Decoupled decay per step, times the learning rate (PEBBLE: 0)."""
    bootstrap: bool = False
    """Every member learns from its own draw with replacement, and is tested on the labels that it did not draw (Christiano: yes)."""
    penalty: float = 0.0
    """Coefficient of the sum of squared weights, added to the loss; where it starts if it adapts (PEBBLE: 0)."""
    penalty_band: tuple[float, ...] = ()
    """Between what multiples of the training loss the penalty keeps the held-out loss, once a pass (Christiano: 1.1, 1.5). Empty: it
    stays as it is."""
    penalty_pace: float = 1.1
    """Factor of one change of the penalty (no source)."""
    dropout: float = 0.0
    """Share of the features of an image that a gradient step does without (Christiano for Atari: 0.5, in every layer)."""
    regress_returns: bool = False
    """Learn the clips' true returns by least squares, not the comparisons: Christiano's ablation "target"."""
    batch_size: int = 128
    """Comparisons per gradient step (PEBBLE: 128)."""
    epochs: int = 50
    """Passes over the labels per session at most (B-Pref: 50 on DeepMind Control, 10 on Meta-World)."""
    max_steps: int | None = None
    """Gradient steps per session at most, whatever `epochs` says. A cap of 30 keeps the model from memorizing wrong labels."""
    first_max_steps: int | None = None
    """The same for the first session."""
    min_steps: int = 20
    """Gradient steps before `target_accuracy` may end the fit."""
    target_accuracy: float = 0.97
    """Stop once the last pass agreed with this share of the labels (PEBBLE: 0.97)."""
    rater_error: float = 0.0
    """Share of answers given at random, inside the likelihood (Christiano: 0.1; PEBBLE: 0)."""
    label_smoothing: float = 0.0
    """Of the labels (STAR: 0.05)."""
    bounded: bool = True
    """A tanh on the output (PEBBLE: yes)."""
    standardize_inputs: bool = False
    """Observation and action to mean 0 and deviation 1, with moments taken before the first fit (PEBBLE: no)."""
    target_std: float | None = None
    """Each member's reward is brought to mean 0 and this deviation over the replay, before averaging (Christiano: 1 for
    MuJoCo; PEBBLE: none)."""


CHRISTIANO = Config(
    hidden=(64, 64), learning_rate=1e-3, batch_size=64, target_accuracy=1.0, rater_error=0.1, bounded=False, standardize_inputs=True,
    target_std=1.0, bootstrap=True, penalty=1e-4, penalty_band=(1.1, 1.5),
)  # fmt: skip
"""Christiano et al. 2017, appendix A.1, for MuJoCo. Rate, batch and first penalty are not in the paper (rl-teacher: 1e-3, 64, none)."""


CHRISTIANO_ATARI = replace(
    CHRISTIANO, hidden=(64,), learning_rate=2e-4, batch_size=16, standardize_inputs=False, target_std=0.05, dropout=0.5
)
"""The same for Atari, appendix A.2: images through four convolutions. Without batch normalization; rate and batch as far as known from
others (mrahtz: 2e-4)."""


def preference_loss(
    rewards: Float[Tensor, "R E n 2 L"],
    label: Float[Tensor, "R E n"],
    mask: Bool[Tensor, "R E n 2 L"] | None,
    rater_error: float,
    label_smoothing: float,
) -> Float[Tensor, "R E n"]:
    """Bradley-Terry over summed rewards, not reduced. mask: steps that count (None: all)."""
    left, right = (None, None) if mask is None else mask.unbind(3)
    logit = preference_logit(rewards[..., 0, :], rewards[..., 1, :], left, right)
    return bradley_terry_loss(logit, label, rater_error, label_smoothing)


def return_loss(rewards: Float[Tensor, "R E n 2 L"], true_return: Float[Tensor, "R E n 2"]) -> Float[Tensor, "R E n"]:
    """1/2 (sum_t r^_t - sum_t r_t)^2, added over both clips, not reduced. Christiano et al. 2017, section 3.3, "target"."""
    return 0.5 * (rewards.sum(-1) - true_return).square().sum(-1)


def reward_inputs(observation_space: Space, action_space: Space) -> tuple[int | tuple[int, ...], int]:
    """What the reward model reads: the width of a vector or the shape of an image, and the width of an action.

    Where actions are choices, whose numbers are no quantities, and for images, it is a reward of states alone.
    """
    shape = observation_shape(observation_space)
    reads = isinstance(action_space, Box) and len(shape) == 1
    return shape[0] if len(shape) == 1 else shape, action_width(action_space) if reads else 0


class RewardEnsemble(RewardSource):
    """E reward nets for each of R seeds; every member sees the labels, or its bootstrap sample of them, in an order of its own."""

    def __init__(
        self,
        config: Config,
        observation: int | tuple[int, ...],
        action_width: int,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """observation: the width of a vector, or (channels, height, width) of an image, whose reward is that of states alone.

        generators: one per seed. action_width: 0 for rewards of states alone.
        """
        self.action_width = action_width
        self.config, self.generators, self.device = config, list(generators), torch.device(device)
        R, E = len(self.generators), config.members
        width = observation + action_width if isinstance(observation, int) else 0
        self.conv = None if isinstance(observation, int) else Conv(observation, (R, E), CHRISTIANO_CONV, "leaky_relu")
        inputs = width if self.conv is None else self.conv.outputs
        self.net = Body(self.conv, MLP((inputs, *config.hidden, 1), (R, E), activation="leaky_relu"), None)
        self.parameters = Parameters(self.net.shapes(), device)
        self.net.initialize(self.parameters, self.generators)
        self.optimizer = StackedAdam(self.parameters, config.learning_rate, weight_decay=config.weight_decay)
        self.input_mean = torch.zeros(R, 1, width, device=device)
        self.input_std = torch.ones(R, 1, width, device=device)
        self.output_mean = torch.zeros(R, E, 1, device=device)
        self.output_std = torch.ones(R, E, 1, device=device)
        self.penalty = torch.full((R, E), config.penalty, device=device)
        """Coefficient of each member's squared weights."""
        self.fits = torch.zeros(R, dtype=torch.int64)
        """Fits to which a seed had labels."""

    def member_rewards(
        self, observation: Shaped[Tensor, "R ..."], action: Float[Tensor, "R *n A"], weights: dict[str, Tensor] | None = None
    ) -> Float[Tensor, "R E *n"]:
        """The raw output of every member, before normalization."""
        x = self.inputs(observation, action)
        places, lead = x.shape[: x.dim() - self._axes], x.shape[x.dim() - self._axes :]
        flat = x.reshape(len(x), 1, -1, *lead)
        return self.outputs(flat.expand(-1, self.config.members, *flat.shape[2:]), weights).view(len(x), self.config.members, *places[1:])

    @property
    def _axes(self) -> int:
        """Of what the nets read: 1 for vectors, 3 for images."""
        return 1 if self.conv is None else 3

    def outputs(self, x: Shaped[Tensor, "R E N *width"], weights: dict[str, Tensor] | None = None) -> Float[Tensor, "R E N"]:
        """What the nets make of what they read; by other weights than their own where some are given."""
        weights = self.parameters.weights if weights is None else weights
        # On CPU in pieces: 1.7 times faster than 16,384 transitions at once.
        piece = max((ROWS if self.conv is None else PICTURES) // (len(x) * self.config.members), 64 if self.conv is None else 1)
        pieces = x.split(piece, 2) if self.device.type == "cpu" else (x,)
        return torch.cat([self._forward(weights, piece) for piece in pieces], -1)

    def inputs(self, observation: Shaped[Tensor, "R *n"], action: Float[Tensor, "R *m A"]) -> Shaped[Tensor, "R *k"]:
        """What the nets read: both, standardized where the config asks for it; of images their bytes, and no action."""
        if self.conv is not None:
            return observation.to(self.device)
        x = torch.cat([observation, action[..., : self.action_width]], -1).to(self.device)
        shape = (len(x),) + (1,) * (x.dim() - 2) + (-1,)
        return (x - self.input_mean.view(shape)) / self.input_std.view(shape)

    def _forward(self, weights: dict[str, Tensor], x: Shaped[Tensor, "R E N *width"], learns: bool = False) -> Float[Tensor, "R E N"]:
        if self.conv is not None and learns and self.config.dropout:
            features = self.conv(weights, x)
            share = 1.0 - self.config.dropout
            kept = torch.stack([torch.rand(features.shape[1:], generator=g) < share for g in self.generators])
            output = self.net.mlp(weights, features * kept.to(features.device) / share).squeeze(-1)
        else:
            output = self.net(weights, x).squeeze(-1)
        return output.tanh() if self.config.bounded else output

    @torch.no_grad()
    def reward(
        self, observation: Shaped[Tensor, "R ..."], action: Float[Tensor, "R *n A"], game_reward: Tensor | None = None
    ) -> Float[Tensor, "R *n"]:
        """The members' rewards, each normalized on its own, then averaged. The game's reward is not looked at."""
        return self.normalized(self.member_rewards(observation, action)).mean(1)

    @torch.no_grad()
    def disagreement(self, observation: Shaped[Tensor, "R ..."], action: Float[Tensor, "R *n A"]) -> Float[Tensor, "R *n"]:
        """Standard deviation over the members of their normalized rewards. Liang et al. 2022 (RUNE, arXiv 2205.12401), eq. 3."""
        return self.normalized(self.member_rewards(observation, action)).std(1, unbiased=False)

    def normalized(self, members: Float[Tensor, "R E *n"]) -> Float[Tensor, "R E *n"]:
        """Raw outputs with each member's mean taken off and its deviation brought to the target, where there is one."""
        shape = members.shape[:2] + (1,) * (members.dim() - 2)
        return (members - self.output_mean.view(shape)) / self.output_std.view(shape)

    @torch.no_grad()
    def logits(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Float[Tensor, "R E N"]:
        """Each member's log-odds that the left segment is preferred; segments are (observation, action) `[R, N, H, ...]`."""
        return preference_logit(self.member_rewards(*left), self.member_rewards(*right))

    @torch.no_grad()
    def measure_inputs(
        self, observation: Shaped[Tensor, "R N *O"], action: Float[Tensor, "R N A"], chosen: Bool[Tensor, "R"] | None = None
    ) -> None:
        """Take the moments of the inputs of the chosen seeds (None: all), when the config asks for standardized inputs."""
        if self.config.standardize_inputs and self.conv is None:
            kept = self._marked(chosen)
            x = torch.cat([observation, action[..., : self.action_width]], -1).to(self.device)
            self.input_mean[kept] = x.mean(1, keepdim=True)[kept]
            self.input_std[kept] = x.std(1, keepdim=True).clamp(min=1e-6)[kept]

    @torch.no_grad()
    def measure_outputs(
        self,
        observation: Shaped[Tensor, "R N *O"],
        action: Float[Tensor, "R N A"],
        chosen: Bool[Tensor, "R"] | None = None,
        chunk: int = 8192,
    ) -> None:
        """Take the moments of each member of the chosen seeds (None: all) over what was experienced, for a target deviation."""
        if self.config.target_std is not None:
            kept = self._marked(chosen)
            pieces = zip(observation.split(chunk, 1), action.split(chunk, 1), strict=True)
            outputs = torch.cat([self.member_rewards(o, a) for o, a in pieces], -1)
            self.output_mean[kept] = outputs.mean(-1, keepdim=True)[kept]
            self.output_std[kept] = outputs.std(-1, keepdim=True).clamp(min=1e-6)[kept] / self.config.target_std

    def _marked(self, chosen: Tensor | None) -> Tensor:
        return (torch.ones(len(self.fits), dtype=torch.bool) if chosen is None else chosen).to(self.device)

    def loss(self, rewards: Float[Tensor, "R E n 2 L"], rows: Rows) -> Float[Tensor, "R E n"]:
        """What the members are fitted by; of each row, and not weighted."""
        if self.config.regress_returns:
            return return_loss(rewards, rows.true_return)
        return preference_loss(rewards, rows.label, rows.mask, self.config.rater_error, self.config.label_smoothing)

    def gradient(self, rows: Rows) -> tuple[Tensor, Float[Tensor, "R E"], Float[Tensor, "R E n"]]:
        """Flat gradient of a minibatch, its losses and log-odds; on CPU in pieces (a tenth faster)."""
        R, E, N, _, L = rows.x.shape[:5]
        gradient = torch.zeros_like(self.parameters.flat)
        losses, logits = torch.zeros(R, E, device=self.device), []
        size = max((ROWS if self.conv is None else PICTURES) // (R * E * 2 * L), 1) if self.device.type == "cpu" else N
        for start in range(0, N, size):
            part = rows.part(slice(start, start + size))
            rewards = self._forward(self.parameters.leaves, part.x.flatten(2, 4), learns=True).view(R, E, -1, 2, L)
            loss = (self.loss(rewards, part) * part.weight).sum(-1)
            gradient += self.parameters.gather(torch.autograd.grad(loss.sum(), list(self.parameters.leaves.values())))
            losses += loss.detach()
            left, right = (None, None) if part.mask is None else part.mask.unbind(3)
            logits.append(preference_logit(rewards[..., 0, :].detach(), rewards[..., 1, :].detach(), left, right))
        if self.penalty.any():
            decay = [2.0 * self.penalty.view(R, E, *[1] * (leaf.dim() - 2)) * leaf.detach() for leaf in self.parameters.leaves.values()]
            gradient += self.parameters.gather(decay)
        return gradient, losses, torch.cat(logits, 2)

    def state(self) -> dict[str, Any]:
        """Weights, moments, generators and the numbers of fits."""
        return {
            "weights": self.parameters.flat,
            "optimizer": self.optimizer.state(),
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "output_mean": self.output_mean,
            "output_std": self.output_std,
            "penalty": self.penalty,
            "generators": [g.get_state() for g in self.generators],
            "fits": self.fits,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.parameters.flat.copy_(state["weights"])
        self.optimizer.load(state["optimizer"])
        for name in ("input_mean", "input_std", "output_mean", "output_std", "penalty"):
            getattr(self, name).copy_(state[name])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.fits.copy_(torch.as_tensor(state["fits"]))
