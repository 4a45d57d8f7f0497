"""A run of a language model: from a configuration to a directory with everything, and on from where it was interrupted.

    config.json events.jsonl checkpoints/ tokenizer/ reference.safetensors model/ critic/ report.html

`model/` is an ordinary folder of transformers, with a card and `training.json`, which says the same to a program.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tutelage.evaluate.text import answer
from tutelage.experience.files import write_whole
from tutelage.experience.text import Encoded, TextError, encoded, pad_right
from tutelage.experience.text_rows import Words
from tutelage.experiment.checkpoint import CheckpointError, Checkpoints
from tutelage.experiment.config import STAGES, TextRunConfig, to_json
from tutelage.experiment.fingerprint import fingerprint
from tutelage.experiment.log import EVENTS, EventLog, read_events
from tutelage.experiment.model_card import training_facts, write_card
from tutelage.experiment.processor import prepare
from tutelage.experiment.randomness import generator
from tutelage.experiment.run import RunError, hold, misfit, read_any_config, room_in
from tutelage.experiment.scale import one_run
from tutelage.experiment.text_materials import (
    WORLD,
    activations_of,
    encode_prompts,
    encode_texts,
    model_address,
    open_materials,
    open_model,
    open_reward,
    open_rewards,
    open_score_models,
    texts_at,
)  # fmt: skip
from tutelage.experiment.text_report import write_text_report
from tutelage.experiment.train import RUNS
from tutelage.learn.language.dpo import DPO, FREE
from tutelage.learn.language.reference import digests, refuse_changes, text_logp, weights_digest
from tutelage.learn.language.reward_model import Ranking, RewardModel
from tutelage.nets.language import SCORE_FILE, LanguageModel, ScoreModel
from tutelage.nets.ranks import averaged, rank, ranks, whole

REFERENCE = "reference.safetensors"
SHOWN_PROMPTS, SHOWN_TOKENS = 6, 64
STATE = {"learner", "inputs", "seconds"}
LINE_SECONDS = 30.0


class TextExperiment:
    """`step` until `finished`; `save` and `restore` at any step between. A step is an update of the stage."""

    def __init__(self, config: TextRunConfig, out: Path) -> None:
        """Raises RunError when another process uses `out`, and one sentence for whatever cannot be had or learned from."""
        prepare(config.threads)
        with contextlib.ExitStack() as opened:
            opened.enter_context(hold(out))
            self.config, self.out = config, out
            self.stage = STAGES[config.name]
            self.materials = open_materials(config, out)
            self.told, self.more = list[str](), tuple[Tensor | None, ...]()
            tokenizer = hashlib.sha256(_words(self.materials.tokenizer).encode()).hexdigest()
            self.inputs = {"data": self.materials.digest, "model": weights_digest(self.materials.model), "tokenizer": tokenizer}
            self.learner = self._make_learner()
            self.checkpoints = Checkpoints(out, config.checkpoints_kept)
            self.seconds, self._ended = 0.0, False
            if not (out / EVENTS).exists():
                self._keep_tokenizer()
                write_whole(out / "config.json", json.dumps(to_json(config), indent=1).encode(), out / f".config.json.{os.getpid()}")
            self.log = EventLog(out / EVENTS)
            self._opened = opened.pop_all()

    def tell(self, sentence: str, about: str = "") -> None:
        """Keep what a person should know of the inputs, for the log."""
        if sentence:
            self.told.append(f"{about}: {sentence}" if about else sentence)

    def _keep_tokenizer(self) -> None:
        """Whole or not at all: a run that is continued reads this one."""
        partial, final = self.out / f".tokenizer.{os.getpid()}", self.out / "tokenizer"
        shutil.rmtree(final, ignore_errors=True)
        self.materials.tokenizer.save_pretrained(str(partial))
        os.rename(partial, final)

    def _make_learner(self) -> Any:
        config, materials, draw = self.config, self.materials, generator(self.config.seed, "learner")
        if ranks() > 1 and config.name == "rounds":
            raise RunError(f"rounds was started in {ranks()} processes and works in one: its nets learn one after the other; drop torchrun")
        algorithm, needs = config.algorithm, self.stage.learns_from
        if needs == "prompts":
            return self._make_writer(draw)
        own, held = encode_texts(materials.encoder, materials.rows), encode_texts(materials.encoder, materials.held_out, held_out=True)
        self.tell(own.told())
        self.tell(held.told(), "held out")
        if needs == "demonstrations":
            self.held_out: list[Any] = [text for texts in held.texts for text in texts]
            return self.stage.learner(algorithm, materials.model, [text for texts in own.texts for text in texts], draw)
        if needs == "rankings":
            own_rows, self.held_out = _as_rankings(own), _as_rankings(held)
            world = config.data.startswith(WORLD)
            models = [self._fresh_score_model(i) for i in range(algorithm.members)]
            self.demonstrations = self._open_texts("demonstrations", config.demonstrations or (config.data if world else None))
            return self.stage.learner(algorithm, models, own_rows, draw)
        reference = self._open_reference()
        if needs == "labeled":
            rows, self.held_out = ([(texts[0], row.desirable) for row, texts in zip(e.rows, e.texts, strict=True)] for e in (own, held))  # type: ignore[attr-defined]
            return self.stage.learner(algorithm, materials.model, rows, draw, reference)
        pairs, self.held_out = ([(texts[0], texts[1]) for texts in e.texts] for e in (own, held))
        return self._make_dpo(pairs, self.held_out, draw, reference)

    def _open_reference(self) -> LanguageModel | None:
        """The one at an address of its own; None where it is the model as it starts."""
        if self.config.reference is None:
            return None
        reference = open_model(self.config, self.materials.tokenizer, self.config.reference, lora=False).copy()
        self.inputs["reference"] = weights_digest(reference)
        return reference

    def _fresh_score_model(self, member: int) -> ScoreModel:
        """On the language model's body; or a reward model that learns on."""
        folder = Path(model_address(self.config.model, scores=True))
        if (folder / SCORE_FILE).is_file():
            if self.config.algorithm.members > 1:
                raise RunError(f"{folder} is one reward model; as {self.config.algorithm.members} members it would begin alike in all")
            model = ScoreModel.load(folder, activations=activations_of(self.config.dtype), device=self.config.device)
            self.inputs["model"] = weights_digest(model)  # the head too
            return model
        return ScoreModel.of(self.materials.model, generator(self.config.seed, f"head/{member}"))

    def _make_dpo(
        self, pairs: list[tuple[Encoded, Encoded]], held_out: list[tuple[Encoded, Encoded]], draw: torch.Generator, reference: Any
    ) -> DPO:
        """The reference's log-probabilities are read from the run where it has them, and refused where they belong to other inputs."""
        config, model, tokenizer = self.config, self.materials.model, self.materials.tokenizer
        margins, held_margins = (self._margins(rows) if config.algorithm.loss == "modpo" else None for rows in (pairs, held_out))
        self.more = (None, held_margins)
        if config.algorithm.live_reference or config.algorithm.loss in FREE:
            return DPO(config.algorithm, model, pairs, draw, reference, margins)
        texts = [text for pair in [*pairs, *held_out] for text in pair]
        about = {"template": self.materials.encoder.template, "max_length": self.materials.encoder.context, "too_long": config.too_long}
        now = digests(reference or model, texts, tokenizer=_words(tokenizer), **about)
        path = self.out / REFERENCE
        if path.exists():
            logp, saved = read_reference(path)
            refuse_changes(saved, now, str(path))
        else:
            size = 2 * (config.algorithm.microbatch or config.algorithm.batch_size)
            logp = text_logp(reference or model, texts, size).view(-1, 2)  # fresh adapters change nothing yet
            write_whole(path, save({"logp": logp}, now), self.out / f".{REFERENCE}.{os.getpid()}")
        self.more = (logp[len(pairs) :], held_margins)
        return DPO(config.algorithm, model, pairs, draw, logp[: len(pairs)], margins)

    def _margins(self, pairs: list[tuple[Encoded, Encoded]]) -> Tensor:
        """What the rewards of the other objectives say of each pair: r(chosen) - r(rejected), one column per reward."""
        config = self.config
        if not pairs:
            return torch.zeros(0, len(config.reward))
        batch = pad_right([text for pair in pairs for text in pair], 0).to(config.device)
        rewards = [open_rewards((address,), self.materials.tokenizer, device=config.device) for address in config.reward]
        self._know_score_models("reward", [model for _, models in rewards for model in models])
        scores = [reward.scores(batch, [{}] * len(batch)).cpu().view(-1, 2) for reward, _ in rewards]
        return torch.stack([own[:, 0] - own[:, 1] for own in scores], 1) if scores else torch.zeros(len(pairs), 0)

    def _make_writer(self, draw: torch.Generator) -> Any:
        """A stage that writes: it needs a reward, and PPO a critic."""
        config, materials = self.config, self.materials
        sampling = getattr(config.algorithm, "sampling", None) or config.algorithm.ppo.sampling
        prompts, told = encode_prompts(materials.encoder, materials.rows, sampling.max_new_tokens)
        self.held_out, held_told = encode_prompts(materials.encoder, materials.held_out, sampling.max_new_tokens, held_out=True)
        self.tell(told)
        self.tell(held_told, "held out")
        reward, models = open_reward(config, materials.tokenizer)
        self._know_score_models("reward", models)
        reference = self._open_reference()
        eos, rest = materials.tokenizer.eos_token_id, {}
        more: list[Any] = []
        if config.name == "rounds":
            more = [[self._fresh_score_model(i) for i in range(config.algorithm.reward_model.members)]]
        if config.name == "ppo-lm":
            own = open_score_models(config.critic, materials.tokenizer, config.dtype, config.device) if config.critic else models
            self._know_score_models("critic", own if config.critic else [])
            more = [own[0].copy().requires_grad_(True) if own else ScoreModel.of(materials.model, None)]
            rest["pretraining"] = [encoded((), text.tokens) for text in self._open_texts("pretraining", config.pretraining)]
        return self.stage.learner(config.algorithm, materials.model, *more, reward, prompts, eos, draw, reference, **rest)

    def _open_texts(self, name: str, address: str | None) -> list[Encoded]:
        """Demonstrations for the setting of this name; what is missing is told, and others are refused when the run goes on."""
        texts, told, digest = texts_at(address, self.config, self.materials.encoder, name)
        self.tell(told, name)
        self.inputs |= {name: digest} if digest else {}
        return texts

    def _know_score_models(self, name: str, models: Sequence[ScoreModel]) -> None:
        if models:
            self.inputs[name] = hashlib.sha256("".join(weights_digest(model) for model in models).encode()).hexdigest()

    @property
    def steps(self) -> int:
        """Updates taken."""
        return self.learner.updates

    @property
    def finished(self) -> bool:
        """Whether every update has been taken."""
        return self.learner.updates >= self.learner.total

    def begin(self) -> None:
        """The first events, a measurement of the untrained model, and a checkpoint. Raises RunError when the disk is full."""
        with self._room():
            self.log.append(
                "start",
                0,
                config=to_json(self.config) | {"method": self.config.name},
                fingerprint=fingerprint(self.config.device, self.config.threads),
                inputs=self.inputs,
                rows={"learned from": len(self.materials.rows), "held out": len(self.materials.held_out)},
                planned=self.learner.total,
                seeds=[self.config.seed],
            )
            for sentence in (*self.materials.warnings, *self.told):
                self.log.append("warning", 0, message=sentence)
            self.evaluate()
            self._show("before")
            self.save()

    def step(self) -> None:
        """One update of the stage, and whatever else is due. Raises RunError when the disk is full."""
        with self._room():
            began, config = time.perf_counter(), self.config
            metrics = averaged(self.learner.update())
            self.seconds += time.perf_counter() - began
            if self.steps % config.log_every == 0 or self.finished:
                self.log.append("update", self.steps, seed=config.seed, **metrics)
            if self.finished and isinstance(self.learner, RewardModel):
                self._shift(self.learner)
            if self.steps % config.evaluate_every == 0 or self.finished:
                self.evaluate()
            if self.steps % config.checkpoint_every == 0 or self.finished:
                self.save()

    def _shift(self, learner: RewardModel) -> None:
        """Demonstrations get the mean score 0; where there are none, the best answers stand for them."""
        config = self.config
        texts = self.demonstrations or [ranking.texts[ranking.ranks.index(min(ranking.ranks))] for ranking in learner.rankings]
        self.log.append("shift", self.steps, seed=config.seed, shift=learner.shift_to(texts), texts=len(texts))

    def evaluate(self) -> dict[str, float]:
        """Measured on what is held out; logged, and returned. Policies also answer a few prompts, for people to read."""
        measured = self.evaluate_only()
        if measured:
            self.log.append("evaluation", self.steps, seed=self.config.seed, seconds=self.seconds, **measured)
        return measured

    def evaluate_only(self) -> dict[str, float]:
        """As `evaluate`, without the log; nothing for stages that write: what they write is measured at every update."""
        known = self.held_out and hasattr(self.learner, "evaluate")
        return self.learner.evaluate(self.held_out, *self.more) if known else {}

    def _show(self, moment: str) -> None:
        """Answers to a few prompts, the most probable words, for people to read side by side; the net of a reward model writes nothing."""
        model = self.learner.nets()["model"] if self.stage.learns_from != "rankings" else None
        if model is None or ranks() > 1:
            return
        rows = (self.materials.held_out or self.materials.rows)[:SHOWN_PROMPTS]
        tokenizer, longest = self.materials.tokenizer, min(SHOWN_TOKENS, model.context - 1)
        try:
            kept, tokens, _, _ = self.materials.encoder.prompts(rows, model.context - longest)
        except TextError:
            return  # none of them leaves room for an answer
        model.eval()
        answers = answer(model, tokens, longest, tokenizer.eos_token_id, generator(self.config.seed, "shown"), greedy=True)
        model.train()
        words = [
            tokenizer.decode(own[mask].tolist(), skip_special_tokens=True)
            for own, mask in zip(answers.text.tokens, answers.text.response, strict=True)
        ]
        earlier = next((event["rows"] for event in read_events(self.out / EVENTS) if event["event"] == "samples"), [{} for _ in words])
        shown = [{"prompt": _plain(row.prompt), **old, moment: text} for row, old, text in zip(kept, earlier, words, strict=True)]
        self.log.append("samples", self.steps, rows=shown)

    def save(self) -> Path:
        """A checkpoint of everything; the log that it speaks of is on the disk before it counts."""
        self.log.sync()
        state = whole({"learner": self.learner.state(), "inputs": self.inputs, "seconds": self.seconds})
        return self.checkpoints.save(self.steps, state, None) if rank() == 0 else self.out

    def restore(self) -> list[str]:
        """Continue from the newest valid checkpoint; returns what was restored, in sentences.

        Raises CheckpointError when none is valid or fits, TrainingError where data or models are not those that the run began with.
        """
        before = read_events(self.out / EVENTS)
        if not self.checkpoints.all() and all(event["step"] == 0 for event in before):
            self.log.close()
            (self.out / EVENTS).unlink()
            self.log = EventLog(self.out / EVENTS)
            self.begin()
            sentences = ["the run was interrupted before its first checkpoint, at update 0, and has begun again"]
            self.log.append("resumed", 0, restored=sentences)
            return sentences
        step, passed_over = self.restore_only()
        self._ended = any(event["event"] == "end" and event["step"] <= step for event in before)
        sentences = [*passed_over, f"restored weights, moments, generators and the order of rows at update {step:,}"]
        if not self._ended:
            self.log.append("resumed", step, restored=sentences)
        return sentences

    def restore_only(self) -> tuple[int, list[str]]:
        """Take over the newest valid checkpoint, and write nothing; returns its step and why newer ones were not used."""
        step, state, passed_over = self.checkpoints.load_state()
        with misfit(step):
            if set(state) != STATE:
                raise CheckpointError(f"the checkpoint at step {step} is no language model's")
            if dict(state["inputs"]) != self.inputs:
                self._refuse(state["inputs"])
            self.learner.load(state["learner"])
            self.seconds = float(state["seconds"])
        return step, passed_over

    def _refuse(self, saved: Mapping[str, str]) -> None:
        changed = sorted(name for name in saved.keys() | self.inputs.keys() if saved.get(name) != self.inputs.get(name))
        addresses = dataclasses.asdict(self.config) | {"tokenizer": "tokenizer/", "reward": ", ".join(self.config.reward)}
        where = {name: addresses.get(name) or name for name in changed}
        what = " and ".join(f"the {name} ({where[name]})" for name in changed)
        raise CheckpointError(
            f"{what} changed since the run in {self.out} began; with other inputs it is another run and needs another --out"
        )

    def finish(self) -> None:
        """Nets as folders with their cards, and the last event; once, however often the run is resumed."""
        with self._room():
            if not self._ended:
                self._show("after")
                facts = training_facts(self.config, self.out, self.materials, self.seconds)
                for name, net in self.learner.nets().items():
                    self._save_net(name, net, facts)
                self.log.append("end", self.steps, seconds=self.seconds)
                self._ended = True
            self.log.sync()

    def _save_net(self, name: str, net: Any, facts: dict[str, Any]) -> None:
        partial, final = self.out / f".{name}.partial", self.out / name
        shutil.rmtree(partial, ignore_errors=True)
        net.save(partial, self.materials.tokenizer)
        write_card(partial, facts | {"net": name})
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)

    def close(self) -> None:
        """Let go of the directory."""
        with contextlib.suppress(OSError):
            self.log.close()
        self._opened.close()

    def _room(self) -> contextlib.AbstractContextManager[None]:
        return room_in(self.out, lambda: f"update {self.steps:,}")

    def __enter__(self) -> "TextExperiment":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_text(config: TextRunConfig, out: Path | str | None = None, console: Console | None = None) -> Path:
    """Train a language model in the directory `out` (None: a fresh one under runs/); returns it.

    Raises RunError when `out` already holds a run or is in use, and one sentence for whatever cannot be had or learned from.
    """
    out = fresh_text_directory(config) if out is None else Path(out)
    if (out / EVENTS).exists():
        raise RunError(f"{out} already holds a run; `tutelage resume {out}` continues it, another --out starts anew")
    with one_run(out) as own, TextExperiment(config, own) as experiment:
        experiment.begin()
        _to_the_end(experiment, console or Console(quiet=rank() > 0))
    return out


def resume_text(out: Path | str, console: Console | None = None) -> Path:
    """Continue the run in `out` from its newest valid checkpoint, and say what was restored; returns `out`."""
    out = Path(out)
    with one_run(out) as own, TextExperiment(read_text_config(out), own) as experiment:
        console = console or Console(quiet=rank() > 0)
        for sentence in experiment.restore():
            console.print(sentence, highlight=False, soft_wrap=True)
        if experiment.finished:
            console.print(f"all {experiment.steps:,} updates had been taken; nothing is left to learn", highlight=False)
        _to_the_end(experiment, console)
    return out


def _to_the_end(experiment: TextExperiment, console: Console) -> Path:
    shown = time.monotonic()
    while not experiment.finished:
        experiment.step()
        if time.monotonic() - shown > LINE_SECONDS:
            shown = time.monotonic()
            console.print(f"{experiment.config.name}: {experiment.steps:,} of {experiment.learner.total:,} updates", highlight=False)
    experiment.finish()
    report = write_text_report(experiment.out)
    console.print(f"{experiment.config.name}: {experiment.steps:,} updates: {report}", highlight=False, soft_wrap=True)
    return experiment.out


def read_text_config(out: Path) -> TextRunConfig:
    """The configuration of a language model's run. Raises RunError when the directory holds none."""
    config = read_any_config(out)
    if not isinstance(config, TextRunConfig):
        raise RunError(f"{out} holds a run of {config.name}, which plays or plans; a language model's was expected")
    return config


def fresh_text_directory(config: TextRunConfig) -> Path:
    """One under runs/ that is not there yet, named after the stage and the data."""
    name = f"{config.name}-{Path(config.data.replace(':', '-')).stem}-{config.seed}"
    for number in range(1, 10_000):
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise RunError(f"{RUNS} already holds 9,999 runs called {name}; choose a directory")


def read_reference(path: Path) -> tuple[Tensor, dict[str, str]]:
    """A reference's log-probabilities and the digests of what they depend on. Raises CheckpointError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("logp"), dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged: {' '.join(str(error).split())[:200]}; without it the numbers are computed anew"
        ) from None


def _plain(prompt: Words) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def _words(tokenizer: Any) -> str:
    return (
        tokenizer.backend_tokenizer.to_str()
        if hasattr(tokenizer, "backend_tokenizer")
        else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    )


def _as_rankings(own: Any) -> list[Ranking]:
    rows = zip(own.rows, own.texts, strict=True)
    return [Ranking(texts, row.ranks, float(row.columns.get("margin", 0.0))) for row, texts in rows]
