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


class Started:
    """Work that other threads have begun; what they have not taken yet is done by the thread that asks for the results."""

    def __init__(self, work: Callable[[int], Any], tasks: int, others: int) -> None:
        self._work, self._tasks, self._following = work, tasks, count()
        self._results: list[Any] = [None] * tasks
        others = min(others, tasks)
        self._others = [_executor(others).submit(self._worker) for _ in range(others)]

    def _worker(self) -> None:
        while (task := next(self._following)) < self._tasks:
            self._results[task] = self._work(task)

    def results(self) -> list[Any]:
        """``[work(0), ..., work(tasks - 1)]``, once all are done."""
        try:
            self._worker()
        finally:
            # A thread that has not come to this work yet need not: there is none left.
            begun = [other for other in self._others if not other.cancel()]
            if begun:
                wait(begun)
        for other in begun:
            other.result()
        return self._results


def start(work: Callable[[int], Any], tasks: int) -> Started:
    """Let the other threads begin with ``work(0)`` to ``work(tasks - 1)``; `work` releases the GIL."""
    return Started(work, tasks, threads() - 1)


def parallel(work: Callable[[int], Any], tasks: int, number: int | None = None) -> list[Any]:
    """``[work(0), ..., work(tasks - 1)]``, spread over the threads as each becomes free; `work` releases the GIL."""
    number = min(threads() if number is None else number, tasks)
    return Started(work, tasks, number - 1).results()
