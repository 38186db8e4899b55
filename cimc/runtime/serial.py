"""On how many threads we work, and work that takes long enough for threads of Python; `team` has those of short kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

_threads: int | None = None


def threads() -> int:
    """Threads that the kernels use: `set_threads`, else CIMC_THREADS, else the cores this process may run on."""
    return _default() if _threads is None else _threads


@cache
def _default() -> int:
    """Looked up once, as kernels ask at each call."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("CIMC_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else cores or 1


def set_threads(number: int | None) -> None:
    """Use that many threads from now on; None: the default again. Results do not depend on it."""
    global _threads
    _threads = number


def parallel(work: Callable[[int], Any], tasks: int, number: int | None = None) -> list[Any]:
    """``[work(0), ..., work(tasks - 1)]``, spread over the threads as each becomes free; `work` releases the GIL."""
    number = min(threads() if number is None else number, tasks)
    if number < 2:
        return [work(task) for task in range(tasks)]
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, range(tasks)))
