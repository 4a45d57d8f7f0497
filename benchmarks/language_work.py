"""The work that language.py measures: the same net and the same tokens for every library. Transformers and tokenizers only."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

LENGTH, BATCH = 64, 8
"""Tokens of a prompt and of an answer, its EOS included; rows of a batch (pairs, where answers are compared)."""
PPO_BATCH, PPO_ANSWER, SAMPLES = 32, 48, 32


def sizes(device: str, words: int = 8192) -> dict[str, Any]:
    """A GPT-2 of 6 layers, 384 wide; on a GPU one of 124 million weights with its 50,257 words."""
    big = device == "cuda"
    words = 50_257 if big else words
    return dict(layers=12 if big else 6, width=768 if big else 384, heads=12 if big else 6, context=256, words=words)


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Words w3, w4, ... between spaces."""
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, words)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def config(device: str, words: int = 8192) -> Any:
    """Of transformers."""
    size = sizes(device, words)
    return AutoConfig.for_model(
        "gpt2", n_layer=size["layers"], n_embd=size["width"], n_head=size["heads"], n_positions=size["context"], vocab_size=size["words"],
        eos_token_id=2, bos_token_id=1, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def rows(count: int, words: int = 8192, answers: int = 1) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts and answers, each answer ending with EOS."""
    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(3, words, (n,), generator=g).tolist()
    return [(draw(LENGTH), [[*draw(LENGTH - 1), 2] for _ in range(answers)]) for _ in range(count)]


def text(tokens: list[int]) -> str:
    """As words; a final EOS is left away, for trainers that add it."""
    return " ".join(f"w{token}" for token in tokens if token != 2)


class Turns:
    """The work's side of run.py's protocol, for work that comes in steps and cannot be called: `step` after each.

    Answers also hold `peak_mb`, the largest memory of the process so far (on a GPU, of its tensors).
    """

    def __init__(self, warm_up: int = 2) -> None:
        self.left, self.answers = warm_up, sys.stdout
        sys.stdout, self.began, self.ended = sys.stderr, 0.0, False

    def step(self) -> bool:
        """Count a step; at the end of a turn answer, and wait for the next one. False: there is none."""
        self.left -= 1
        if self.left > 0:
            return True
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(
            json.dumps({"seconds": time.perf_counter() - self.began, "peak_mb": peak_mb()}) if self.began else "ready",
            file=self.answers,
            flush=True,
        )
        line = sys.stdin.readline()
        self.left, self.began = int(line or 0), time.perf_counter()
        return bool(line)


def peak_mb() -> float:
    """The largest memory of this process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def serve(work: Callable[[], object], warm_up: int = 2) -> None:
    """Call the work once per unit, as long as somebody asks."""
    turns = Turns(warm_up)
    while True:
        work()
        if not turns.step():
            return


def told() -> tuple[str, str, int]:
    """MEASURE DEVICE THREADS of the command line; threads are set."""
    measure, device, threads = sys.argv[-3:]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(int(threads))
    return measure, device, int(threads)
