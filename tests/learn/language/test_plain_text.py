"""A small GPT on a book: plain text, byte-level BPE and SFT without prompts are a language model."""

from pathlib import Path

import torch
from torch import Generator

from tutelage.experience.text_data import load_text
from tutelage.experience.text_encoding import TextEncoder
from tutelage.experience.tokenizers import train_bpe
from tutelage.learn.language.descent import Optimization
from tutelage.learn.language.sft import SFT, Config
from tutelage.nets.language import make_model


def test_a_small_gpt_reads_shakespeare(data: Path):
    rows = load_text(data / "tinyshakespeare.txt")
    assert len(rows) == 7222 and rows[0].answers[0].startswith("First Citizen:")
    tokenizer = train_bpe([row.answers[0] for row in rows[:2000]], 400)
    encoder = TextEncoder(tokenizer, 64, too_long="cut_answer")
    texts = [text for own in encoder.encode_all(rows[:700]).texts for text in own]
    own, held = texts[:640], texts[640:]
    g = Generator().manual_seed(0)
    model = make_model("gpt2?layers=1&width=32&heads=2&context=64", g, tokenizer)
    config = Config(epochs=2, batch_size=32, learning_rate=1e-2, optimizer=Optimization(warmup=2), packing=64)
    learner = SFT(config, model, own, g)
    told = lambda part: torch.tensor([token for text in part for token in text.tokens[1:]])
    counts = 1.0 + told(own).bincount(minlength=len(tokenizer))
    unigram = float(-(counts / counts.sum()).log()[told(held)].mean())
    while learner.updates < learner.total:
        learner.update()
    assert learner.evaluate(held)["loss"] < unigram - 0.5
