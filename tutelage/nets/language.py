"""Language models: a transformer of the transformers library that answers with the log-probabilities of tokens, or with scores.

Everything is aligned to the token it is about. `log_probs[b, t]` is log p(token t | tokens before t); `values[b, t]` is the value of
the prefix before token t; a score is read at the last real token. `attention` is true on real tokens, wherever the padding lies, and
positions count real tokens only, so that padding changes nothing.

Dropout is off unless a number is asked for, and then in `train` mode only: a ratio of probabilities that two masks of dropout
disturbed is not 1 before the first step. One model is one member; an ensemble is a list.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from tutelage.games.options import parse
from tutelage.nets.cache import Room
from tutelage.nets.fast_linear import linear, use_fast_layers
from tutelage.nets.log_probs import chosen_log_probs
from tutelage.nets.ranks import whole

try:
    import transformers
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
    from transformers.pytorch_utils import Conv1D
except ImportError as error:
    raise ImportError("transformers is not installed, and language models need it; run: pip install 'tutelage[language]'") from error

transformers.utils.logging.disable_progress_bar()  # loading a small net draws more of them than it takes seconds

SCORE_FILE = "score_head.safetensors"

OPTIONS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "inner": "intermediate_size",
    "context": "max_position_embeddings",
}
"""Our short words for the fields that every config of transformers has, by whatever name."""


class ModelError(ValueError):
    """A model or tokenizer that cannot be had as asked; one sentence: what was given, what was expected."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters beside frozen weights. Hu et al. 2021 (arXiv 2106.09685)."""

    rank: int = 16
    """r of the paper (TRL: 16)."""
    scale: float = 2.0
    """What the adapters' sum is multiplied by: alpha / r of the paper (TRL: 32 / 16)."""
    dropout: float = 0.0
    """On the adapters' input (peft: 0)."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get adapters; "all-linear": all but the output layer."""


@contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """Let code that draws from torch's global generator (a library's initial weights, dropout) draw from this one instead."""
    cuda = generator.device.type == "cuda"
    with torch.random.fork_rng(devices=[generator.device] if cuda else []):
        get, put = (torch.cuda.get_rng_state, torch.cuda.set_rng_state) if cuda else (torch.get_rng_state, torch.set_rng_state)
        put(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(get())


def load_tokenizer(address: str | Path) -> Any:
    """The tokenizer of a local folder or a hub name. Raises ModelError where there is none, or it has no EOS."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(address))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{address}: a folder or a hub name with a tokenizer was expected ({_first_line(error)})") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{address}: the tokenizer has no EOS token, and without one no answer can end; set eos_token and save it again")
    return tokenizer


def make_model(
    address: str | Path,
    generator: Generator,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype = torch.float32,
    activations: torch.dtype | None = None,
    dropout: float = 0.0,
    lora: LoRA | None = None,
    checkpointing: bool = False,
    device: str | torch.device = "cpu",
) -> "LanguageModel":
    """The causal model at an address: a kind and its sizes, a local folder, or a hub name.

    address: `gpt2?layers=2&width=32&heads=4&context=64` has fresh weights, drawn from the generator, and the tokenizer's vocabulary;
    the kind is any model_type of transformers that has a causal model, and an option is one of `OPTIONS` or a field of its config.
    dtype: of the weights; activations: what the products are computed in, where that differs (`torch.bfloat16`).
    checkpointing: recompute each layer in the backward pass instead of remembering it.
    Raises ModelError for anything that cannot be had.
    """
    kind, question, query = str(address).partition("?")
    with drawing_from(generator):
        if question:
            config = _config(kind, parse(query, str(address)), tokenizer, str(address))
            _set_dropout(config, dropout)
            module = AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            module = _pretrained(AutoModelForCausalLM, address, dtype, dropout)
        if tokenizer is not None and len(tokenizer) > module.config.vocab_size:
            raise ModelError(
                f"{address} has {module.config.vocab_size} words and the tokenizer {len(tokenizer)}; they belong to two models"
            )
        if getattr(module.config, "is_decoder", None) is False and not any(getattr(part, "is_causal", None) for part in module.modules()):
            raise ModelError(f"{address}: its tokens see those that follow them; a causal model was expected")
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(module.config, name, None) not in (None, 1.0):
                raise ModelError(f"{address}: its logits pass through {name}; an output layer that is one linear map was expected")
        return LanguageModel(module.to(device), lora, activations, checkpointing)


def read_model_config(address: str | Path, tokenizer: Any = None) -> Any:
    """The config of transformers at an address, as `make_model` takes it, without weights. Raises ModelError where there is none."""
    kind, question, query = str(address).partition("?")
    if question:
        return _config(kind, parse(query, str(address)), tokenizer, str(address))
    try:
        return AutoConfig.from_pretrained(str(address))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{address}: a folder or a hub name with a causal model was expected ({_first_line(error)})") from None


def _config(kind: str, options: dict[str, str], tokenizer: Any, address: str) -> Any:
    if tokenizer is None:
        raise ModelError(f"{address} gets its vocabulary from a tokenizer, and none was given")
    try:
        plain = AutoConfig.for_model(kind)
    except ValueError:
        raise ModelError(f"{address}: {kind} is no model_type of transformers {transformers.__version__}; gpt2 and llama are two") from None
    known = set(plain.to_dict()) | set(plain.attribute_map)
    fields: dict[str, Any] = {}
    for name, value in options.items():
        field = OPTIONS.get(name, name)
        if field not in known and name != "inner":
            raise ModelError(f"{address}: {kind} has no option {name}; {', '.join(OPTIONS)} and the fields of its config are known")
        try:
            fields[field] = json.loads(value)
        except json.JSONDecodeError:
            fields[field] = value
    width = fields.get("hidden_size", plain.hidden_size)
    if "intermediate_size" in known:
        fields.setdefault("intermediate_size", 4 * width)
    if "num_key_value_heads" in known and "num_attention_heads" in fields:
        fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    # A pad id in the config would freeze that word's embedding, which may be EOS; masks come from `attention`.
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    names = {plain.attribute_map.get(name, name): value for name, value in fields.items()}
    try:
        return AutoConfig.for_model(kind, **names, vocab_size=len(tokenizer), **special)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{address}: {kind} cannot be built so ({_first_line(error)})") from None


def _pretrained(auto: Any, address: str | Path, dtype: torch.dtype, dropout: float) -> Any:
    """Read from safetensors only: a checkpoint in another format could run code."""
    try:
        config = AutoConfig.from_pretrained(str(address))
        _set_dropout(config, dropout)
        return auto.from_pretrained(str(address), config=config, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{address}: a folder or a hub name with a causal model was expected ({_first_line(error)})") from None


def _set_dropout(config: Any, rate: float) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0 if "layerdrop" in name else rate)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def last_hidden(
    backbone: Any,
    tokens: Int[Tensor, "B T"],
    attention: Bool[Tensor, "B S"] | Bool[Tensor, "B T T"],
    positions: Int[Tensor, "B T"] | None = None,
    cache: Any = None,
) -> Float[Tensor, "B T D"]:
    """What the last layer says at each token, after its norm.

    attention: real tokens, with a cache those that it holds too; or for each token those of its own text `[B, T, T]` (packing), with
    positions that start again with each text. Causality is added here.
    """
    mask: Tensor | None = attention
    if cache is not None and tokens.shape[1] == 1 and all(type(layer) is Room for layer in cache.layers):
        mask = _added(attention[:, None, None], backbone)  # one token sees every real one
    elif attention.dim() == 3:
        if (getattr(backbone.config, "sliding_window", None) or tokens.shape[1]) < tokens.shape[1]:
            raise ModelError(
                f"rows of {tokens.shape[1]} tokens with several texts were given to a model with a sliding window; packing is not for it"
            )
        mask = _added(attention.tril()[:, None], backbone)
    elif cache is None and not (attention[:, 1:] & ~attention[:, :-1]).any():
        # Padding to the right is behind every real token, where causal attention does not look: no mask, a faster kernel.
        mask = positions = None
    elif positions is None:
        positions = real_positions(attention)[:, -tokens.shape[1] :]
    told = {} if positions is None else {"position_ids": positions}
    return backbone(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **told).last_hidden_state


def _added(mask: Tensor, backbone: Any) -> Tensor:
    """The mask as what is added to attention's logits, in their precision: every implementation of attention takes it so."""
    kind = mask.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else backbone.dtype
    return torch.zeros(mask.shape, dtype=precision, device=mask.device).masked_fill_(~mask, torch.finfo(precision).min)


def real_positions(attention: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How many real tokens come before each: the exclusive cumulative sum, so that padding of 2 gives 0 0 0 1 2."""
    return attention.cumsum(1) - attention.long()


class LanguageModel(nn.Module):
    """A causal model. An ordinary `torch.nn.Module`: parameters, train, eval and state_dict are torch's."""

    def __init__(self, module: Any, lora: LoRA | None = None, activations: torch.dtype | None = None, checkpointing: bool = False) -> None:
        """module: a causal model of transformers, changed in place where adapters are asked for."""
        super().__init__()
        self.activations = activations
        self.adapted: list[Any] | None = None
        if lora is not None:
            from peft import LoraConfig, get_peft_model

            targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
            transposed = any(isinstance(part, Conv1D) for part in module.modules())  # GPT-2's layers are
            asked = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.scale * lora.rank,  # pyright: ignore[reportArgumentType]
                lora_dropout=lora.dropout,
                target_modules=targets,
                fan_in_fan_out=transposed,
                task_type="CAUSAL_LM",
            )
            self.adapted = [get_peft_model(module, asked)]  # in a list: its weights are the module's, which is registered below
        use_fast_layers(module)
        self.module = module
        # The library warns when it sees a pad id without a mask; `last_hidden` knows when none is needed.
        self.backbone.warn_if_padding_and_no_attention_mask = lambda *ignored: None
        if checkpointing:
            checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
            module._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=checkpoint)
            if lora is not None:
                module.enable_input_require_grads()
        self.train()

    @property
    def backbone(self) -> Any:
        """The module without its output layer."""
        return self.module.base_model

    @property
    def config(self) -> Any:
        """The config of transformers."""
        return self.module.config

    @property
    def context(self) -> int:
        """How many tokens a text may have; as good as endless where positions are relative."""
        return getattr(self.config, "max_position_embeddings", None) or 2**30

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        attention: Bool[Tensor, "B S"] | Bool[Tensor, "B T T"],
        positions: Int[Tensor, "B T"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        """What the last layer says at each token, as `last_hidden`."""
        return self._hidden(tokens, attention, positions, cache)

    def _hidden(self, tokens: Tensor, attention: Tensor, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        with torch.autocast(tokens.device.type, self.activations, enabled=self.activations is not None):
            return last_hidden(self.backbone, tokens, attention, positions, cache)

    def head(self) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V"] | None]:
        """Weight and bias of the output layer."""
        layer = self.module.get_output_embeddings()
        return layer.weight, getattr(layer, "bias", None)

    def logits_of(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """What the output layer makes of hidden states, in single precision."""
        weight, bias = self._head()
        return linear(hidden.to(weight.dtype), weight, bias).float()

    def logits(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Of the token after each token, all of them at once: for tests and small models."""
        weight, bias = self._head()
        return linear(self._hidden(tokens, attention).to(weight.dtype), weight, bias).float()

    def log_probs(
        self,
        tokens: Int[Tensor, "B T"],
        attention: Bool[Tensor, "B T"] | Bool[Tensor, "B T T"],
        wanted: Bool[Tensor, "B T"],
        temperature: float = 1.0,
        chunk: int | None = None,
        positions: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """log p(token t | tokens before t) where wanted, else 0; the first token has no log-probability, and its place is 0.

        chunk: rows of logits that live at once; None: `log_probs.LOGITS_AT_ONCE` decides.
        """
        hidden, wanted = self._hidden(tokens, attention, positions)[:, :-1], wanted[:, 1:]
        weight, bias = self._head()
        found = chosen_log_probs(hidden[wanted].to(weight.dtype), weight, bias, tokens[:, 1:][wanted], temperature, chunk)
        scattered = found.new_zeros(wanted.shape).masked_scatter(wanted, found)
        return nn.functional.pad(scattered, (1, 0))

    def _head(self) -> tuple[Tensor, Tensor | None]:
        """Output layer in the precision of its product."""
        weight, bias = self.head()
        kind = self.activations or weight.dtype
        return weight.to(kind), None if bias is None else bias.to(kind)

    def copy(self) -> "LanguageModel":
        """A frozen copy: the reference of a KL term."""
        other = copy.deepcopy(self).requires_grad_(False)
        return other.eval()

    @contextmanager
    def reference(self) -> Iterator["LanguageModel"]:
        """The model as it was before its adapters, which are off inside. Raises ModelError where there are none: keep a `copy`."""
        if self.adapted is None:
            raise ModelError("this model has no adapters to switch off; its reference is a copy() taken before training")
        with self.adapted[0].disable_adapter(), torch.no_grad():
            yield self

    def merged(self) -> Any:
        """A copy of the module, adapters merged into its weights."""
        return copy.deepcopy(self.module) if self.adapted is None else copy.deepcopy(self.adapted[0]).merge_and_unload()

    def save(self, folder: str | Path, tokenizer: Any = None) -> None:
        """As an ordinary folder of transformers; adapters are merged into the weights."""
        module = self.module if self.adapted is None else self.merged()
        module.save_pretrained(str(folder), state_dict=whole(module.state_dict(keep_vars=True)))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))


class ScoreModel(nn.Module):
    """A transformer with one number at each token: a reward model, or a critic.

    The number is w h + b - shift. The shift brings the mean score of demonstrations to zero (Stiennon et al. 2020, arXiv 2009.01325,
    section 3.4); it is set after training and saved with the weights.
    """

    shift: Tensor

    def __init__(self, backbone: Any, generator: Generator | None = None, activations: torch.dtype | None = None) -> None:
        """backbone: a transformer without output layer. generator: of the head's first weights, N(0, 1 / (d + 1)); None: zeros."""
        super().__init__()
        use_fast_layers(backbone)
        self.backbone, self.activations = backbone, activations
        self.backbone.warn_if_padding_and_no_attention_mask = lambda *ignored: None
        width = backbone.config.hidden_size
        device = next(backbone.parameters()).device
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros(1, device=device))
        self.register_buffer("shift", torch.zeros((), device=device))
        if generator is not None:
            with torch.no_grad():
                self.weight.copy_(torch.randn(width, generator=generator, device=generator.device) / (width + 1) ** 0.5)

    @classmethod
    def of(cls, model: LanguageModel, generator: Generator | None) -> "ScoreModel":
        """On a copy of a language model's body. The head is drawn from the generator, or zero."""
        return cls(model.merged().base_model.requires_grad_(True), generator, model.activations).train()

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, activations: torch.dtype | None = None, device: Any = "cpu"
    ) -> "ScoreModel":
        """As `save` left it. Raises ModelError where the folder holds no score model."""
        path = Path(folder) / SCORE_FILE
        if not path.is_file():
            raise ModelError(f"{folder}: a folder of a score model was expected, and it has no {SCORE_FILE}")
        model = cls(_pretrained(AutoModel, folder, dtype, 0.0).to(device), None, activations)
        head = load_file(path)
        with torch.no_grad():
            for name in ("weight", "bias", "shift"):
                getattr(model, name).copy_(head[name])
        return model.train()

    def save(self, folder: str | Path, tokenizer: Any = None) -> None:
        """The body as an ordinary folder of transformers, the head and its shift beside it."""
        self.backbone.save_pretrained(str(folder), state_dict=whole(self.backbone.state_dict(keep_vars=True)))
        save_file({name: whole(getattr(self, name).detach()).clone() for name in ("weight", "bias", "shift")}, Path(folder) / SCORE_FILE)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))

    def copy(self) -> "ScoreModel":
        """A copy of its own, trainable: the critic that starts as the reward model."""
        return copy.deepcopy(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight.device

    def hidden(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the last layer says at each token."""
        return self._hidden(tokens, attention)

    def _hidden(self, tokens: Tensor, attention: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, self.activations, enabled=self.activations is not None):
            return last_hidden(self.backbone, tokens, attention)

    def scores(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
        """Of each text, read at its last real token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        last = torch.where(attention, places, 0).amax(1)
        hidden = self._hidden(tokens, attention)
        return self._of_hidden(hidden[torch.arange(len(tokens), device=tokens.device), last])

    def values(self, tokens: Int[Tensor, "B T"], attention: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Of the prefix before each token; 0 where nothing real is before it."""
        before = self._of_hidden(self._hidden(tokens, attention)[:, :-1])
        return nn.functional.pad(torch.where(attention[:, :-1], before, 0.0), (1, 0))

    def _of_hidden(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
        """w h + b - shift, in single precision."""
        return hidden.float() @ self.weight + self.bias - self.shift
