"""What a run of a language model begins with: its tokenizer, rows, nets and reward, from the addresses in its configuration.

Everything is drawn from generators of the run's seed, so that a run that is continued finds what it began with; what lies outside of the
run (data, other models) is known by digests and refused where it has changed.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.experience.preflight import ModelFacts, preflight
from tutelage.experience.text import Encoded, TextBatch, encoded, pad_left
from tutelage.experience.text_data import TextData, load_text
from tutelage.experience.text_encoding import EncodedRows, TextEncoder
from tutelage.experience.text_rows import (
    Demonstration,
    Prompt,
    Ranked,
    TextRow,
    demonstrations,
    fingerprint,
    labeled,
    pairs,
    prompts,
    rankings,
    texts_of,
)
from tutelage.experience.tokenizers import train_bpe, word_tokenizer
from tutelage.experiment.checkpoint import write_whole
from tutelage.experiment.config import STAGES, ConfigError, TextRunConfig
from tutelage.experiment.randomness import generator
from tutelage.games.text_worlds import TextWorld, text_world
from tutelage.learn.language.writing import Asked
from tutelage.nets.language import SCORE_FILE, LanguageModel, LoRA, ModelError, ScoreModel, load_tokenizer, make_model
from tutelage.nets.sampling import sample
from tutelage.rewards.text import Columns, LearnedTextReward, TextReward, WeightedTextReward, written_reward

WORLD_ROWS = 2_000
PREFLIGHT_ROWS = 500
LOOKED = "store.json"
ROWS: dict[str, Callable[[Sequence[TextRow]], Sequence[TextRow]]] = {
    "demonstrations": demonstrations, "rankings": rankings, "pairs": pairs, "labeled": labeled, "prompts": prompts
}  # fmt: skip
WORLD = "text:"


class GoldReward(TextReward):
    """What a world knows a text to be worth."""

    def __init__(self, world: TextWorld) -> None:
        self.world = world

    def scores(self, texts: TextBatch, columns: Columns = ()) -> Float[Tensor, "B"]:
        """The gold scores."""
        return self.world.gold(texts.tokens, texts.attention, texts.response)


@dataclass(frozen=True)
class Materials:
    """Rows and nets before the first update."""

    tokenizer: Any
    encoder: TextEncoder
    rows: tuple[TextRow, ...]
    """Learned from."""
    held_out: tuple[TextRow, ...]
    """Measured on."""
    model: LanguageModel
    digest: str
    """Of all rows."""
    warnings: tuple[str, ...] = ()
    """What preflight found."""


def of_run(address: str, *folders: str) -> Path:
    """The folder of a run's net (`model`, or another of these) where the address is a run's, else the address."""
    path = Path(address)
    if (path / "events.jsonl").is_file():
        found = next((path / name for name in folders or ("model",) if (path / name).is_dir()), None)
        if found is None:
            raise ConfigError(
                f"{address} is a run without a finished {(folders or ('model',))[0]}; `tutelage resume {address}` finishes it"
            )
        return found
    return path


def model_address(address: str) -> str:
    """Of a language model: a kind with its sizes stays as it is."""
    return address if "?" in address else str(of_run(address))


def open_tokenizer(config: TextRunConfig, rows: Sequence[TextRow], kept: Path) -> Any:
    """The run's own where it has kept one; else as the configuration says. Raises ConfigError or ModelError where none can be had."""
    if kept.is_dir():
        return load_tokenizer(kept)
    if config.tokenizer is not None:
        kind, _, size = config.tokenizer.partition(":")
        if kind == "bpe" and size.isdigit():
            return train_bpe((text for row in rows for text in texts_of(row)), int(size))
        return load_tokenizer(str(of_run(config.tokenizer)))
    if "?" not in config.model:
        return load_tokenizer(model_address(config.model))
    if config.data.startswith(WORLD):
        return word_tokenizer(text_world(config.data).words)
    raise ConfigError(f"{config.model} has no tokenizer of its own; give one: --tokenizer FOLDER, or bpe:SIZE to train one on the data")


def open_model(config: TextRunConfig, tokenizer: Any, address: str | None = None, lora: bool = True) -> LanguageModel:
    """The model at an address of the configuration (None: the one that learns)."""
    adapters = LoRA(config.lora_rank) if lora and config.lora_rank else None
    return make_model(
        model_address(config.model if address is None else address), generator(config.seed, "model"), tokenizer, lora=adapters,
        activations=torch.bfloat16 if config.dtype == "bfloat16" else None, checkpointing=config.checkpointing, device=config.device,
    )  # fmt: skip


def load_rows(config: TextRunConfig, out: Path) -> list[TextRow]:
    """Of a file, or of a label store: there the answers up to the moment when the run first looked, however many came since."""
    if "://" not in config.data:
        return load_text(config.data)[: config.rows]
    from tutelage.feedback.store import Store
    from tutelage.feedback.texts import ranked_rows, thumb_rows

    with Store(config.data, create=False) as store:
        mark = out / LOOKED
        if not mark.exists():
            write_whole(mark, json.dumps({"until": store.head()}).encode(), out / f".{LOOKED}.{os.getpid()}")
        until = json.loads(mark.read_text())["until"]
        if STAGES[config.name].learns_from == "labeled":
            return list[TextRow](thumb_rows(store, until=until))[: config.rows]
        return list[TextRow](ranked_rows(store, until=until))[: config.rows]


def open_materials(config: TextRunConfig, out: Path) -> Materials:
    """All of it; out: the run's directory. Raises what its parts raise, in one sentence each."""
    needs = STAGES[config.name].learns_from
    world = text_world(config.data) if config.data.startswith(WORLD) else None
    whole = load_rows(config, out) if world is None else []
    rows: list[TextRow] = whole
    tokenizer = open_tokenizer(config, rows, out / "tokenizer")
    model = open_model(config, tokenizer)
    context = min(config.context or model.context, model.context)
    encoder = TextEncoder(tokenizer, context, config.too_long, config.learned)
    if world is not None:
        rows = world_rows(config, world, model, tokenizer)
    if world is None or needs != "prompts":  # a world's prompts are draws, as often as they are likely
        rows = list(ROWS[needs](rows))
    if not rows:
        raise ConfigError(f"{config.data} holds no row that {config.name} can learn from; it needs {needs}")
    cut = min(round(config.held_out * len(rows)), len(rows) - 1)
    order = torch.randperm(len(rows), generator=generator(config.seed, "held out")).tolist()
    held, own = sorted(order[:cut]), sorted(order[cut:])
    return Materials(
        tokenizer, encoder, tuple(rows[i] for i in own), tuple(rows[i] for i in held), model, fingerprint(rows),
        () if world is not None or config.preflight == "off" else look_at(config, whole, tokenizer, model, context),
    )  # fmt: skip


def look_at(config: TextRunConfig, rows: Sequence[TextRow], tokenizer: Any, model: LanguageModel, context: int) -> tuple[str, ...]:
    """What preflight warns of. Raises ConfigError where it refuses and the run was told to listen."""
    facts = ModelFacts(context, model.config.vocab_size)  # its dropout is what the stage asks for
    found = preflight(TextData(Path(config.data).name, tuple(rows)), tokenizer, facts, PREFLIGHT_ROWS, config.too_long)
    if found.refused and config.preflight == "refuse":
        first = next(finding.sentence for finding in found.findings if finding.level == "refuse")
        raise ConfigError(f"{first}; `tutelage preflight {config.data} --model {config.model}` says the rest")
    return tuple(str(finding) for finding in found.findings if finding.level != "note")


def world_rows(config: TextRunConfig, world: TextWorld, model: LanguageModel, tokenizer: Any) -> list[TextRow]:
    """Demonstrations of a world; its prompts; or its prompts with answers by the model, ranked."""
    count, needs = config.rows or WORLD_ROWS, STAGES[config.name].learns_from
    draw = generator(config.seed, "world")
    name = config.data
    if needs == "demonstrations":
        told = world.demonstrations(count, draw)
        return [Demonstration(prompt=prompt, answer=answer, where=name, number=i) for i, (prompt, answer) in enumerate(told, 1)]
    asked = world.prompts(count, draw)
    if needs == "prompts":
        return [Prompt(prompt=prompt, where=name, number=i) for i, prompt in enumerate(asked, 1)]
    return list(ranked_by_gold(world, model, tokenizer, asked, config.answers, generator(config.seed, "answers"), name))


@torch.no_grad()
def ranked_by_gold(
    world: TextWorld, model: LanguageModel, tokenizer: Any, asked: Sequence[str], answers: int, draw: torch.Generator, name: str = ""
) -> list[Ranked]:
    """Answers by the model to each prompt, in the order of a rater who sees the gold score through noise.

    Gumbel noise makes every pair a Bradley-Terry comparison at temperature 1 and every order one of Plackett and Luce (Yellott 1977).
    Answers without an end are not shown, for as a row of text they would get one; prompts with fewer than two others are left out.
    """
    found: list[Ranked] = []
    eos = tokenizer.eos_token_id
    for start in range(0, len(asked), 64):
        part = asked[start : start + 64]
        batch = pad_left([tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in part], eos).to(model.device)
        drawn = sample(model, batch.tokens, batch.attention, world.answer_tokens, eos, draw, samples=answers)
        gold = world.gold(drawn.tokens, drawn.attention, drawn.response).cpu().view(-1, answers)
        ended = drawn.finished.cpu().view(-1, answers)
        noisy = gold - (-torch.rand(gold.shape, generator=draw).clamp(min=1e-30).log()).log()
        words = [
            tokenizer.decode([token for token in tokens[mask].tolist() if token != eos])
            for tokens, mask in zip(drawn.tokens, drawn.response, strict=True)
        ]
        for i, prompt in enumerate(part):
            shown = ended[i].nonzero().flatten().tolist()
            if len(shown) < 2:
                continue
            ranks = noisy[i, shown].argsort(descending=True).argsort() + 1
            own, columns = tuple(words[i * answers + j] for j in shown), {"gold": gold[i, shown].tolist()}
            found.append(Ranked(prompt=prompt, texts=own, ranks=tuple(ranks.tolist()), where=name, number=start + i + 1, columns=columns))
    return found


def encode_texts(encoder: TextEncoder, rows: Sequence[TextRow]) -> EncodedRows:
    """Rows as tokens; none for none."""
    return encoder.encode_all(rows) if rows else EncodedRows((), ())


def encode_prompts(encoder: TextEncoder, rows: Sequence[TextRow], max_new_tokens: int) -> tuple[list[Asked], list[TextRow]]:
    """Prompts that leave room for an answer, with the columns of their rows; and the rows that were dropped."""
    if not rows:
        return [], []
    longest = encoder.context - max_new_tokens
    if longest < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {encoder.context} tokens")
    kept, tokens, dropped = encoder.prompts(rows, longest)
    return [Asked(tuple(own), row.columns) for row, own in zip(kept, tokens, strict=True)], dropped


def texts_at(address: str | None, config: TextRunConfig, encoder: TextEncoder, path: str) -> list[Encoded]:
    """Demonstrations of a file or of a world, none for None. path: of their generator."""
    if address is None:
        return []
    if address.startswith(WORLD):
        told = text_world(address).demonstrations(config.rows or WORLD_ROWS, generator(config.seed, path))
        rows: list[TextRow] = [Demonstration(prompt=prompt, answer=answer) for prompt, answer in told]
    else:
        rows = list(demonstrations(load_text(address)))
    return [text for own in encoder.encode_all(rows).texts for text in own]


def pretraining_texts(config: TextRunConfig, encoder: TextEncoder) -> list[Encoded]:
    """The texts of the ptx term, learned from as a whole."""
    return [encoded((), text.tokens) for text in texts_at(config.pretraining, config, encoder, "pretraining")]


def open_score_models(address: str, tokenizer: Any, dtype: str = "float32", device: str = "cpu") -> list[ScoreModel]:
    """One reward model, or the members of an ensemble. Raises ModelError where the words of its tokenizer are others."""
    path = Path(address)
    folders = sorted(path.glob("model*")) if (path / "events.jsonl").is_file() else [path]
    folders = [folder for folder in folders if (folder / SCORE_FILE).is_file()] or [of_run(address)]
    for folder in folders:
        if (folder / "tokenizer.json").is_file() and load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
            raise ModelError(f"{folder} reads other tokens than the policy writes; a reward model with the same tokenizer is needed")
    activations = torch.bfloat16 if dtype == "bfloat16" else None
    return [ScoreModel.load(folder, activations=activations, device=device) for folder in folders]


def open_rewards(
    addresses: Sequence[str], tokenizer: Any, weights: Sequence[float] = (), combine: Literal["mean", "worst", "disagreement"] = "mean",
    variance_penalty: float = 1.0, length_penalty: float = 0.0, dtype: str = "float32", device: str = "cpu",
) -> tuple[TextReward, list[ScoreModel]]:  # fmt: skip
    """The reward of some addresses, and the reward models in it: the first is what a critic starts as."""
    parts: list[TextReward] = []
    models: list[ScoreModel] = []
    for address in addresses:
        if address.startswith(WORLD):
            parts.append(GoldReward(text_world(address)))
        elif address.startswith("py:"):
            parts.append(written_reward(address, tokenizer))
        else:
            own = open_score_models(address, tokenizer, dtype, device)
            models += own
            parts.append(LearnedTextReward(own, combine, variance_penalty, length_penalty))
    if weights:
        return WeightedTextReward(parts, weights), models
    if len(parts) > 1 and all(isinstance(part, LearnedTextReward) for part in parts):
        return LearnedTextReward(models, combine, variance_penalty, length_penalty), models
    if len(parts) > 1:
        raise ConfigError(f"{len(parts)} rewards of several kinds were given; --reward-weights says how much each of them counts")
    return parts[0], models


def open_reward(config: TextRunConfig, tokenizer: Any) -> tuple[TextReward, list[ScoreModel]]:
    """As `open_rewards`, of a run."""
    addresses = config.reward or ((config.data,) if config.data.startswith(WORLD) else ())
    if not addresses:
        raise ConfigError(
            f"{config.name} was given no reward; --reward takes runs or folders of reward models, a world, or py:module:function"
        )
    combined = config.reward_weights, config.combine, config.variance_penalty, config.length_penalty
    return open_rewards(addresses, tokenizer, *combined, config.dtype, config.device)


def lineage(address: str) -> dict[str, Any]:
    """What the card of the model at an address says of its training, {} where it has none."""
    if "?" in address or address.startswith((WORLD, "py:")):
        return {}
    path = of_run(address, "model", "model-0") / "training.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
