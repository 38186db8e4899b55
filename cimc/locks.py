"""Advisory locks: who works on a file or a folder now. The system drops them when their process ends, however it ends.

What differs on Windows is here too: it opens no folders, replaces no open file, and has none of these locks.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


WINDOWS = os.name == "nt"
#: Flags of `os.open` for a file that others may have made: no link is followed, no FIFO waited for, no child inherits it.
CAREFUL = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT"))


def opened(path: Path) -> int | None:
    """A file or folder that is opened to lock it; None: this system opens no folders.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | CAREFUL)
    except PermissionError:
        if WINDOWS and path.is_dir():
            return None
        raise


def try_lock(descriptor: int | None) -> Literal["ours", "theirs", "unknown"]:
    """Lock an open file, without waiting, until it is closed.

    Returns:
        ``ours``: nobody else has it; ``theirs``: another open file has the lock; ``unknown``: there are no locks here.
    """
    if fcntl is None or descriptor is None:
        return "unknown"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return "theirs" if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else "unknown"
    return "ours"
