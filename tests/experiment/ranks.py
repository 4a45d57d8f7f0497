"""One rank of a run, for test_scale.py: `python ranks.py train|resume FOLDER [UPDATE]`; rank 1 is killed before UPDATE."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Generator, Tensor

from tutelage.experience.text import Encoded, TextBatch, encoded
from tutelage.experiment.config import TextRunConfig
from tutelage.experiment.language import TextExperiment, resume_text, train_text
from tutelage.experiment.run import RunError
from tutelage.learn.language import best_of_n, dpo, groups, kto, online_dpo, ppo_lm, reward_model, sft
from tutelage.learn.language.writing import Asked, Sampling
from tutelage.nets.language import ScoreModel, make_model
from tutelage.nets.ranks import averaged, joined, rank, whole
from tutelage.rewards.text import TextReward

EOS = 2
SIZES = "gpt2?layers=2&width=16&heads=2&context=32"


def the_run() -> TextRunConfig:
    algorithm = sft.Config(
        epochs=2, batch_size=6, packing=32, learning_rate=1e-3
    )  # 57 rows are learned from: 20 updates, the last of a pass of 3
    every = dict(evaluate_every=10, checkpoint_every=4, log_every=1)
    return TextRunConfig(algorithm, SIZES, "text:valence", rows=60, **every)  # pyright: ignore[reportArgumentType]


def answers(count: int) -> list[Encoded]:
    g = Generator().manual_seed(1)
    draw = lambda high: int(torch.randint(3, high, (), generator=g))
    return [encoded([1, draw(20), draw(20)], [*(draw(20) for _ in range(draw(9))), 2]) for _ in range(count)]


class CountsThrees(TextReward):
    """One for each three that is said."""

    def scores(self, texts: TextBatch, columns: Sequence[Mapping[str, Any]] = ()) -> Float[Tensor, "B"]:
        """Columns are those of the texts' own prompts, whichever process scores them."""
        first = texts.tokens[torch.arange(len(texts)), texts.attention.int().argmax(1)]
        assert [row["first"] for row in columns] == first.tolist()
        return ((texts.tokens == 3) & texts.response).sum(1).float()


def each() -> Iterator[tuple[str, Any]]:
    """Learners of every kind, with batches of odd sizes, of which one process has fewer pieces, or none."""
    from tutelage.experiment.text_materials import text_world, word_tokenizer

    tokenizer = word_tokenizer(text_world("text:valence").words)
    model = lambda: make_model(SIZES, Generator().manual_seed(0), tokenizer)
    scorer = lambda: ScoreModel.of(model(), Generator().manual_seed(1))
    texts, g = answers(60), Generator().manual_seed(2)
    pairs = [(texts[i], texts[i + 1]) for i in range(0, 58, 2)]  # in batches of 7, and one of 1
    ranked = [reward_model.Ranking(tuple(texts[i : i + 3]), (0, 1, 2)) for i in range(0, 60, 3)]
    thumbs = [(text, i % 3 > 0) for i, text in enumerate(texts[:29])]  # in batches of 7, and one that waits
    prompts = [Asked((2 + i, *range(5, 5 + i % 4)), {"first": 2 + i}) for i in range(9)]
    fast: dict[str, Any] = dict(microbatch=3, learning_rate=1e-3)
    writes: dict[str, Any] = fast | dict(iterations=3, sampling=Sampling(max_new_tokens=6, microbatch=4))
    asks = model(), CountsThrees(), prompts, EOS, g
    yield "dpo", dpo.DPO(dpo.Config(batch_size=7, epochs=4, **fast), model(), pairs, g, model().copy())
    yield "dpo live", dpo.DPO(dpo.Config(batch_size=7, epochs=1, live_reference=True, **fast), model(), pairs, g)
    yield "reward", reward_model.RewardModel(reward_model.Config(batch_size=3, epochs=3), [scorer()], ranked, g)
    yield "kto", kto.KTO(kto.Config(batch_size=7, **fast), model(), thumbs, g)
    yield "grpo", groups.Groups(groups.GRPO(prompts=3, samples=3, batch_size=5, **writes), *asks)
    yield "online-dpo", online_dpo.OnlineDPO(online_dpo.Config(prompts=5, samples=4, **writes), model(), *asks[1:])
    yield "best-of-n", best_of_n.BestOfN(best_of_n.Config(prompts=5, n=3, batch_size=4, **writes), model(), *asks[1:])
    ppo = ppo_lm.Config(episodes=7, batch_size=4, epochs=2, ema=0.9, ptx_coefficient=0.5, **writes)
    yield "ppo-lm", ppo_lm.PPOLM(ppo, model(), scorer(), *asks[1:], pretraining=texts[:9])


def learners() -> dict[str, Tensor]:
    """What all of them have learned at their end: weights; and metrics, but those that DPO and reward models take of a piece."""
    found: dict[str, Tensor] = {}
    for name, learner in each():
        while learner.updates < learner.total:
            metrics = averaged(learner.update())
        found |= {f"{name} {metric}": torch.tensor(value) for metric, value in metrics.items() if name not in ("dpo", "dpo live", "reward")}
        for what, net in learner.nets().items():
            found |= {f"{name} {what} {key}": value.clone() for key, value in whole(dict(net.named_parameters())).items()}
    return found


def main() -> int:
    what, folder, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1
    torch.set_num_threads(1)
    step = TextExperiment.step

    def step_or_die(self: TextExperiment) -> None:
        if self.steps == dies and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self)

    TextExperiment.step = step_or_die
    try:
        if what == "train":
            train_text(the_run(), folder)
        else:
            with joined(60.0):
                found = learners()
                if rank() == 0:
                    save_file(found, folder / "learners.safetensors")
                resume_text(folder)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
