"""Output files: each appears whole or not at all, and takes the place of a plain file or of none.

Data go to a temporary file ``.cimc.RANDOM.tmp`` in the folder of the result, which takes the result's name once it is complete
and on the disk. A symbolic link stays: the file that it points to is replaced. The file is locked while it is written. One that a
killed process left is removed by the next write into the folder: it is older than a day, and nobody holds its lock.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cimc.errors import OutputError, RunError
from cimc.locks import WINDOWS, opened, try_lock

#: Age in seconds at which a temporary file may be taken for one that was left behind. No file takes so long to write.
STALE_S = 24 * 3600

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISREG, ""))


def destination(path: str | Path) -> Path:
    """The file that a write to ``path`` replaces or makes: ``path`` itself, or what its symbolic links lead to.

    Raises:
        OutputError: There is something else than a plain file: a folder, a FIFO, a device, the standard output.
        RunError: Its folder does not exist, or one may not write there.
    """
    where = str(path)
    try:
        real = Path(os.path.realpath(path))
        found = _status(Path(path))
        folder = real.parent.is_dir()
    except (OSError, ValueError) as error:  # too long a name, links in a circle, a zero byte
        raise RunError(f"cannot write: {_reason(error)}", where=where, fix="choose another name") from None
    if where == "-" or (found is not None and _is_standard_stream(found)):
        raise OutputError("cannot write: it is the standard output", where=where, fix="give the name of a file")
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "a device")
        raise OutputError(f"cannot write: it is {kind}", where=where, fix="give the name of a file")
    if not folder:
        raise RunError(f"cannot write: there is no folder {real.parent}", where=where, fix="make it, or choose another")
    if not os.access(real.parent, os.W_OK | os.X_OK) or (found is not None and not os.access(real, os.W_OK)):
        what = "the folder" if found is None or os.access(real, os.W_OK) else "the file"
        raise RunError(f"cannot write: {what} is write-protected", where=where, fix="choose another")
    return real


def check_outputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """Before the work: each output can be written, none is an input, and no two are one file.

    Files are the same if they are so on the disk, through symbolic and hard links too.

    Raises:
        OutputError: An output is no plain file, is an input, or is another output.
        RunError: A folder does not exist, or one may not write there.
    """
    read: dict[object, str | Path] = {}
    for path in inputs:
        with suppress(OSError, ValueError):
            read[_identity(os.stat(path))] = path
    written: dict[object, str | Path] = {}
    for path in outputs:
        real = destination(path)
        found = _status(real)
        identity: object = str(real) if found is None else _identity(found)
        if identity in read:
            raise OutputError(
                f"cannot write: the file is an input, {read[identity]}",
                where=str(path),
                fix="give the output another name",
            )
        if identity in written:
            raise OutputError(
                f"cannot write: two outputs have one name, {written[identity]}", where=str(path), fix="give each its own"
            )
        written[identity] = path


def check_folder(path: str | Path) -> None:
    """Before the work: there is such a folder that one may write to, or it can be made.

    Raises:
        RunError: Neither is so.
    """
    place = Path(path)
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        folder = place.is_dir()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot write: {_reason(error)}", where=str(path), fix="choose another name") from None
    if not folder:
        raise RunError(f"cannot write: {place} is no folder", where=str(path), fix="choose another name")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunError(f"cannot write: {place} is write-protected", where=str(path), fix="choose another folder")


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        RunError: It cannot be made, or one must not write to it.
    """
    check_folder(path)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write: {_reason(error)}", where=str(path), fix="choose another folder") from None


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """An empty file to fill, open for reading and writing; it takes the name ``path`` when the block ends well.

    A file that exists is replaced and keeps its permissions; until then, and after a failure, it is as it was.

    Raises:
        OutputError: See `destination`.
        RunError: The file cannot be written.
    """
    real = destination(path)
    clear_stale(real.parent)
    temporary = real.parent / f".cimc.{secrets.token_hex(8)}.tmp"
    try:
        before = _status(real)
        mode = 0o666 if before is None else 0o600  # less the umask; what a file held for few is not shown to more
        with open(temporary, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            try_lock(file.fileno())
            yield file
            file.flush()
            if before is not None:
                temporary.chmod(stat.S_IMODE(before.st_mode))
            os.fsync(file.fileno())
            if WINDOWS:
                file.close()
            os.replace(temporary, real)
        _sync_folder(real.parent)
    except OSError as error:
        raise RunError(
            f"cannot write: {_reason(error)}", where=str(path), fix="choose a folder that exists and has room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError: See `destination`.
        RunError: The file cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary folder, for the while.

    Raises:
        RunError: It cannot be made or filled.
    """
    folder: Path | None = None
    try:
        place = Path(tempfile.gettempdir())
        clear_stale(place)
        folder = place / f".cimc.{secrets.token_hex(8)}.tmp"
        folder.mkdir(0o700)
        handle = opened(folder)
        try:
            try_lock(handle)
            yield folder
        finally:
            if handle is not None:
                os.close(handle)
    except OSError as error:
        what = f"no temporary folder can be made or filled: {_reason(error)}"
        raise RunError(what, fix="set TMPDIR to a folder with room") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def clear_stale(folder: Path, older_than_s: float = STALE_S) -> None:
    """Remove what killed processes left in a folder: temporary files of ours of that age that nobody has locked."""
    with suppress(OSError):
        for path in folder.glob(".cimc.*.tmp"):
            with suppress(OSError):
                age_s = time.time() - path.lstat().st_mtime
                if age_s >= older_than_s:
                    _remove(path, even_without_locks=age_s >= STALE_S)


def _remove(path: Path, even_without_locks: bool) -> None:
    handle = opened(path)
    try:
        state = try_lock(handle)
        folder = handle is None or stat.S_ISDIR(os.fstat(handle).st_mode)
        if WINDOWS and handle is not None:
            os.close(handle)
            handle = None
        if state == "ours" or (state == "unknown" and even_without_locks):
            if folder:
                shutil.rmtree(path)
            else:
                path.unlink()
    finally:
        if handle is not None:
            os.close(handle)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_standard_stream(status: os.stat_result) -> bool:
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISREG(status.st_mode) and os.path.samestat(status, os.fstat(descriptor)):
                return True
    return False


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk as well; not every file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
