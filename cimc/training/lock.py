"""A folder belongs to one run at a time: ``run.lock`` in it says whose it is.

The file holds process, host and start of the run, and is locked as long as the run lasts. The system drops the lock when the
process ends, so a file that is not locked is stale. On a file system without locks it is stale if its process no longer runs; of
another host that cannot be known, and the file has to be deleted by hand.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cimc.errors import CimcError, RunError
from cimc.locks import CAREFUL, WINDOWS, try_lock

_NAME = "run.lock"


class RunLock:
    """Held from construction until `release`.

    Raises:
        CimcError: Another run has the folder; it is named.
        RunError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME
        self._handle: int | None = None
        try:
            while self._handle is None:
                self._handle = self._take()
        except OSError as error:
            raise RunError(
                f"cannot write: {error.strerror}", where=str(self.path), fix="choose a folder that you may write to"
            ) from error

    def release(self) -> None:
        """Let others have the folder."""
        if self._handle is not None:
            if not WINDOWS:  # before the lock is given up: then another run may make a file of this name
                with suppress(OSError):
                    self.path.unlink()
            os.close(self._handle)
            self._handle = None
            if WINDOWS:
                with suppress(OSError):
                    self.path.unlink()

    def _take(self) -> int | None:
        """The locked file; None: it vanished in between, try again."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | CAREFUL, 0o666)
        kept = False
        try:
            state = try_lock(handle)
            holder = _holder(handle)
            if state == "theirs" or (state == "unknown" and _may_run(holder)):
                raise _in_use(self.path, holder)
            if not self._is_there(handle):
                return None
            try:
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps(_own()).encode() + b"\n")
            except BaseException:  # the disk is full, the user stops the run
                with suppress(OSError):
                    self.path.unlink()
                raise
            kept = True
            return handle
        finally:
            if not kept:
                os.close(handle)

    def _is_there(self, handle: int) -> bool:
        """Whether the open file still has its name: its former holder removes it."""
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except FileNotFoundError:
            return False


def _own() -> dict[str, Any]:
    return {"process": os.getpid(), "host": socket.gethostname(), "started": datetime.now(UTC).isoformat(timespec="seconds")}


def _holder(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        found = json.loads(os.read(handle, 4096))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _may_run(holder: dict[str, Any]) -> bool:
    """Without locks: whether the process that the file names may be at work."""
    process = holder.get("process")
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    if not isinstance(process, int) or process <= 0 or process == os.getpid():
        return False
    if WINDOWS:  # signal 0 would interrupt it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _in_use(path: Path, holder: dict[str, Any]) -> CimcError:
    process, host, started = (holder.get(name) for name in ("process", "host", "started"))
    named = f"process {process} on {host}, since {started}" if holder else "it is just starting"
    return CimcError(
        f"another run has the folder: {named}",
        where=str(path.parent),
        fix=f"wait for it, or choose another folder; if that run is dead, delete {path}",
    )
