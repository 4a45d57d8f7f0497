"""What a reference says about texts that stay the same: computed once, kept, and refused where anything has changed since.

A reference does not learn, and neither do the texts of a data set, so that its log-probabilities are two numbers per pair for all of
training. What they depend on is kept beside them as digests: the weights, the tokenizer, the template, the longest text and the texts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.experience.text import Encoded, pad_right
from tutelage.learn.language.descent import TrainingError, measured
from tutelage.nets.language import LanguageModel
from tutelage.nets.ranks import whole


@torch.no_grad()
def text_logp(model: LanguageModel, texts: Sequence[Encoded], microbatch: int = 32, temperature: float = 1.0) -> Float[Tensor, "n"]:
    """log pi(y|x) of each text, the sum over its answer's tokens, EOS included and the prompt not. Texts of like length go together."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def logp(rows: list[int]) -> Tensor:
        batch = pad_right([texts[order[i]] for i in rows], 0).to(model.device)
        return model.log_probs(batch.tokens, batch.attention, batch.response, temperature).sum(1).float()

    found = torch.zeros(len(texts))
    found[order] = measured(len(order), microbatch, logp).cpu()
    return found


def weights_digest(net: nn.Module) -> str:
    """SHA-256 of all weights with their names."""
    weights = hashlib.sha256()
    for name, value in sorted(whole(net.state_dict()).items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return weights.hexdigest()


def digests(model: nn.Module, texts: Sequence[Encoded], **more: str | int | float) -> dict[str, str]:
    """What log-probabilities depend on, each as a SHA-256. more: by name, such as tokenizer (its JSON), template and max_length."""
    words = hashlib.sha256()
    for text in texts:
        words.update(json.dumps([text.tokens, [int(mark) for mark in text.response]]).encode())
    found = {"model": weights_digest(model), "texts": words.hexdigest()}
    return found | {name: hashlib.sha256(str(value).encode()).hexdigest() for name, value in more.items()}


def refuse_changes(saved: Mapping[str, str], now: Mapping[str, str], where: str) -> None:
    """Raises TrainingError, naming what differs, where kept log-probabilities belong to other inputs than these."""
    changed = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if changed:
        raise TrainingError(
            f"{where} holds a reference's log-probabilities for another {' and another '.join(changed)}; without it they are computed anew"
        )
