"""Advisory locks: who works on a file or a folder now. The system drops them when their process ends, however it ends."""

from __future__ import annotations

import errno
from typing import Literal

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


def try_lock(descriptor: int) -> Literal["ours", "theirs", "unknown"]:
    """Lock an open file, without waiting, until it is closed.

    Returns:
        ``ours``: nobody else has it; ``theirs``: another open file has the lock; ``unknown``: this file system has no locks.
    """
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "theirs" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "unknown"
    return "ours"
