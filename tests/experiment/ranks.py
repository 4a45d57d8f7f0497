"""One rank of a run, for test_scale.py: `python ranks.py train|resume FOLDER [UPDATE]`; rank 1 is killed before UPDATE."""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator

from tutelage.experience.text import Encoded, encoded
from tutelage.experiment.config import TextRunConfig
from tutelage.experiment.language import TextExperiment, resume_text, train_text
from tutelage.experiment.run import RunError
from tutelage.learn.language import dpo, reward_model, sft
from tutelage.nets.language import ScoreModel, make_model
from tutelage.nets.ranks import joined, rank, shard, whole

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


def learners() -> dict[str, torch.Tensor]:
    """20 updates of a reward model and of DPO; their weights. Batches of odd sizes, of which one process has fewer pieces, or none."""
    from tutelage.experiment.text_materials import text_world, word_tokenizer

    tokenizer = word_tokenizer(text_world("text:valence").words)
    model = make_model(SIZES, Generator().manual_seed(0), tokenizer)
    scorer = ScoreModel.of(model, Generator().manual_seed(1))
    frozen = model.copy()
    for net in (model, scorer):
        shard(net)
    texts = answers(60)
    pairs = [(texts[i], texts[i + 1]) for i in range(0, 58, 2)]  # in batches of 7, and one of 1
    ranked = [reward_model.Ranking(tuple(texts[i : i + 3]), (0, 1, 2)) for i in range(0, 60, 3)]
    found: dict[str, torch.Tensor] = {}
    for name, net, learner in (
        (
            "dpo",
            model,
            dpo.DPO(dpo.Config(batch_size=7, microbatch=3, epochs=4, learning_rate=1e-3), model, pairs, Generator().manual_seed(2), frozen),
        ),
        (
            "reward",
            scorer,
            reward_model.RewardModel(reward_model.Config(batch_size=3, epochs=4), [scorer], ranked, Generator().manual_seed(2)),
        ),
    ):
        for _ in range(20):
            learner.update()
        found |= {f"{name}.{key}": value.clone() for key, value in whole(dict(net.named_parameters())).items()}
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
