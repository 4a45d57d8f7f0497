"""Files that appear whole or not at all, and are on the disk when a function returns."""

import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """The bytes of a file that nobody looks for yet, on the disk; its name may still be lost."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes, partial: Path) -> None:
    """A file that appears with all of its bytes on the disk, or not at all; partial: its name until then, in the same folder."""
    try:
        write_synced(partial, content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return only when a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
