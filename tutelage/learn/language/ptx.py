"""PPO-ptx: language modeling on other texts as one more term of a step of reinforcement learning, against what that step would unlearn.

Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), eq. 2, second term. Its gradient is added before the step of the optimizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.text import Encoded, pad_right
from tutelage.learn.language.descent import Passes, shared
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import ranks


def ptx_loss(logp: Float[Tensor, "B T"], response: Bool[Tensor, "B T"], coefficient: float, size: int) -> Float[Tensor, ""]:
    """-gamma / N sum log pi(y). size: N, the tokens or the texts of all that one step is about."""
    return -coefficient / size * torch.where(response, logp, 0.0).sum()


class Ptx:
    """Texts in random order, some of which go with every step."""

    def __init__(
        self, policy: LanguageModel, texts: Sequence[Encoded], coefficient: float, unit: Literal["token", "text"], generator: Generator
    ) -> None:
        """coefficient: gamma; unit: what it multiplies, the mean per token or the mean per text of the sum over its tokens."""
        self.policy, self.texts, self.coefficient, self.unit = policy, list(texts), coefficient, unit
        self.order = Passes(len(texts), 1, generator)

    def add_gradient(self, texts: int, microbatch: int | None) -> float:
        """Of the next texts, so many; returns what gamma multiplies."""
        chosen = [self.texts[self.order.take()[0]] for _ in range(max(texts, 1))]
        size = len(chosen) if self.unit == "text" else sum(sum(text.response) for text in chosen)
        total = 0.0
        for part, weight in shared(chosen, microbatch):
            batch = pad_right(part, 0).to(self.policy.device)
            logp = self.policy.log_probs(batch.tokens, batch.attention, batch.response)
            loss = weight * ptx_loss(logp, batch.response, self.coefficient, size)
            loss.backward()
            total += ranks() * float(loss.detach()) / self.coefficient
        return total

    def state(self) -> dict[str, Any]:
        """The order of the texts."""
        return self.order.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.order.load(state)
