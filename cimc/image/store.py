"""Images as buffers: bytes in memory, or a mapped file, whose pages are let go of as they are passed over.

So an image takes no more memory than the part at work, however large its file.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cimc.errors import ArtifactError
from cimc.files import replacing

#: Bytes looked at in one go.
PIECE = 1 << 24


def forget(buffer: memoryview) -> None:
    """Give back the pages of a mapped file that are in memory; the file keeps what was written to them."""
    if isinstance(buffer.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        buffer.obj.madvise(mmap.MADV_DONTNEED)


@dataclass
class Forgetful:
    """Told of the bytes that were passed over, gives their pages back once they are many."""

    buffer: memoryview
    passed: int = 0

    def __call__(self, size: int) -> None:
        self.passed += size
        if self.passed >= PIECE:
            forget(self.buffer)
            self.passed = 0


def pieces(buffer: memoryview) -> Iterator[memoryview]:
    """The buffer, part by part."""
    for begin in range(0, len(buffer), PIECE):
        yield buffer[begin : begin + PIECE]
        forget(buffer)


def mapped(path: str | Path) -> memoryview:
    """A file's bytes, read only; they must not be changed in place as long as they are in use.

    Raises:
        ArtifactError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            try:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (ValueError, OSError):  # empty, or no plain file
                return memoryview(file.read())
    except OSError as error:
        raise ArtifactError(f"cannot read: {error.strerror or error}", where=str(path)) from error


@contextmanager
def created(path: str | Path, size: int) -> Iterator[memoryview]:
    """A new file of ``size`` zeros to fill; it takes its name, and stays, only when all went well.

    Raises:
        OutputError: It must not be written there, see `cimc.files`.
        RunError: The file cannot be written.
    """
    with replacing(path) as file:
        _reserve(file, size)
        mapping = mmap.mmap(file.fileno(), size)
        view = memoryview(mapping)
        yield view
        mapping.flush()
        with suppress(BufferError):  # parts of it may be in use still; only Windows minds
            view.release()
            mapping.close()


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room at once: a write to a mapped page that finds none would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(min(size, PIECE))
    for begin in range(0, size, PIECE):
        file.write(zeros[: size - begin])
    file.flush()
