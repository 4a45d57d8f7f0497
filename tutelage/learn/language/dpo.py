"""Direct preference optimization: the policy itself is the reward model, and a pair of answers is a step of its own.

Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. The policy that is optimal for a reward under a KL penalty is the reference times
exp(r / beta); solved for r, the reward is beta (log pi - log pi_ref) and a term that cancels between two answers to one prompt. So the
cross-entropy of Bradley-Terry on pairs trains the policy, with neither a reward model nor sampling.

Where we depart from the paper
- AdamW for RMSprop, as all other stages. The neighbors of DPO are choices of one loss here, since only a line differs (see `LOSSES`).
- The reference's log-probabilities are computed once per run (reference.py); a live reference gives the same numbers.
- Both answers fall in probability in many runs; `logp/chosen` shows it, and `nll_coefficient` is what others add against it.
Left out: losses that need other data than pairs (KTO is a file of its own), a reference that follows the policy.
Landscape: model-free, off-policy, offline; discrete actions; scale: deep
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tutelage.equations.direct_preferences import dpo_logit, hinge_loss, ipo_loss, log_odds, modpo_logit, robust_dpo_loss, simpo_logit
from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.text import Encoded, pad_right
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, mean_metrics, pieces, set_dropout, shared, spawned
from tutelage.learn.language.reference import text_logp
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import shard


@dataclass(frozen=True)
class Config(Settings):
    """Settings of DPO and its neighbors."""

    loss: Literal["dpo", "robust", "ipo", "ipo-mean", "hinge", "orpo", "simpo", "dpo-norm", "modpo"] = "dpo"
    """Which loss; with label_smoothing "dpo" is cDPO. orpo and simpo have no reference; ipo-mean is TRL's, dpo-norm is Tulu 3's."""
    beta: float = 0.1
    """How dear the distance from the reference is (paper: 0.1; TL;DR: 0.5; dpo-norm: 5; simpo: 2 to 2.5; chat models: 0.01)."""
    label_smoothing: float = 0.0
    """Share of labels that are believed to be wrong, for dpo (cDPO: 0.1), robust (0.1), simpo and dpo-norm."""
    target_margin: float = 1.0
    """gamma of simpo (paper: 0.3 to 0.5 of beta)."""
    odds_coefficient: float = 0.1
    """lambda of orpo (paper: 0.1 to 0.25; TRL calls it beta)."""
    nll_coefficient: float = 0.0
    """Of the mean negative log-likelihood of the chosen answer beside the loss (RPO: 1; orpo has it built in)."""
    objective_weights: tuple[float, ...] = (1.0,)
    """w of modpo: of the objective that the pairs are about, then of each that has a reward already."""
    epochs: int = 1
    """Passes over the pairs (paper: 1)."""
    batch_size: int = 64
    """Pairs per update (paper: 64)."""
    microbatch: int | None = None
    """Pairs through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 1e-6
    """At its highest (paper: 1e-6, its repository: 5e-7; a net of 30,000 weights wants 3e-4)."""
    optimizer: Optimization = field(default_factory=lambda: Optimization(schedule="constant", warmup=150, betas=(0.9, 0.999)))
    """Schedule, moments, clipping (paper: constant after 150 updates)."""
    live_reference: bool = False
    """Run the reference at every update instead of once before the first."""


class PairLogp(NamedTuple):
    """Sums over the answers' tokens, of N pairs."""

    chosen: Float[Tensor, "N"]
    rejected: Float[Tensor, "N"]
    reference_chosen: Float[Tensor, "N"]
    reference_rejected: Float[Tensor, "N"]
    chosen_length: Float[Tensor, "N"]
    rejected_length: Float[Tensor, "N"]
    margins: Float[Tensor, "N M"]
    """Gaps of the rewards of other objectives (modpo)."""

    @property
    def means(self) -> "PairLogp":
        """The same, per token."""
        return self._replace(
            chosen=self.chosen / self.chosen_length, reference_chosen=self.reference_chosen / self.chosen_length,
            rejected=self.rejected / self.rejected_length, reference_rejected=self.reference_rejected / self.rejected_length,
        )  # fmt: skip

    def logit(self, beta: float) -> Float[Tensor, "N"]:
        """beta h."""
        return dpo_logit(self.chosen, self.rejected, self.reference_chosen, self.reference_rejected, beta)


def dpo_loss(pairs: PairLogp, config: Config) -> Float[Tensor, "N"]:
    """-(1 - e) log sigma(beta h) - e log sigma(-beta h), h the gap of both log-ratios; e = 0 is the paper's eq. 7. Not reduced."""
    return _certain(pairs.logit(config.beta), config.label_smoothing)


def orpo_loss(pairs: PairLogp, config: Config) -> Float[Tensor, "N"]:
    """Mean negative log-likelihood of the chosen answer, and lambda times Bradley-Terry on log-odds. No reference. Not reduced."""
    means = pairs.means
    return -means.chosen + config.odds_coefficient * _certain(log_odds(means.chosen) - log_odds(means.rejected))


def modpo_loss(pairs: PairLogp, config: Config) -> Float[Tensor, "N"]:
    """Bradley-Terry on the logit that leaves to the policy only what the other objectives' rewards do not explain. Not reduced."""
    return _certain(modpo_logit(pairs.logit(1.0), config.beta, pairs.margins, pairs.chosen.new_tensor(config.objective_weights)))


def _certain(logit: Float[Tensor, "N"], smoothing: float = 0.0) -> Float[Tensor, "N"]:
    """The chosen answer is the left one."""
    return bradley_terry_loss(logit, torch.ones_like(logit), label_smoothing=smoothing)


LOSSES: dict[str, Callable[[PairLogp, Config], Tensor]] = {
    "dpo": dpo_loss,
    "robust": lambda pairs, config: robust_dpo_loss(pairs.logit(config.beta), config.label_smoothing),
    "ipo": lambda pairs, config: ipo_loss(pairs.logit(1.0), config.beta),
    "ipo-mean": lambda pairs, config: ipo_loss(pairs.means.logit(1.0), config.beta),
    "hinge": lambda pairs, config: hinge_loss(pairs.logit(config.beta)),
    "orpo": orpo_loss,
    "simpo": lambda pairs, config: _certain(
        simpo_logit(pairs.means.chosen, pairs.means.rejected, config.beta, config.target_margin), config.label_smoothing
    ),
    "dpo-norm": lambda pairs, config: dpo_loss(pairs.means, config),
    "modpo": modpo_loss,
}
FREE = ("orpo", "simpo")
"""What has no reference."""
PER_TOKEN = ("ipo-mean", "orpo", "simpo", "dpo-norm")  # compare means over tokens and not sums
SMOOTHED = ("dpo", "robust", "simpo", "dpo-norm")  # know label_smoothing


class DPO:
    """One policy, its reference, and pairs of answers."""

    def __init__(
        self, config: Config, model: LanguageModel, pairs: Sequence[tuple[Encoded, Encoded]], generator: Generator,
        reference: Float[Tensor, "N 2"] | LanguageModel | None = None, margins: Float[Tensor, "N M"] | None = None,
    ) -> None:  # fmt: skip
        """pairs: (chosen, rejected), each with its prompt before it.

        reference: its log-probabilities of both answers, or itself; None: the model as it is now (with adapters: without them).
        margins: of modpo, the other objectives' r(chosen) - r(rejected). Raises TrainingError for a pair without a token to learn from.
        """
        for number, pair in enumerate(pairs):
            for name, text in zip(("chosen", "rejected"), pair, strict=True):
                if not any(text.response):
                    raise TrainingError(
                        f"pair {number}: its {name} answer has no token; it is empty, or was cut off with the end of the text"
                    )
        if config.label_smoothing and config.loss not in SMOOTHED:
            raise TrainingError(f"label_smoothing={config.label_smoothing:g} was given for {config.loss}; it is for {', '.join(SMOOTHED)}")
        others = len(config.objective_weights) - 1
        if config.loss == "modpo" and (margins is None or margins.shape != (len(pairs), others)):
            got = "none" if margins is None else f"{tuple(margins.shape)}"
            raise TrainingError(f"modpo with {others + 1} weights needs margins of shape ({len(pairs)}, {others}); {got} were given")
        set_dropout(model, 0.0)
        self.config, self.model, self.pairs, self.loss = config, model, list(pairs), LOSSES[config.loss]
        self.margins = torch.zeros(len(pairs), 0) if margins is None else margins
        self.passes = Passes(len(pairs), config.batch_size, spawned(generator))
        self.live, self.reference = None, reference if isinstance(reference, Tensor) else torch.zeros(len(pairs), 2)
        if not isinstance(reference, Tensor) and config.loss not in FREE:
            self.live = reference if reference is not None or model.adapted is not None else model.copy()
        shard(model, self.live)
        if not (isinstance(reference, Tensor) or config.loss in FREE or config.live_reference):
            self.reference, self.live = self.reference_logp(self.pairs), None
        self.descent = Descent(dict(model.named_parameters()), config.learning_rate, config.optimizer)
        self.updates, self.total = 0, config.epochs * self.passes.per_pass

    def reference_logp(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> Float[Tensor, "n 2"]:
        """What the reference says of both answers of each pair."""
        texts = [text for pair in pairs for text in pair]
        size = 2 * (self.config.microbatch or self.config.batch_size)
        if self.live is not None:
            return text_logp(self.live, texts, size).view(-1, 2)
        with self.model.reference() as without:
            return text_logp(without, texts, size).view(-1, 2)

    def update(self) -> dict[str, float]:
        """One step on the next batch of pairs."""
        rows = self.passes.take()
        found, known = list[dict[str, float]](), not self.config.live_reference or self.config.loss in FREE
        reference = self.reference[rows] if known else self.reference_logp([self.pairs[i] for i in rows])
        for part, weight in shared(range(len(rows)), self.config.microbatch):
            own = [rows[i] for i in part]
            batch = self.measure([self.pairs[i] for i in own], reference[list(part)], self.margins[own])
            loss = self._objective(batch)
            (weight * loss.sum() / len(rows)).backward()
            found += [self._measures(PairLogp(*(x.detach() for x in batch)), loss.detach())] * len(part)
        metrics = mean_metrics(found) | self.descent.step(self.updates, self.total)
        self.updates += 1
        return metrics

    def _objective(self, batch: PairLogp) -> Float[Tensor, "N"]:
        loss = self.loss(batch, self.config)
        return loss if not self.config.nll_coefficient else loss - self.config.nll_coefficient * batch.means.chosen

    def measure(self, pairs: Sequence[tuple[Encoded, Encoded]], reference: Tensor, margins: Tensor) -> PairLogp:
        """The policy's log-probabilities of both answers, in one batch, beside the reference's."""
        batch = pad_right([pair[i] for i in (0, 1) for pair in pairs], 0).to(self.model.device)
        logp = self.model.log_probs(batch.tokens, batch.attention, batch.response).sum(1)
        lengths = batch.response.sum(1).to(logp.dtype)
        N, device = len(pairs), logp.device
        chosen, rejected = reference.to(device).unbind(1)
        return PairLogp(logp[:N], logp[N:], chosen, rejected, lengths[:N], lengths[N:], margins.to(device))

    def _measures(self, pairs: PairLogp, loss: Tensor) -> dict[str, float]:
        told = pairs.means if self.config.loss in PER_TOKEN else pairs
        chosen = self.config.beta * (told.chosen - told.reference_chosen)
        rejected = self.config.beta * (told.rejected - told.reference_rejected)
        return {
            "loss": float(loss.mean()),
            "reward/chosen": float(chosen.mean()),
            "reward/rejected": float(rejected.mean()),
            "reward/margin": float((chosen - rejected).mean()),
            "accuracy": float((chosen > rejected).float().mean()),
            "logp/chosen": float(pairs.chosen.mean()),
            "logp/rejected": float(pairs.rejected.mean()),
        }

    @torch.no_grad()
    def evaluate(
        self, pairs: Sequence[tuple[Encoded, Encoded]], reference: Tensor | None = None, margins: Tensor | None = None
    ) -> dict[str, float]:
        """Loss, rewards and accuracy on n other pairs. reference: its numbers `[n, 2]`; None: a live one. margins: `[n, M]`, for modpo."""
        if self.config.loss == "modpo" and margins is None:
            raise TrainingError("pairs were to be evaluated without what other objectives say of them; modpo needs their margins")
        margins = torch.zeros(len(pairs), self.margins.shape[1]) if margins is None else margins
        if reference is None and self.config.loss not in FREE and not self.config.live_reference:
            raise TrainingError("pairs were to be evaluated without what the reference says of them; its log-probabilities are needed")
        if reference is None:
            reference = torch.zeros(len(pairs), 2) if self.config.loss in FREE else self.reference_logp(pairs)
        found: list[dict[str, float]] = []
        for part in pieces(range(len(pairs)), self.config.microbatch or self.config.batch_size):
            batch = self.measure([pairs[i] for i in part], reference[list(part)], margins[list(part)])
            found += [self._measures(batch, self._objective(batch))] * len(part)
        return mean_metrics(found)

    def nets(self) -> dict[str, Any]:
        """The policy."""
        return {"model": self.model}

    def state(self) -> dict[str, Any]:
        """Weights, moments, order, the reference's numbers and the count of updates."""
        return {"descent": self.descent.state(), "passes": self.passes.state(), "reference": self.reference, "updates": self.updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.passes.load(state["passes"])
        self.reference = state["reference"].clone()
        self.updates = int(state["updates"])
