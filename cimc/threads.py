"""How many threads this process works on, and work that takes long enough for threads of Python.

``CIMC_THREADS`` bounds all of them: those of kernels (`cimc.runtime.team`), of ONNX Runtime (`cimc.ir.onnx_io.session`) and of
BLAS. Without it, BLAS is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from threadpoolctl import threadpool_limits

from cimc.errors import CimcError

_MOST = 4096
_threads: int | None = None


def threads() -> int:
    """Threads to work on: `set_threads`, else CIMC_THREADS, else the cores that this process may run on.

    Raises:
        CimcError: CIMC_THREADS is not a number of threads.
    """
    return _default() if _threads is None else _threads


@cache
def _default() -> int:
    """Looked up once, as kernels ask at each call; BLAS is bounded then."""
    wanted = os.environ.get("CIMC_THREADS", "")
    if not wanted:
        return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    if not (wanted.isascii() and wanted.isdecimal() and len(wanted) <= 5 and 0 < int(wanted) <= _MOST):
        raise CimcError(f"CIMC_THREADS is {wanted!r}, not a number of threads", fix=f"set it to 1 to {_MOST}, or unset it")
    threadpool_limits(int(wanted), user_api="blas")
    return int(wanted)


def set_threads(number: int | None) -> None:
    """Use that many threads from now on, but for BLAS, which CIMC_THREADS alone bounds; None: the default again.

    Results do not depend on it.

    Raises:
        CimcError: CIMC_THREADS is not a number of threads.
    """
    global _threads
    if number is not None:
        _default()
    _threads = number


def parallel(work: Callable[[int], Any], tasks: int, number: int | None = None) -> list[Any]:
    """``[work(0), ..., work(tasks - 1)]``, spread over the threads as each becomes free; `work` releases the GIL."""
    number = min(threads() if number is None else number, tasks)
    if number < 2:
        return [work(task) for task in range(tasks)]
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, range(tasks)))
