"""What all stages of language models share: how weights move, in which order texts come, and pieces of a batch.

A batch is what one step of the optimizer is about; a microbatch is what goes through the net at once. Gradients of microbatches add
up to that of the batch, to rounding: every loss here is divided by what the whole batch holds and not by what the piece holds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from tutelage.equations.schedules import cosine, linear
from tutelage.experience.text import bucketed_batches, shuffled_batches
from tutelage.learn.language.settings import Settings, TrainingError
from tutelage.nets.ranks import like, ranks, share, summed

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Optimization(Settings):
    """Settings of AdamW and of its rate."""

    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the rate changes after the warmup (InstructGPT: cosine for demonstrations and reward models)."""
    final_share: float = 0.1
    """What is left of the rate at the end of a schedule (InstructGPT: 0.1; Stiennon for PPO: 0)."""
    warmup: int = 0
    """Updates until the rate is whole (InstructGPT: none, but 10 iterations for PPO; DPO: 150)."""
    betas: tuple[float, ...] = (0.9, 0.95)
    """Memory of both moments (InstructGPT: 0.9, 0.95)."""
    epsilon: float = 1e-5
    """Added to the root of the second moment (N+ details: 1e-5)."""
    weight_decay: float = 0.0
    """Decoupled decay per step, times the rate (InstructGPT: 0)."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient of all weights (TRL: 1; the DPO repository: 10)."""

    def rate(self, peak: float, update: int | float, total: int) -> float:
        """The rate of update number `update`, from 0 on, of `total`."""
        if update < self.warmup:
            return peak * min((update + 1) / self.warmup, 1.0)  # between whole updates, too, no more than the peak
        share = (update - self.warmup) / max(total - self.warmup, 1)
        if self.schedule == "constant":
            return peak
        return (cosine if self.schedule == "cosine" else linear)(peak, self.final_share * peak, min(share, 1.0))


class Descent:
    """AdamW over some weights."""

    def __init__(self, weights: Mapping[str, nn.Parameter], learning_rate: float, how: Optimization) -> None:
        """weights: those that learn, by name. learning_rate: at its highest."""
        self.weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        self.peak, self.how = learning_rate, how
        first, second = how.betas
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()), learning_rate, (first, second), how.epsilon, how.weight_decay, fused=True
        )

    def step(self, update: int | float, total: int) -> dict[str, float]:
        """One step along the gradients that were added up, which are then zero. Raises TrainingError for one that is not finite."""
        norm: Any = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.how.max_grad_norm)
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # a sharded net's norm is in pieces
        if not math.isfinite(size):
            raise TrainingError(
                f"the gradient of update {update:g} is not finite; nothing was changed by it; a learning_rate below {self.peak:g} may help"
            )
        rate = self.how.rate(self.peak, update, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"gradient_norm": size, "learning_rate": rate}

    def state(self) -> dict[str, Any]:
        """Weights and moments, by name."""
        moments = self.optimizer.state
        return {
            "weights": dict(self.weights),
            "moments": {name: dict(moments[weight]) for name, weight in self.weights.items() if weight in moments},
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        if set(state["weights"]) != set(self.weights):
            other = sorted(set(state["weights"]) ^ set(self.weights))[0]
            raise ValueError(f"the saved weights are those of another net: {other} is in one of them only")
        for name, weight in self.weights.items():
            weight.copy_(like(state["weights"][name], weight))
            moments = state["moments"].get(name)
            if moments is None:
                self.optimizer.state.pop(weight, None)
            else:
                self.optimizer.state[weight] = {key: like(torch.as_tensor(value).clone(), weight) for key, value in moments.items()}


class Passes:
    """Which rows come next: every row once per pass, in an order that is drawn when the pass begins."""

    def __init__(self, count: int, batch_size: int, generator: Generator, lengths: Sequence[int] | None = None) -> None:
        """generator: nobody else's, for a pass is drawn again when a run resumes. lengths: given, rows of like length share a batch."""
        if count < 1:
            raise TrainingError("no rows were given; at least one is needed to learn from")
        if batch_size < 1:
            raise TrainingError(f"batch_size={batch_size} was given; at least 1 is needed")
        self.count, self.batch_size, self.generator, self.lengths = count, batch_size, generator, lengths
        self._before, self._batches, self._given = generator.get_state(), list[list[int]](), 0

    @property
    def per_pass(self) -> int:
        """Batches in a pass."""
        return -(-self.count // self.batch_size)

    def take(self) -> list[int]:
        """The next batch; the last of a pass may be smaller."""
        if self._given == len(self._batches):
            self._draw()
        self._given += 1
        return self._batches[self._given - 1]

    def _draw(self) -> None:
        self._before, self._given = self.generator.get_state(), 0
        if self.lengths is None:
            batches = shuffled_batches(self.count, self.batch_size, self.generator)
        else:
            batches = bucketed_batches(self.lengths, self.batch_size, self.generator)
        self._batches = [batch.tolist() for batch in batches]

    def state(self) -> dict[str, Any]:
        """The generator as it was before the pass, and how much of the pass was given."""
        return {"generator": self._before, "given": self._given}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.generator.set_state(state["generator"])
        self._before, self._batches, self._given = self.generator.get_state(), [], 0
        if state["given"]:
            self._draw()
            self._given = int(state["given"])


def spawned(generator: Generator, device: torch.device | str = "cpu") -> Generator:
    """A generator of its own for one part, from a draw of another."""
    return Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def pieces(rows: Sequence[Kind], microbatch: int | None) -> Iterator[Sequence[Kind]]:
    """Rows in microbatches (None: all at once)."""
    size = microbatch or max(len(rows), 1)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def shared(rows: Sequence[Kind], microbatch: int | None) -> list[tuple[Sequence[Kind], float]]:
    """This rank's microbatches of a batch, with their weights in the loss: 1.

    All ranks take part in every pass through a net, so all get as many microbatches: who has too few goes through the first row again,
    which then weighs 0 in the loss (in metrics it counts).
    """
    most = -(-len(rows) // ranks())
    own = [(part, 1.0) for part in pieces(share(rows), microbatch)]
    return own + [(rows[:1], 0.0)] * (-(-most // (microbatch or most)) - len(own))


def measured(count: int, microbatch: int | None, of: Callable[[list[int]], Tensor]) -> Tensor:
    """of(rows) of `count` rows, `[count, ...]`, in microbatches, where nothing is learned: every rank sees to its share and has all."""
    found: Tensor | None = None
    for part, weight in shared(range(count), microbatch):
        rows = list(part)
        own = of(rows)
        found = own.new_zeros(count, *own.shape[1:]) if found is None else found
        if weight:
            found[rows] = own
    if found is None:
        raise TrainingError("no rows were given; at least one is needed to measure")
    return summed(found)


def set_dropout(net: nn.Module, rate: float) -> None:
    """Of every layer, whichever way its author keeps the number. 0: two passes over one text give the same numbers."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = rate
        for name, value in list(vars(layer).items()):
            if "drop" in name and isinstance(value, float):
                setattr(layer, name, rate)


@runtime_checkable
class Stage(Protocol):
    """What every algorithm of this chapter offers to the run that trains it. It holds its rows, for they are all there from the start."""

    updates: int
    """Taken."""
    total: int
    """Planned."""

    def update(self) -> dict[str, float]:
        """The next step of the optimizer, or of PPO the next texts and all steps on them; metrics by name."""
        ...

    def nets(self) -> dict[str, Any]:
        """What has been learned, by the folder that a run saves it in: each has `save(folder)`."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as a tree of plain values and tensors."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


def mean_metrics(found: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """Of several steps, the mean of each number."""
    return {name: sum(float(one[name]) for one in found) / len(found) for name in (found[0] if found else {})}
