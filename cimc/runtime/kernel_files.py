"""Files that hold compiled kernels: where they lie, and that none of them is stale or damaged.

The folder's name is a digest of all that the compiled code of all kernels depends on, so that an edit of any of these sources
leads to another folder. Each file ends in a checksum. The files are a convenience: what cannot be read is compiled again, and
what cannot be written is compiled again by the next process.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba
from numba.core import config
from numba.misc import appdirs

_PACKAGE = Path(__file__).parents[1]
#: Compiled code depends on modules that contain one of these: kernels, intrinsics, and the tuples that kernels take apart.
_MARKS = (b"numba", b"cimc.runtime.jit", b"NamedTuple")
#: numba's settings that do not change what it compiles.
_NEUTRAL = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_DEBUG_CACHE")
_PREFIX = "cimc-kernels-"
_CHECKSUM_BYTES = 32
#: Age at which the folder of other sources is removed when a new one is made.
_STALE_S = 24 * 3600


def sources() -> dict[Path, bytes]:
    """Modules that the compiled code depends on, with their text."""
    paths = (path for folder in ("budget", "runtime", "training") for path in sorted((_PACKAGE / folder).rglob("*.py")))
    texts = {path: path.read_bytes() for path in paths}
    return {path: text for path, text in texts.items() if any(mark in text for mark in _MARKS)}


@cache
def _digest() -> tuple[str, dict[str, tuple[int, int]]]:
    """The digest, and the time and size of each source when it was taken."""
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    settings = [text for text in settings if not text.startswith(_NEUTRAL)]
    digest = hashlib.sha256(repr((numba.__version__, llvmlite.__version__, sys.implementation.cache_tag, settings)).encode())
    taken = {}
    for path, text in sources().items():
        taken[str(path)] = _state(path)
        digest.update(f"{path.relative_to(_PACKAGE)} {len(text)}\n".encode() + text)
    return digest.hexdigest()[:32], taken


def _state(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


class _Folders:
    """Folders to read from and to write to, the preferred one first; none when the sources cannot be told."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.private: Path | None = None
        with suppress(OSError):
            name = _PREFIX + _digest()[0]
            chosen, own = config.CACHE_DIR, Path(appdirs.user_cache_dir("cimc", False))
            places = [Path(chosen).absolute()] if chosen else []
            places += [_PACKAGE / "__pycache__", *([own] if own.is_absolute() else [])]  # not absolute: there is no HOME
            self.paths = [place / name for place in places]
            self.private = Path(tempfile.gettempdir(), f"cimc-{os.getuid()}" if hasattr(os, "getuid") else "cimc")
            self.paths.append(self.private / name)

    def trusted(self, folder: Path) -> bool:
        """Compiled code is run as it is: in the system's temporary folder only what belongs to this user counts."""
        if folder.parent != self.private or not hasattr(os, "getuid"):
            return True
        status = folder.parent.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


_folders = cache(_Folders)


def forget_if_edited(source: str) -> None:
    """Keep nothing in this process from now on if a module was loaded after an edit that the digest does not know."""
    with suppress(OSError):
        if source not in (taken := _digest()[1]) or taken[source] == _state(source):
            return
    _folders().paths.clear()


def read(name: str) -> bytes | None:
    """What a file holds; None where there is none or it is damaged."""
    for folder in _folders().paths:
        with suppress(OSError):
            if not _folders().trusted(folder):
                continue
            data = (folder / name).read_bytes()
            content = data[:-_CHECKSUM_BYTES]
            if hashlib.sha256(content).digest() == data[-_CHECKSUM_BYTES:]:
                _mark_as_used(folder)
                return content
    return None


def write(name: str, content: bytes) -> bool:
    """Write a file into the first folder that takes it; whether one did."""
    for folder in _folders().paths:
        with suppress(OSError):
            if folder.parent == _folders().private:
                folder.parent.mkdir(0o700, exist_ok=True)
            if not _folders().trusted(folder):
                continue
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                _remove_stale(folder)
            temporary = folder / f".cimc.{secrets.token_hex(8)}.tmp"
            try:
                temporary.write_bytes(content + hashlib.sha256(content).digest())
                os.replace(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)
            return True
    return False


def kept() -> tuple[Path | None, int]:
    """The folder of this version's kernels that is read first, and how many files it holds.

    Where there is none yet, the one that takes files; None where no folder does.
    """
    for folder in _folders().paths:
        with suppress(OSError):
            if _folders().trusted(folder) and (count := sum(path.is_file() for path in folder.iterdir())):
                return folder, count
    probe = f"probe-{secrets.token_hex(8)}"
    if write(probe, b""):
        for folder in _folders().paths:
            with suppress(OSError):
                (folder / probe).unlink()
                return folder, 0
    return None, 0


@cache
def _mark_as_used(folder: Path) -> None:
    """A folder in use does not grow stale."""
    with suppress(OSError):
        os.utime(folder)


def _remove_stale(folder: Path) -> None:
    for other in folder.parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if other != folder and time.time() - other.lstat().st_mtime > _STALE_S:
                shutil.rmtree(other, ignore_errors=True)
