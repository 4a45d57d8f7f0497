"""What preflight has to know of a model and its tokenizer; no weight is read."""

from collections.abc import Sequence
from typing import Any

import transformers

from tutelage.experience.preflight import ModelFacts
from tutelage.experience.text import TextError
from tutelage.experience.text_rows import TextRow, texts_of
from tutelage.experience.tokenizers import train_bpe
from tutelage.nets.language import ModelError, read_model_config


def read_tokenizer(model: str, tokenizer: str | None = None, rows: Sequence[TextRow] = ()) -> Any:
    """The tokenizer of a folder or hub name, or one trained on these rows (`bpe:SIZE`).

    Also one without EOS is read: preflight has a sentence for that. Raises TextError where there is none.
    """
    if tokenizer is None and "?" in model:
        raise TextError(f"{model} is a kind of model with its sizes and brings no tokenizer; --tokenizer names one, or bpe:SIZE")
    kind, _, size = (tokenizer or "").partition(":")
    if kind == "bpe" and size.isdigit():
        return train_bpe((text for row in rows for text in texts_of(row)), int(size))
    address = tokenizer or model
    read: Any = transformers.AutoTokenizer
    try:
        return read.from_pretrained(address)
    except Exception as error:  # a damaged file raises whatever the library happens to raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise TextError(f"{address}: a folder or a hub name with a tokenizer was expected ({reason})") from error


def model_facts(model: str, tokenizer: Any, context: int | None = None) -> ModelFacts:
    """Raises TextError for a model that cannot be had, and for a context that it does not have."""
    try:
        config = read_model_config(model, tokenizer)
    except ModelError as error:
        raise TextError(str(error)) from error
    most = getattr(config, "max_position_embeddings", None) or 2**30
    if context is not None and not 2 <= context <= most:
        raise TextError(f"a context of {context} tokens was asked for; {model} reads 2 to {most}")
    rates = {name: float(value) for name, value in config.to_dict().items() if "drop" in name and isinstance(value, int | float) and value}
    built = "?" in model  # its dropout is what the one who builds it asks for
    return ModelFacts(context or most, config.vocab_size, {} if built else rates)
