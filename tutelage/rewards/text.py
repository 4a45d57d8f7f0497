"""Rewards of texts: one score for an answer as a whole, and the price of every token's distance from a reference.

A score comes from learned models, from a world that knows the true one, or from a function that a person wrote.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tutelage.equations.divergences import kl_k1
from tutelage.equations.optimization_pressure import variance_penalized, worst_case
from tutelage.experience.text import TextBatch
from tutelage.games.program import load_function
from tutelage.games.spec import GameError
from tutelage.nets.language import ScoreModel
from tutelage.rewards.source import RewardError

Columns = Sequence[Mapping[str, Any]]
"""Per text, the further columns of the row that its prompt stood in."""


def kl_rewards(
    score: Float[Tensor, "B"],
    logp: Float[Tensor, "B T"],
    reference_logp: Float[Tensor, "B T"],
    response: Bool[Tensor, "B T"],
    kl_coefficient: float,
) -> Float[Tensor, "B T"]:
    """r_t = -beta (log pi - log pi_ref), and the score of the text at its last token, EOS included; 0 outside of the answer.

    Ziegler et al. 2019 (arXiv 1909.08593), eq. 2; Stiennon et al. 2020 (arXiv 2009.01325), section 3.4. From the log-probabilities of the
    time of sampling: k1, whose mean is the gradient that is meant when it is a reward. An answer without a token gets nothing.
    """
    reward = torch.where(response, -kl_coefficient * kl_k1(logp, reference_logp), 0.0)
    return reward + torch.where(last_of(response), score[:, None], 0.0)


def last_of(response: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the last token of each answer."""
    return response & (response.flip(1).cumsum(1).flip(1) == 1)


class TextReward(ABC):
    """Scores for texts."""

    @abstractmethod
    def scores(self, texts: TextBatch, columns: Columns) -> Float[Tensor, "B"]:
        """One per text, higher is better. columns: of the row of each text's prompt."""


class LearnedTextReward(TextReward):
    """Score models, and how several of them make one score."""

    def __init__(
        self, models: Sequence[ScoreModel], combine: Literal["mean", "worst", "disagreement"] = "mean", penalty: float = 1.0,
        microbatch: int = 64,
    ) -> None:  # fmt: skip
        """combine: the mean; the worst; or the mean less `penalty` times the members' variance (Coste et al. 2023)."""
        if not models:
            raise RewardError("no score model was given; at least one is needed")
        self.models, self.combine, self.penalty, self.microbatch = list(models), combine, penalty, microbatch

    @torch.no_grad()
    def members(self, texts: TextBatch) -> Float[Tensor, "E B"]:
        """Each model's score of each text."""
        parts = [texts[slice(start, start + self.microbatch)] for start in range(0, len(texts), self.microbatch)]
        return torch.stack([torch.cat([model.scores(part.tokens, part.attention) for part in parts]) for model in self.models])

    def scores(self, texts: TextBatch, columns: Columns = ()) -> Float[Tensor, "B"]:
        """The members' scores as one. Raises RewardError for one that is not finite."""
        members = self.members(texts)
        if self.combine == "worst":
            score = worst_case(members)
        else:
            score = variance_penalized(members, self.penalty if self.combine == "disagreement" else 0.0)
        return _finite(score, "the reward model")


class WeightedTextReward(TextReward):
    """A sum of several rewards."""

    def __init__(self, parts: Sequence[TextReward], weights: Sequence[float]) -> None:
        """weights: one per part."""
        if len(parts) != len(weights) or not parts:
            raise RewardError(f"{len(weights)} weights were given for {len(parts)} rewards; one each is needed")
        self.parts, self.weights = list(parts), list(weights)

    def scores(self, texts: TextBatch, columns: Columns) -> Float[Tensor, "B"]:
        """sum_k w_k r_k."""
        return torch.stack([weight * part.scores(texts, columns) for part, weight in zip(self.parts, self.weights, strict=True)]).sum(0)


class ShorterTextReward(TextReward):
    """Another reward, less a price for every token of the answer."""

    def __init__(self, reward: TextReward, price: float) -> None:
        self.reward, self.price = reward, price

    def scores(self, texts: TextBatch, columns: Columns = ()) -> Float[Tensor, "B"]:
        """r - price * length, EOS counted."""
        return self.reward.scores(texts, columns) - self.price * texts.response.sum(1)


class WrittenTextReward(TextReward):
    """A function of strings, called as TRL calls its reward functions: by keyword, with every further column of the rows.

    It gets `prompts`, `completions` (without EOS), `completion_ids` and the columns, each a list with one entry per text (None where its
    row has no such column), of which those that it names (all, where it takes **keywords), and answers with as many numbers. None for a
    text that it does not judge counts as 0, as in the sums of TRL.
    """

    def __init__(self, function: Callable[..., Any], tokenizer: Any, name: str | None = None) -> None:
        """name: for sentences about it."""
        self.function, self.tokenizer = function, tokenizer
        self.name = name or getattr(function, "__name__", "the reward function")
        parameters = inspect.signature(function).parameters.values()
        taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        self._taken = None if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters) else taken

    def scores(self, texts: TextBatch, columns: Columns) -> Float[Tensor, "B"]:
        """What the function says. Raises RewardError where it fails, or answers with too few, too many or no numbers."""
        answers = [tokens[mask].tolist() for tokens, mask in zip(texts.tokens, texts.response, strict=True)]
        asked = [tokens[mask].tolist() for tokens, mask in zip(texts.tokens, texts.attention & ~texts.response, strict=True)]
        given: dict[str, Any] = {
            "prompts": self.tokenizer.batch_decode(asked, skip_special_tokens=True),
            "completions": self.tokenizer.batch_decode(answers, skip_special_tokens=True),
            "completion_ids": answers,
        }
        for name in dict.fromkeys(name for row in columns for name in row):
            given.setdefault(name, [row.get(name) for row in columns])
        try:
            found = self.function(**{name: value for name, value in given.items() if self._taken is None or name in self._taken})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise RewardError(
                f"the reward function {self.name} failed on {len(answers)} answers: {type(error).__name__}: {reason}"
            ) from error
        try:
            numbers = [0.0 if number is None else float(number) for number in found]
        except (TypeError, ValueError):
            raise RewardError(
                f"the reward function {self.name} gave {str(found)[:60]} for {len(answers)} answers; a list of as many numbers was expected"
            ) from None
        if len(numbers) != len(answers):
            raise RewardError(
                f"the reward function {self.name} gave {len(numbers)} numbers for {len(answers)} answers; one each was expected"
            )
        return _finite(torch.tensor(numbers), f"the reward function {self.name}", given["completions"]).to(texts.tokens.device)


def _finite(score: Float[Tensor, "B"], who: str, answers: Sequence[str] | None = None) -> Float[Tensor, "B"]:
    bad = (~torch.isfinite(score)).nonzero().flatten().tolist()
    if bad:
        about = "" if answers is None else f" ({answers[bad[0]][:60]!r})"
        raise RewardError(f"{who} gave {float(score[bad[0]])} for answer {bad[0]} of {len(score)}{about}; a finite number was expected")
    return score


def written_reward(address: str, tokenizer: Any) -> WrittenTextReward:
    """The function at py:module:function. Raises RewardError when the address leads to none."""
    try:
        function = load_function(address, "the reward")
    except GameError as error:
        raise RewardError(str(error)) from None
    return WrittenTextReward(function, tokenizer, address.partition(":")[2])
