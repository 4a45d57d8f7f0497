"""One run in several processes. `torchrun --nproc-per-node 2 -m tutelage train sft ... --out DIR`: rank 0 writes DIR.

The other ranks go through the same steps in a shadow of the directory, which holds links to what a run reads when it continues, and
which is removed at the end: what they log is what rank 0 logs. When one process is lost, the rest stop with one sentence, and `resume`
continues from the newest checkpoint, by as many processes or by fewer: a checkpoint holds whole weights.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tutelage.experiment.run import RunError
from tutelage.nets.ranks import RankLost, joined

LINKED = ("checkpoints", "reference.safetensors")


@contextmanager
def one_run(out: Path) -> Iterator[Path]:
    """The directory that this process runs in. Raises RunError when another process of the run is lost."""
    try:
        with joined() as number:
            if number == 0:
                yield out
                return
            shadow = out / f".rank-{number}"
            shutil.rmtree(shadow, ignore_errors=True)
            shadow.mkdir(parents=True)
            for name in LINKED:
                if (out / name).exists():
                    (shadow / name).symlink_to((out / name).resolve())
            if (out / "tokenizer").exists():
                shutil.copytree(out / "tokenizer", shadow / "tokenizer")
            try:
                yield shadow
            finally:
                shutil.rmtree(shadow, ignore_errors=True)
    except RankLost as lost:
        raise RunError(str(lost)) from None
