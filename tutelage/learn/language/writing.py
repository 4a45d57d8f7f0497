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
from tutelage.learn.language.descent import Passes, TrainingError, measured, spawned
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import gathered, ranks, shard, share, summed
from tutelage.nets.sampling import Sampled, sample
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
        """policy: not yet cut up. reference: frozen; None: the policy as it is now (with adapters: without them).

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
        shard(self.reference)
        self.order, self.generator = Passes(len(prompts), 1, spawned(generator)), spawned(generator)

    @torch.no_grad()
    def write(self, prompts: int, samples: int = 1) -> Written:
        """`samples` answers to each of the next prompts. Every rank writes and scores its share, and has all.

        Raises TrainingError for fewer prompts than ranks.
        """
        asked, how = [self.prompts[self.order.take()[0]] for _ in range(prompts)], self.how
        drawn = self._draw(asked, samples)
        text = TextBatch(drawn.tokens, drawn.attention, drawn.response)
        logp = self.logp(self.policy, text) if how.rescore else drawn.logp
        columns = tuple(prompt.columns for prompt in asked for _ in range(samples))
        score = measured(len(text), None, lambda rows: self.reward.scores(text[rows], [columns[i] for i in rows]).to(text.tokens.device))
        if how.missing_eos == "replace":
            score = torch.where(drawn.finished, score, how.missing_eos_score)
        elif how.missing_eos == "subtract":
            score = torch.where(drawn.finished, score, score + how.missing_eos_score)
        return Written(text, logp, self.reference_logp(text), score, drawn.finished, columns)

    def _draw(self, asked: Sequence[Asked], samples: int) -> Sampled:
        """Answers of all ranks together, as one of them would draw them: the numbers that decide belong to the texts."""
        how, batch = self.how, pad_left([prompt.tokens for prompt in asked], self.eos).to(self.policy.device)
        count, own = len(asked), list(share(range(len(asked))))
        if count < ranks():
            raise TrainingError(f"{count} prompts were to be answered by {ranks()} processes; each needs one at least")
        numbers = torch.rand(
            how.max_new_tokens, count, samples, generator=self.generator, device=self.generator.device, dtype=torch.float64
        )  # fmt: skip
        with gathered(self.policy):
            drawn = sample(
                self.policy, batch.tokens[own], batch.attention[own], how.max_new_tokens, self.eos, numbers[:, own].flatten(1),
                temperature=how.sampling_temperature, samples=samples,
            )  # fmt: skip
        length = batch.tokens.shape[1] + how.max_new_tokens

        def together(x: Tensor, value: int = 0) -> Tensor:
            """Shares `[B', ...]` as all texts `[B, ...]`; what a share has one by one along T, to the longest answer possible."""
            x = x if x.dim() == 1 else torch.nn.functional.pad(x, (0, length - x.shape[1]), value=value)
            every = x.new_zeros(count, samples, *x.shape[1:])
            every[own] = x.unflatten(0, (len(own), samples))
            return summed(every).flatten(0, 1)

        tokens, attention, response = together(drawn.tokens, self.eos), together(drawn.attention), together(drawn.response)
        longest = int(attention.any(0).nonzero()[-1]) + 1
        logp, finished = together(drawn.logp), together(drawn.finished)
        return Sampled(tokens[:, :longest], attention[:, :longest], response[:, :longest], logp[:, :longest], finished)

    def reference_logp(self, text: TextBatch) -> Float[Tensor, "B T"]:
        """What the reference says of the answers, at the same temperature."""
        if self.reference is not None:
            return self.logp(self.reference, text)
        with self.policy.reference() as without:
            return self.logp(without, text)

    @torch.no_grad()
    def logp(self, model: LanguageModel, text: TextBatch) -> Float[Tensor, "B T"]:
        """Per token of the answers, in microbatches."""

        def of(rows: list[int]) -> Tensor:
            part = text[rows]
            return model.log_probs(part.tokens, part.attention, part.response, self.how.sampling_temperature)

        return measured(len(text), self.how.microbatch, of)

    def state(self) -> dict[str, Any]:
        """Order of the prompts and the sampler's generator."""
        return {"order": self.order.state(), "generator": self.generator.get_state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.order.load(state["order"])
        self.generator.set_state(state["generator"])
