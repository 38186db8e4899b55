"""Blocks of work on our own threads: kernels release the GIL, and no other pool of threads works beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import Any

_threads: int | None = None
_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def threads() -> int:
    """Threads that the kernels use: `set_threads`, else CIMC_THREADS, else the cores this process may run on."""
    if _threads is not None:
        return _threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("CIMC_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else cores or 1


def set_threads(number: int | None) -> None:
    """Use that many threads from now on; None: the default again. Results do not depend on it."""
    global _threads
    _threads = number


def _executor(number: int) -> ThreadPoolExecutor:
    """A pool of this process: threads do not survive a fork."""
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < number:
        _pool = (os.getpid(), number, ThreadPoolExecutor(number, thread_name_prefix="cimc"))
    return _pool[2]


def parallel(work: Callable[[int], Any], tasks: int, number: int | None = None) -> list[Any]:
    """``[work(0), ..., work(tasks - 1)]``, spread over the threads as each becomes free; `work` releases the GIL."""
    number = min(threads() if number is None else number, tasks)
    if number <= 1:
        return [work(task) for task in range(tasks)]
    results: list[Any] = [None] * tasks
    following = count()

    def worker() -> None:
        while (task := next(following)) < tasks:
            results[task] = work(task)

    others = [_executor(number - 1).submit(worker) for _ in range(number - 1)]
    try:
        worker()
    finally:
        wait(others)
    for other in others:
        other.result()
    return results
