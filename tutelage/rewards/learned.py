"""A reward learned from comparisons: an ensemble of nets in one stack.

Christiano et al. 2017 (arXiv 1706.03741), sec. 2.2; settings of PEBBLE (Lee et al. 2021) where they differ. The ensemble
takes segments, labels and weights as tensors and knows nothing of who gave them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from tutelage.equations.preferences import bradley_terry_loss, preference_logit
from tutelage.nets.adam import StackedAdam
from tutelage.nets.mlp import MLP
from tutelage.nets.parameters import Parameters
from tutelage.rewards.source import RewardSource

ROWS = 1536  # that go through the nets at once on CPU, all members together: their activations stay in the cache


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


def preference_loss(
    left: Float[Tensor, "R E N H"],
    right: Float[Tensor, "R E N H"],
    label: Float[Tensor, "R E N"],
    weight: Float[Tensor, "R E N"],
    rater_error: float,
    label_smoothing: float,
) -> Float[Tensor, "R E"]:
    """Bradley-Terry over summed rewards, the weighted mean over comparisons; one loss per member."""
    loss = bradley_terry_loss(preference_logit(left, right), label, rater_error, label_smoothing)
    return (loss * weight).sum(-1) / weight.sum(-1).clamp(min=1e-12)


class RewardEnsemble(RewardSource):
    """E reward nets for each of R seeds; every member sees the same labels in an order of its own."""

    def __init__(
        self,
        config: Config,
        observation_width: int,
        action_width: int,
        generators: Sequence[Generator],
        device: torch.device | str = "cpu",
    ) -> None:
        """generators: one per seed."""
        self.config, self.generators, self.device = config, list(generators), torch.device(device)
        R, E, width = len(self.generators), config.members, observation_width + action_width
        self.net = MLP((width, *config.hidden, 1), (R, E), activation="leaky_relu")
        self.parameters = Parameters(self.net.shapes(), device)
        self.net.initialize(self.parameters, self.generators)
        self.optimizer = StackedAdam(self.parameters, config.learning_rate, weight_decay=config.weight_decay)
        self.input_mean = torch.zeros(R, 1, width, device=device)
        self.input_std = torch.ones(R, 1, width, device=device)
        self.output_mean = torch.zeros(R, E, 1, device=device)
        self.output_std = torch.ones(R, E, 1, device=device)
        self.fits = torch.zeros(R, dtype=torch.int64)
        """Fits to which a seed had labels."""

    def member_rewards(
        self, observation: Float[Tensor, "R *n D"], action: Float[Tensor, "R *n A"], weights: dict[str, Tensor] | None = None
    ) -> Float[Tensor, "R E *n"]:
        """The raw output of every member, before normalization."""
        x = self._inputs(observation, action)
        flat = x.view(len(x), 1, -1, x.shape[-1]).expand(-1, self.config.members, -1, -1)
        weights = self.parameters.weights if weights is None else weights
        # On CPU in pieces: 1.7 times faster than 16,384 transitions at once.
        piece = max(ROWS // (len(x) * self.config.members), 64)
        pieces = flat.split(piece, 2) if self.device.type == "cpu" else (flat,)
        output = torch.cat([self._forward(weights, piece) for piece in pieces], -1)
        return output.view(len(x), self.config.members, *x.shape[1:-1])

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([observation, action], -1).to(self.device)
        shape = (len(x),) + (1,) * (x.dim() - 2) + (-1,)
        return (x - self.input_mean.view(shape)) / self.input_std.view(shape)

    def _forward(self, weights: dict[str, Tensor], x: Float[Tensor, "R E N width"]) -> Float[Tensor, "R E N"]:
        output = self.net(weights, x).squeeze(-1)
        return output.tanh() if self.config.bounded else output

    @torch.no_grad()
    def reward(
        self, observation: Float[Tensor, "R *n D"], action: Float[Tensor, "R *n A"], game_reward: Tensor | None = None
    ) -> Float[Tensor, "R *n"]:
        """The members' rewards, each normalized on its own, then averaged. The game's reward is not looked at."""
        members = self.member_rewards(observation, action)
        shape = members.shape[:2] + (1,) * (members.dim() - 2)
        return ((members - self.output_mean.view(shape)) / self.output_std.view(shape)).mean(1)

    @torch.no_grad()
    def logits(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Float[Tensor, "R E N"]:
        """Each member's log-odds that the left segment is preferred; segments are (observation, action) `[R, N, H, ...]`."""
        return preference_logit(self.member_rewards(*left), self.member_rewards(*right))

    @torch.no_grad()
    def measure_inputs(
        self, observation: Float[Tensor, "R N D"], action: Float[Tensor, "R N A"], chosen: Bool[Tensor, "R"] | None = None
    ) -> None:
        """Take the moments of the inputs of the chosen seeds (None: all), when the config asks for standardized inputs."""
        if self.config.standardize_inputs:
            kept = self._marked(chosen)
            x = torch.cat([observation, action], -1).to(self.device)
            self.input_mean[kept] = x.mean(1, keepdim=True)[kept]
            self.input_std[kept] = x.std(1, keepdim=True).clamp(min=1e-6)[kept]

    @torch.no_grad()
    def measure_outputs(
        self,
        observation: Float[Tensor, "R N D"],
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

    def fit(
        self,
        left: tuple[Float[Tensor, "R N H D"], Float[Tensor, "R N H A"]],
        right: tuple[Float[Tensor, "R N H D"], Float[Tensor, "R N H A"]],
        label: Float[Tensor, "R N"],
        weight: Float[Tensor, "R N"],
    ) -> dict[str, Float[Tensor, "R"]]:
        """Gradient steps on minibatches until a member's seed is accurate enough or the budget is spent.

        label: 1 where left is preferred, 0 right, 0.5 a tie. weight 0: no label there (seeds may have different numbers).
        A seed without any label is left as it is. Metrics: loss, accuracy (ties left out), steps.
        """
        x = torch.stack([self._inputs(*left), self._inputs(*right)], 2)  # [R, N, 2, H, width]
        label, weight = label.to(self.device), weight.to(self.device)
        usable = [row.nonzero().flatten() for row in weight.cpu()]
        budgets = [self._budget(len(rows), int(fits)) for rows, fits in zip(usable, self.fits, strict=True)]
        streams = [self._orders(rows, budget, g) for rows, budget, g in zip(usable, budgets, self.generators, strict=True)]
        R, batch_size = len(x), self.config.batch_size
        seeds = torch.arange(R, device=self.device)[:, None, None]
        # What stands in for padding: a label that counts, since an infinity or a NaN times weight 0 would not be 0.
        spare = torch.tensor([int(rows[0]) if len(rows) else 0 for rows in usable], device=self.device)[:, None, None]
        active = torch.tensor([budget > 0 for budget in budgets])
        history: list[list[tuple[float, float, float]]] = [[] for _ in range(R)]
        for step in range(max(budgets)):
            if not active.any():
                break
            index = torch.stack([s[step % len(s)] for s in streams]).to(self.device)  # [R, E, batch]; -1 pads
            here = torch.where(index >= 0, index, spare)
            y, w = label[seeds, here], weight[seeds, here] * (index >= 0)
            gradient, loss, returns = self._gradient(x[seeds, here], y, w)
            self.optimizer.step(gradient, active.to(self.device))
            with torch.no_grad():
                agreed = ((returns[..., 0] > returns[..., 1]) == (y > 0.5)) & (w > 0) & (y != 0.5)
                counted = (w > 0) & (y != 0.5)
                row = torch.stack([loss.mean(1), agreed.sum((1, 2)).float(), counted.sum((1, 2)).float()], -1).cpu()
            for seed in active.nonzero().flatten().tolist():
                history[seed].append(tuple(row[seed].tolist()))
                passes = -(-len(usable[seed]) // batch_size)
                _, accuracy = self._recent(history[seed], passes)
                done = step + 1 >= self.config.min_steps and step + 1 >= passes and accuracy > self.config.target_accuracy
                active[seed] = not done and step + 1 < budgets[seed]
        self.fits += torch.tensor([len(rows) > 0 for rows in usable])
        recent = [self._recent(rows, -(-len(u) // batch_size)) for rows, u in zip(history, usable, strict=True)]
        return {
            "loss": torch.tensor([loss for loss, _ in recent]),
            "accuracy": torch.tensor([accuracy for _, accuracy in recent]),
            "fit_steps": torch.tensor([float(len(rows)) for rows in history]),
        }

    def _gradient(
        self, x: Float[Tensor, "R E batch 2 H width"], label: Float[Tensor, "R E batch"], weight: Float[Tensor, "R E batch"]
    ) -> tuple[Tensor, Float[Tensor, "R E"], Float[Tensor, "R E batch 2"]]:
        """Flat gradient of a minibatch, its losses and the segments' learned returns; on CPU in pieces (a tenth faster)."""
        R, E, N, _, H, width = x.shape
        # A piece's mean counts by its share of the weight, so that the sum over pieces is the mean over all.
        whole = weight.sum(-1).clamp(min=1e-12)
        gradient, losses, returns = torch.zeros_like(self.parameters.flat), torch.zeros_like(whole), []
        size = max(ROWS // (R * E * 2 * H), 1) if self.device.type == "cpu" else N
        for part, y, w in zip(x.split(size, 2), label.split(size, 2), weight.split(size, 2), strict=True):
            rewards = self._forward(self.parameters.leaves, part.reshape(R, E, -1, width)).view(R, E, -1, 2, H)
            loss = preference_loss(rewards[..., 0, :], rewards[..., 1, :], y, w, self.config.rater_error, self.config.label_smoothing)
            loss = loss * w.sum(-1) / whole
            gradient += self.parameters.gather(torch.autograd.grad(loss.sum(), list(self.parameters.leaves.values())))
            losses += loss.detach()
            returns.append(rewards.detach().sum(-1))
        return gradient, losses, torch.cat(returns, 2)

    @staticmethod
    def _recent(history: list[tuple[float, float, float]], passes: int) -> tuple[float, float]:
        """Loss and accuracy over the last pass over the labels."""
        rows = history[-max(passes, 1) :]
        if not rows:
            return float("nan"), float("nan")
        counted = sum(row[2] for row in rows)
        return sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows) / counted if counted else float("nan")

    def _budget(self, labels: int, fits: int) -> int:
        """Gradient steps that a session may take at most after so many earlier ones."""
        cap = self.config.first_max_steps if fits == 0 and self.config.first_max_steps is not None else self.config.max_steps
        steps = self.config.epochs * -(-labels // self.config.batch_size)
        return steps if cap is None else min(steps, cap)

    def _orders(self, rows: Tensor, budget: int, generator: Generator) -> Int[Tensor, "steps E batch"]:
        """Which label each member sees at each step: pass after pass, each in a fresh order; short passes are padded with -1."""
        size = self.config.batch_size
        per_pass = -(-len(rows) // size)
        if not budget:
            return torch.full((1, self.config.members, size), -1)
        passes = -(-budget // per_pass)
        padded = torch.full((self.config.members, passes, per_pass * size), -1)
        for member in range(self.config.members):
            for number in range(passes):
                padded[member, number, : len(rows)] = rows[torch.randperm(len(rows), generator=generator)]
        return padded.view(self.config.members, passes * per_pass, size).transpose(0, 1)

    def state(self) -> dict[str, Any]:
        """Weights, moments, generators and the numbers of fits."""
        return {
            "weights": self.parameters.flat,
            "optimizer": self.optimizer.state(),
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "output_mean": self.output_mean,
            "output_std": self.output_std,
            "generators": [g.get_state() for g in self.generators],
            "fits": self.fits,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.parameters.flat.copy_(state["weights"])
        self.optimizer.load(state["optimizer"])
        for name in ("input_mean", "input_std", "output_mean", "output_std"):
            getattr(self, name).copy_(state[name])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.fits.copy_(torch.as_tensor(state["fits"]))
