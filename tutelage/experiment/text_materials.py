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

from tutelage.experience.files import write_whole
from tutelage.experience.preflight import ModelFacts, preflight
from tutelage.experience.text import Encoded, TextBatch, pad_left
from tutelage.experience.text_data import TextData, load_text
from tutelage.experience.text_encoding import EncodedRows, TextEncoder, TooLongError, row_numbers
from tutelage.experience.text_rows import (
    Demonstration,
    Prompt,
    Ranked,
    TextRow,
    Words,
    demonstrations,
    fingerprint,
    labeled,
    pairs,
    prompts,
    rankings,
    texts_of,
)
from tutelage.experience.tokenizers import train_bpe, word_tokenizer
from tutelage.experiment.config import STAGES, ConfigError, TextRunConfig
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.processor import refuse_device
from tutelage.experiment.randomness import generator
from tutelage.games.text_worlds import TextWorld, text_world
from tutelage.learn.language.writing import Asked
from tutelage.nets.language import SCORE_FILE, LanguageModel, LoRA, ModelError, ScoreModel, load_tokenizer, make_model
from tutelage.nets.sampling import sample
from tutelage.rewards.text import Columns, LearnedTextReward, ShorterTextReward, TextReward, WeightedTextReward, written_reward

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
    """Of all rows, as they were read."""
    warnings: tuple[str, ...] = ()
    """Of rows from which nothing can be learned, and what preflight found."""


def of_run(address: str, *folders: str) -> Path:
    """The folder of a run's net (`model`, or another of these) where the address is a run's, else the address.

    Raises ConfigError for a run that has not ended: one that is killed at its end has saved some of its nets.
    """
    path = Path(address)
    if (path / EVENTS).is_file():
        found = next((path / name for name in folders or ("model",) if (path / name).is_dir()), None)
        if found is None or not any(event["event"] == "end" for event in read_events(path / EVENTS)):
            raise ConfigError(
                f"{address} is a run without a finished {(folders or ('model',))[0]}; `tutelage resume {address}` finishes it"
            )
        return found
    return path


def model_address(address: str, scores: bool = False) -> str:
    """Of a language model: a kind with its sizes stays as it is. Raises ConfigError for a reward model, unless `scores` is said."""
    if "?" in address:
        return address
    folder = of_run(address)
    if not scores and (folder / SCORE_FILE).is_file():
        raise ConfigError(f"{address} is a reward model, which scores texts and writes none; a language model was expected")
    return str(folder)


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
        return load_tokenizer(model_address(config.model, scores=True))
    if config.data.startswith(WORLD):
        return word_tokenizer(text_world(config.data).words)
    raise ConfigError(f"{config.model} has no tokenizer of its own; give one: --tokenizer FOLDER, or bpe:SIZE to train one on the data")


def open_model(config: TextRunConfig, tokenizer: Any, address: str | None = None, lora: bool = True) -> LanguageModel:
    """The model at an address of the configuration (None: the one that learns)."""
    adapters = LoRA(config.lora_rank) if lora and config.lora_rank else None
    return make_model(
        model_address(config.model if address is None else address, scores=config.name == "reward-model"),  # which may learn on
        generator(config.seed, "model"), tokenizer, lora=adapters, activations=activations_of(config.dtype),
        checkpointing=config.checkpointing, device=config.device,
    )  # fmt: skip


def activations_of(dtype: str) -> torch.dtype | None:
    """What products are computed in, where that is not single precision."""
    return torch.bfloat16 if dtype == "bfloat16" else None


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
    refuse_device(config.device)
    world = text_world(config.data) if config.data.startswith(WORLD) else None
    whole = load_rows(config, out) if world is None else []
    rows: list[TextRow] = whole
    tokenizer = open_tokenizer(config, rows, out / "tokenizer")
    model = open_model(config, tokenizer)
    context = min(config.context or model.context, model.context)
    encoder = TextEncoder(tokenizer, context, config.too_long, config.learned)
    if world is not None:
        rows = world_rows(config, world, model, tokenizer)
    digest = fingerprint(rows, columns=True)
    rows, told = without_ties(rows) if _needs_an_order(config) else (rows, "")
    if world is None and needs == "prompts":  # a world's prompts are draws, as often as they are likely
        rows = list(prompts(rows))
    sides = split(rows, config.held_out, generator(config.seed, "held out"), by_prompt=world is None)
    own, held = sides if needs == "prompts" else (ROWS[needs](side) for side in sides)
    if not own:
        raise ConfigError(f"{config.data} holds no row that {config.name} can learn from; it needs {needs}")
    looked = () if world is not None or config.preflight == "off" else look_at(config, whole, tokenizer, model, context)
    return Materials(tokenizer, encoder, tuple(own), tuple(held), model, digest, (*((told,) if told else ()), *looked))


def _needs_an_order(config: TextRunConfig) -> bool:
    """Whether a row whose answers are all ranked alike teaches nothing."""
    needs = STAGES[config.name].learns_from
    return needs in ("pairs", "labeled") or (needs == "rankings" and config.algorithm.ties == "dropped")


def without_ties(rows: Sequence[TextRow]) -> tuple[list[TextRow], str]:
    """Rows that order something, and a sentence on those that do not. Raises ConfigError where none is left."""
    decided = [not isinstance(row, Ranked) or bool(row.preferences()) for row in rows]
    if all(decided):
        return list(rows), ""
    tied = [row for row, kept in zip(rows, decided, strict=True) if not kept]
    told = f"{len(tied)} of {len(rows)} rows rank all their answers alike, which orders nothing, and were left out ({row_numbers(tied)})"
    if not any(decided):
        raise ConfigError(f"{told}; none is left to learn from")
    return [row for row, kept in zip(rows, decided, strict=True) if kept], told


def split(rows: Sequence[TextRow], share: float, draw: torch.Generator, by_prompt: bool = True) -> tuple[list[TextRow], list[TextRow]]:
    """What is learned from and what is held out, in the order of the rows.

    All rows of a prompt are on one side, so that nothing is measured on a prompt whose other answers were learned from; row by row
    only where that holds out nothing, as in data with a single prompt. Without by_prompt rows are draws, each by itself.
    """
    cut = min(round(share * len(rows)), len(rows) - 1)
    order = torch.randperm(len(rows), generator=draw).tolist()
    held: set[int] = set()
    if by_prompt:
        same: dict[Words, list[int]] = {}
        for i, row in enumerate(rows):
            same.setdefault(row.prompt, []).append(i)
        for i in order:
            if i not in held and len(held) + len(same[rows[i].prompt]) <= cut:
                held.update(same[rows[i].prompt])
    held = held or set(order[: max(cut, 0)])
    return [row for i, row in enumerate(rows) if i not in held], [row for i, row in enumerate(rows) if i in held]


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
    refuse_other_words(world, tokenizer, name)
    return list(ranked_by_gold(world, model, tokenizer, asked, config.answers, generator(config.seed, "answers"), name))


def refuse_other_words(world: TextWorld, tokenizer: Any, address: str) -> None:
    """Raises ConfigError where a tokenizer numbers the words of a world in another way: gold scores are of numbers."""
    if {word: number for word, number in tokenizer.get_vocab().items() if word in world.ids} != world.ids:
        raise ConfigError(f"{address} knows what texts of its own {len(world.ids)} words are worth; the model's tokenizer writes others")


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


def encode_texts(encoder: TextEncoder, rows: Sequence[TextRow], held_out: bool = False) -> EncodedRows:
    """Rows as tokens; none for none. held_out: none, too, where all of them are too long, for nothing is learned from them."""
    try:
        return encoder.encode_all(rows) if rows else EncodedRows((), ())
    except TooLongError:
        if encoder.too_long == "refuse" or not held_out:
            raise
        return EncodedRows((), (), tuple(rows))


def encode_prompts(encoder: TextEncoder, rows: Sequence[TextRow], max_new_tokens: int, held_out: bool = False) -> tuple[list[Asked], str]:
    """Prompts that leave room for an answer, with the columns of their rows; and a sentence on what is missing.

    held_out: as in `encode_texts`.
    """
    if not rows:
        return [], ""
    longest = encoder.context - max_new_tokens
    if longest < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {encoder.context} tokens")
    try:
        kept, tokens, dropped, cut = encoder.prompts(rows, longest)
    except TooLongError:
        if encoder.too_long == "refuse" or not held_out:
            raise
        kept, tokens, dropped, cut = [], [], list(rows), []
    parts = [(dropped, "were dropped"), (cut, "were cut")]
    told = [f"{len(own)} of {len(rows)} prompts leave no room for an answer and {what} ({row_numbers(own)})" for own, what in parts if own]
    return [Asked(tuple(own), row.columns) for row, own in zip(kept, tokens, strict=True)], "; ".join(told)


def texts_at(address: str | None, config: TextRunConfig, encoder: TextEncoder, path: str) -> tuple[list[Encoded], str, str]:
    """Demonstrations of a file or of a world, none for None; a sentence on what is missing; and the digest of their rows.

    path: of their generator.
    """
    if address is None:
        return [], "", ""
    if address.startswith(WORLD):
        told = text_world(address).demonstrations(config.rows or WORLD_ROWS, generator(config.seed, path))
        rows: list[TextRow] = [Demonstration(prompt=prompt, answer=answer) for prompt, answer in told]
    else:
        rows = list(demonstrations(load_text(address)))
    found = encoder.encode_all(rows)
    return [text for own in found.texts for text in own], found.told(), fingerprint(rows)


def open_score_models(address: str, tokenizer: Any, dtype: str = "float32", device: str = "cpu") -> list[ScoreModel]:
    """One reward model, or the members of an ensemble. Raises ModelError where the words of its tokenizer are others."""
    first = of_run(address, "model", "model-0")
    folders = sorted(Path(address).glob("model-*")) if first.name == "model-0" and first.parent == Path(address) else [first]
    for folder in folders:
        if (folder / "tokenizer.json").is_file() and load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
            raise ModelError(f"{folder} reads other tokens than the policy writes; a reward model with the same tokenizer is needed")
    return [ScoreModel.load(folder, activations=activations_of(dtype), device=device) for folder in folders]


def open_rewards(
    addresses: Sequence[str], tokenizer: Any, weights: Sequence[float] = (), combine: Literal["mean", "worst", "disagreement"] = "mean",
    variance_penalty: float = 1.0, length_penalty: float = 0.0, dtype: str = "float32", device: str = "cpu",
) -> tuple[TextReward, list[ScoreModel]]:  # fmt: skip
    """The reward of some addresses, and the reward models in it: the first is what a critic starts as.

    length_penalty: taken off the whole once, whatever it is the sum of.
    """
    parts: list[TextReward] = []
    models: list[ScoreModel] = []
    for address in addresses:
        if address.startswith(WORLD):
            world = text_world(address)
            refuse_other_words(world, tokenizer, address)
            parts.append(GoldReward(world))
        elif address.startswith("py:"):
            parts.append(written_reward(address, tokenizer))
        else:
            own = open_score_models(address, tokenizer, dtype, device)
            models += own
            parts.append(LearnedTextReward(own, combine, variance_penalty))
    if weights:
        reward: TextReward = WeightedTextReward(parts, weights)
    elif len(parts) == 1:
        reward = parts[0]
    elif all(isinstance(part, LearnedTextReward) for part in parts):
        reward = LearnedTextReward(models, combine, variance_penalty)
    else:
        raise ConfigError(f"{len(parts)} rewards of several kinds were given; --reward-weights says how much each of them counts")
    return ShorterTextReward(reward, length_penalty) if length_penalty else reward, models


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
    try:
        return json.loads((of_run(address, "model", "model-0") / "training.json").read_text())
    except (OSError, ValueError):  # of_run's too: the other run may have begun anew since this one read its model
        return {}
