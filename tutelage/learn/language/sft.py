"""Supervised fine-tuning: raise the log-probability of demonstrated answers.

Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), section 3.5 and appendix C.1. The first stage of the chain: what comes out is where a
reward model, DPO and PPO start from, and what they are held near to. The same step on whole texts is ordinary language modeling.

Where we depart from the paper
- A batch is divided by its own number of answer tokens, not text by text, also where it goes through the net in microbatches.
- Packing keeps texts apart: no token sees another text of its row, and positions begin anew.
- A learning rate and a number of passes for small models; the paper's are in the fields.
Left out: choosing the checkpoint by a reward model's score (the paper's choice); `tutelage evaluate` gives the number.
Landscape: model-free, off-policy, offline; discrete actions; scale: deep
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tutelage.experience.text import Encoded, PackedBatch, TextBatch, pack, pad_right
from tutelage.learn.language.descent import Descent, Optimization, Passes, TrainingError, pieces, set_dropout, shared, spawned
from tutelage.learn.language.settings import Settings
from tutelage.nets.language import LanguageModel, drawing_from
from tutelage.nets.ranks import ranks, shard


@dataclass(frozen=True)
class Config(Settings):
    """Settings of supervised fine-tuning."""

    epochs: int = 1
    """Passes over the demonstrations (InstructGPT: 16, of which the first is best by loss and the last by preference; Stiennon: 1)."""
    batch_size: int = 32
    """Texts per update (InstructGPT: 32; Stiennon: 128)."""
    microbatch: int | None = None
    """Texts through the net at once; None: all of the batch. The gradient is that of the batch."""
    learning_rate: float = 2e-5
    """At its highest (TRL: 2e-5; InstructGPT: 9.65e-6; a net of 30,000 weights wants 3e-3)."""
    optimizer: Optimization = field(default_factory=Optimization)
    """Schedule, moments, clipping."""
    prompt_loss: bool = False
    """Learn the prompts too (N+ details: yes; TRL: no)."""
    packing: int = 0
    """Tokens of a row that several texts share; 0: each text is a row. Where lengths differ much, less of a batch is padding."""
    bucketed: bool = False
    """Texts of like length share a batch."""
    dropout: float = 0.0
    """Of the net's own layers of dropout (InstructGPT: 0.2). Every other stage has it off."""


def sft_loss(logp: Float[Tensor, "B T"], response: Bool[Tensor, "B T"], tokens: int | None = None) -> Float[Tensor, ""]:
    """-1/N sum log pi(y_t | x, y_<t) over the answers' tokens, their EOS included.

    N: `tokens`, the answer tokens of the whole batch where this is a piece of it (None: this is all of it).
    """
    return -torch.where(response, logp, 0.0).sum() / (response.sum() if tokens is None else tokens)


class SFT:
    """One language model and its demonstrations."""

    def __init__(self, config: Config, model: LanguageModel, texts: Sequence[Encoded], generator: Generator) -> None:
        """generator: of the order of the texts and of the dropout. Raises TrainingError where no token could be learned from."""
        if config.prompt_loss:
            texts = [Encoded(text.tokens, (False,) + (True,) * (len(text) - 1)) for text in texts]
        for number, text in enumerate(texts):
            if not any(text.response):
                raise TrainingError(
                    f"text {number} has no token to learn from: its answer is empty, or was cut off with the end of the text"
                )
            if config.packing and len(text) > config.packing:
                raise TrainingError(f"text {number} has {len(text)} tokens; rows of packing={config.packing} do not hold it")
        set_dropout(model, config.dropout)
        self.config, self.model, self.texts = config, model, list(texts)
        self.passes = Passes(len(texts), config.batch_size, spawned(generator), [len(text) for text in texts] if config.bucketed else None)
        self.noise = spawned(generator, model.device)
        shard(model)
        self.descent = Descent(dict(model.named_parameters()), config.learning_rate, config.optimizer)
        self.updates, self.total = 0, config.epochs * self.passes.per_pass

    def update(self) -> dict[str, float]:
        """One step on the next batch."""
        texts = [self.texts[i] for i in self.passes.take()]
        tokens = sum(sum(text.response) for text in texts)
        loss = 0.0
        with drawing_from(self.noise):
            for part, weight in self._parts(texts):
                piece = weight * sft_loss(self._logp(part), part.response, tokens)
                piece.backward()
                loss += ranks() * float(piece.detach())
        metrics = self.descent.step(self.updates, self.total)
        self.updates += 1
        return {"loss": loss, "tokens": float(tokens)} | metrics

    def _parts(self, texts: Sequence[Encoded]) -> Iterator[tuple[TextBatch | PackedBatch, float]]:
        size, device = self.config.microbatch, self.model.device
        if not self.config.packing:
            yield from ((pad_right(part, 0).to(device), weight) for part, weight in shared(texts, size))
            return
        whole = pack(texts, self.config.packing, 0)
        names = ("tokens", "attention", "response", "positions", "text")
        for rows, weight in shared(range(len(whole)), size):
            yield PackedBatch(*(getattr(whole, name)[list(rows)].to(device) for name in names)), weight

    def _logp(self, batch: TextBatch | PackedBatch) -> Float[Tensor, "B T"]:
        if isinstance(batch, PackedBatch):
            return self.model.log_probs(batch.tokens, batch.visible, batch.response, positions=batch.positions)
        return self.model.log_probs(batch.tokens, batch.attention, batch.response)

    @torch.no_grad()
    def evaluate(self, texts: Sequence[Encoded]) -> dict[str, float]:
        """Mean loss and perplexity per answer token of texts that were not learned from."""
        self.model.eval()
        total, tokens = 0.0, 0
        for part in pieces(texts, self.config.microbatch or self.config.batch_size):
            batch = pad_right(part, 0).to(self.model.device)
            total += float(-self.model.log_probs(batch.tokens, batch.attention, batch.response).sum())
            tokens += int(batch.response.sum())
        self.model.train()
        return {"loss": total / tokens, "perplexity": float(torch.tensor(total / tokens).exp())}

    def nets(self) -> dict[str, Any]:
        """The model."""
        return {"model": self.model}

    def state(self) -> dict[str, Any]:
        """Weights and moments, the order of the texts, the dropout's generator and the count of updates."""
        return {
            "descent": self.descent.state(),
            "passes": self.passes.state(),
            "noise": self.noise.get_state(),
            "updates": self.updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.descent.load(state["descent"])
        self.passes.load(state["passes"])
        self.noise.set_state(state["noise"])
        self.updates = int(state["updates"])
