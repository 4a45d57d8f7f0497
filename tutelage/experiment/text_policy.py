"""A trained language model to ask and to judge: what `tutelage generate` and `tutelage evaluate` do with one."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.evaluate.text import answer, evaluate_model
from tutelage.experience.text import TextBatch, pad_left
from tutelage.experience.text_data import load_text
from tutelage.experience.text_encoding import TextEncoder
from tutelage.experience.text_rows import Prompt, Words
from tutelage.experience.text_rows import prompts as text_prompts
from tutelage.experiment.config import STAGES, TextRunConfig
from tutelage.experiment.randomness import generator
from tutelage.experiment.text_materials import WORLD, encode_prompts, model_address, open_model, open_reward, open_rewards
from tutelage.games.text_worlds import text_world
from tutelage.nets.language import LanguageModel, load_tokenizer, make_model
from tutelage.nets.sampling import sample

ANSWER_TOKENS = 64
"""Longest answer where nothing else says."""


@dataclass(frozen=True)
class TextPolicy:
    """A language model with its tokenizer."""

    model: LanguageModel
    tokenizer: Any

    @torch.no_grad()
    def answer(
        self, prompts: Sequence[Words], max_new_tokens: int = 64, temperature: float = 1.0, greedy: bool = False, samples: int = 1,
        seed: int = 0, batch_size: int = 32,
    ) -> list[list[str]]:  # fmt: skip
        """`samples` answers to each prompt, in order; a prompt is text, or the turns of a conversation so far.

        max_new_tokens: fewer where the context holds fewer.
        """
        texts, _ = self.write(prompts, max_new_tokens, temperature, greedy, samples, seed, batch_size)
        return texts

    @torch.no_grad()
    def write(
        self, prompts: Sequence[Words], max_new_tokens: int, temperature: float, greedy: bool, samples: int, seed: int, batch_size: int
    ) -> tuple[list[list[str]], list[TextBatch]]:
        """As `answer`, with the batches of tokens that the answers stand in."""
        encoder, draw = TextEncoder(self.tokenizer, min(self.model.context, 2**30)), generator(seed, "answers")
        eos, answers, batches = self.tokenizer.eos_token_id, list[list[str]](), list[TextBatch]()
        self.model.eval()
        for start in range(0, len(prompts), batch_size):
            batch = pad_left([encoder.prompt(prompt) for prompt in prompts[start : start + batch_size]], eos).to(self.model.device)
            room = max(self.model.context - batch.tokens.shape[1], 1)
            drawn = sample(
                self.model, batch.tokens, batch.attention, min(max_new_tokens, room), eos, draw, temperature=temperature, greedy=greedy,
                samples=samples,
            )  # fmt: skip
            batches.append(TextBatch(drawn.tokens, drawn.attention, drawn.response))
            words = [
                self.tokenizer.decode(tokens[mask].tolist(), skip_special_tokens=True)
                for tokens, mask in zip(drawn.tokens, drawn.response, strict=True)
            ]
            answers += [words[i : i + samples] for i in range(0, len(words), samples)]
        return answers, batches


def load_model(address: Path | str, device: str = "cpu") -> TextPolicy:
    """The language model of a finished run, of a folder or of a hub name. Raises ConfigError or ModelError where there is none."""
    folder = model_address(str(address))
    tokenizer = load_tokenizer(folder)
    return TextPolicy(make_model(folder, generator(0, "model"), tokenizer, device=device), tokenizer)


def generate(
    model: str, prompts: Sequence[str], data: Path | None, max_new_tokens: int, temperature: float, greedy: bool, samples: int,
    best_of: int, reward: str | None, seed: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of `prompt` and `answers`, and `scores` where there is a reward. best_of: draws for each answer, of which the best is kept."""
    policy = load_model(model)
    rows = [Prompt(prompt=prompt) for prompt in prompts] if data is None else text_prompts(load_text(data))
    scorer = None if reward is None else open_rewards((reward,), policy.tokenizer)[0]
    for start in range(0, len(rows), 32):
        part = [row.prompt for row in rows[start : start + 32]]
        columns = [row.columns for row in rows[start : start + 32] for _ in range(samples * best_of)]
        answers, batches = policy.write(part, max_new_tokens, temperature, greedy, samples * best_of, seed + start, 32)
        scores = None if scorer is None else scorer.scores(batches[0], columns).view(len(part), samples, best_of)
        for i, prompt in enumerate(part):
            row: dict[str, Any] = {
                "prompt": prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt],
                "answers": answers[i],
            }
            if scores is not None:
                best = scores[i].argmax(1)
                row["answers"] = [answers[i][k * best_of + int(j)] for k, j in enumerate(best)]
                row["scores"] = scores[i].gather(1, best[:, None])[:, 0].tolist()
            yield row


def evaluate_text_run(out: Path, prompts: int = 256, seed: int = 0) -> dict[str, Any]:
    """What a finished run's net is worth on the rows that it held out: losses and accuracies, or scores of what it writes and its KL."""
    from tutelage.experiment.language import TextExperiment, read_text_config

    config = read_text_config(out)
    with TextExperiment(config, out) as experiment:
        experiment.restore_only()
        found: dict[str, Any] = {"run": str(out), "updates": experiment.steps}
        found |= experiment.evaluate_only()
        if STAGES[config.name].learns_from != "rankings":
            found |= evaluate_writing(config, experiment, prompts, seed)
    return found


@torch.no_grad()
def evaluate_writing(config: TextRunConfig, experiment: Any, prompts: int, seed: int) -> dict[str, float | int]:
    """Of answers to held-out prompts: scores and wins over the model that the run began with, distance from it, length, and ends."""
    materials, model = experiment.materials, experiment.learner.nets()["model"]
    how = getattr(getattr(config.algorithm, "ppo", config.algorithm), "sampling", None)
    longest = ANSWER_TOKENS if how is None else how.max_new_tokens
    if config.data.startswith(WORLD):
        longest = text_world(config.data).answer_tokens
    rows, encoder = materials.held_out or materials.rows, materials.encoder
    asked = encode_prompts(encoder, rows, 1 if how is None else how.max_new_tokens)[0][:prompts]
    longest = min(longest, encoder.context - max(len(prompt.tokens) for prompt in asked))
    before = open_model(config, materials.tokenizer, lora=False)
    reward = open_reward(config, materials.tokenizer)[0] if config.reward or config.data.startswith(WORLD) else None
    columns = [prompt.columns for prompt in asked]

    def gold(texts: TextBatch) -> torch.Tensor:
        return torch.full((len(texts),), torch.nan) if reward is None else reward.scores(texts, columns)

    eos, temperature = materials.tokenizer.eos_token_id, 1.0 if how is None else how.sampling_temperature
    tokens, draw = [prompt.tokens for prompt in asked], generator(seed, "evaluation")
    opponent = answer(before, tokens, longest, eos, draw, temperature)
    model.eval()
    found, _ = evaluate_model(model, before, tokens, gold, opponent, longest, eos, draw, temperature)
    model.train()
    measured = {"prompts": len(asked), "kl": found.kl.mean, "length": found.length, "finished": found.finished, "distinct": found.distinct}
    if reward is None:
        return measured
    win = found.win.wilson
    return measured | {
        "score": found.gold.mean,
        "score of the start": float(gold(opponent.text).mean()),
        "wins over the start": win.estimate,
        "wins at least": win.low,
        "wins at most": win.high,
    }
