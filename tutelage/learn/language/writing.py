"""Writing to learn from it: a policy answers prompts, a reference says how likely that was, and a reward scores it.

What PPO, RLOO, GRPO and online DPO share. Everything is measured once, when the text is written, and not again while it is learned from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.text import TextBatch, pad_left
from tutelage.learn.language.descent import Passes, TrainingError, spawned
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import LanguageModel
from tutelage.nets.sampling import sample
from tutelage.rewards.text import TextReward


@dataclass(frozen=True)
class Sampling(Settings):
    """How answers are drawn, and what one without an end is worth."""

    max_new_tokens: int = 48
    """Longest answer (Stiennon: 48)."""
    sampling_temperature: float = 1.0
    """Divides the logits, in sampling and in every log-probability alike (InstructGPT: 1; N+ details: 0.7)."""
    missing_eos: Literal["keep", "replace", "subtract"] = "keep"
    """What happens to the score of an answer that does not end: nothing; `missing_eos_score` in its place (N+ details); or that added to it
    (TRL, where it is called a penalty and taken off)."""
    missing_eos_score: float = -1.0
    """See above (N+ details: -1; TRL's penalty: 1)."""
    microbatch: int = 64
    """Texts through reference, critic and log-probabilities at once, where nothing is learned."""
    rescore: bool = False
    """Take the log-probabilities of what was written from a pass like those of training and not from the sampler, whose cache rounds
    otherwise in the sixth digit."""


class Asked(NamedTuple):
    """A prompt as tokens, and the further columns of its row."""

    tokens: tuple[int, ...]
    columns: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Written:
    """B answers, those to one prompt one after the other; prompts padded left, answers right."""

    text: TextBatch
    logp: Float[Tensor, "B T"]
    """Of the policy that wrote, at the temperature; 0 outside of the answers."""
    reference_logp: Float[Tensor, "B T"]
    score: Float[Tensor, "B"]
    """What the reward says, with what a missing end costs."""
    finished: Bool[Tensor, "B"]
    """Whether the answer has its EOS."""
    columns: tuple[Mapping[str, Any], ...] = ()
    """Of the row of each answer's prompt."""

    @property
    def kl(self) -> Float[Tensor, "B"]:
        """log pi(y|x) - log pi_ref(y|x): its mean is the KL divergence from the reference, per answer."""
        return (self.logp - self.reference_logp).sum(1)

    def metrics(self) -> dict[str, float]:
        """Of what was written: all of them means over texts, or over answers' tokens, and over nothing else."""
        length = self.text.response.sum(1).float()
        return {
            "score": float(self.score.mean()),
            "score/std": float(self.score.std(correction=0)),
            "kl": float(self.kl.mean()),
            "entropy": float(-self.logp.sum() / length.sum()),
            "length": float(length.mean()),
            "finished": float(self.finished.float().mean()),
            "empty": float(((length <= 1) & self.finished).float().mean()),
        }


class Writer:
    """A policy, its reference, a reward, and prompts in random order."""

    def __init__(
        self, how: Sampling, policy: LanguageModel, reference: LanguageModel | None, reward: TextReward, prompts: Sequence[Asked],
        eos: int, generator: Generator,
    ) -> None:  # fmt: skip
        """reference: frozen; None: the policy as it is now (with adapters: without them).

        Raises TrainingError for a prompt that leaves no room for an answer.
        """
        for number, prompt in enumerate(prompts):
            if not prompt.tokens:
                raise TrainingError(f"prompt {number} has no token; at least one is needed")
            if len(prompt.tokens) + how.max_new_tokens > policy.context:
                raise TrainingError(
                    f"prompt {number} has {len(prompt.tokens)} tokens and its answer may have {how.max_new_tokens}; "
                    f"the model's context is {policy.context}"
                )
        self.how, self.policy, self.reward, self.prompts, self.eos = how, policy, reward, list(prompts), eos
        self.reference = policy.copy() if reference is None and policy.adapted is None else reference
        self.order, self.generator = Passes(len(prompts), 1, spawned(generator)), spawned(generator)

    @torch.no_grad()
    def write(self, prompts: int, samples: int = 1) -> Written:
        """`samples` answers to each of the next prompts."""
        asked = [self.prompts[self.order.take()[0]] for _ in range(prompts)]
        device = self.policy.device
        batch = pad_left([prompt.tokens for prompt in asked], self.eos).to(device)
        how = self.how
        drawn = sample(
            self.policy, batch.tokens, batch.attention, how.max_new_tokens, self.eos, self.generator,
            temperature=how.sampling_temperature, samples=samples,
        )  # fmt: skip
        text = TextBatch(drawn.tokens, drawn.attention, drawn.response)
        logp = self.logp(self.policy, text) if how.rescore else drawn.logp
        columns = tuple(prompt.columns for prompt in asked for _ in range(samples))
        score = self.reward.scores(text, columns).to(device)
        if how.missing_eos == "replace":
            score = torch.where(drawn.finished, score, how.missing_eos_score)
        elif how.missing_eos == "subtract":
            score = torch.where(drawn.finished, score, score + how.missing_eos_score)
        return Written(text, logp, self.reference_logp(text), score, drawn.finished, columns)

    def reference_logp(self, text: TextBatch) -> Float[Tensor, "B T"]:
        """What the reference says of the answers, at the same temperature."""
        if self.reference is not None:
            return self.logp(self.reference, text)
        with self.policy.reference() as without:
            return self.logp(without, text)

    @torch.no_grad()
    def logp(self, model: LanguageModel, text: TextBatch) -> Float[Tensor, "B T"]:
        """Per token of the answers, in microbatches."""
        parts = [text[slice(start, start + self.how.microbatch)] for start in range(0, len(text), self.how.microbatch)]
        temperature = self.how.sampling_temperature
        return torch.cat([model.log_probs(part.tokens, part.attention, part.response, temperature) for part in parts])

    def state(self) -> dict[str, Any]:
        """Order of the prompts and the sampler's generator."""
        return {"order": self.order.state(), "generator": self.generator.get_state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.order.load(state["order"])
        self.generator.set_state(state["generator"])
