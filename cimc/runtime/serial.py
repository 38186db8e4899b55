"""Blocks of work on our own threads: kernels release the GIL, and no other pool of threads works beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from itertools import count
from queue import SimpleQueue
from threading import Thread
from typing import Any

#: Parts a thread: few, as each costs its own room and a call.
_EACH = 2
_threads: int | None = None
_team: tuple[int, SimpleQueue[Callable[[], None]], list[Thread]] | None = None


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


def _queue(number: int) -> SimpleQueue[Callable[[], None]]:
    """Where threads take work from, that many or more of them; of this process, as threads do not survive a fork."""
    global _team
    if _team is None or _team[0] != os.getpid():
        _team = (os.getpid(), SimpleQueue(), [])
    _, waiting, members = _team
    while len(members) < number:
        members.append(Thread(target=_serve, args=(waiting,), name=f"cimc {len(members)}", daemon=True))
        members[-1].start()
    return waiting


def _serve(waiting: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        waiting.get()()


class Started:
    """Work that other threads have begun; what they have not taken yet is done by the thread that asks for the results.

    A queue of C wakes a thread in less time than a pool of futures does, and a step of training wakes one ten times.
    """

    def __init__(self, work: Callable[[int], Any], tasks: int, others: int) -> None:
        self._work, self._tasks, self._following = work, tasks, count()
        self._ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
        for _ in range(min(others, tasks)):
            _queue(others).put(self._take)

    def _take(self) -> None:
        """Task after task, as long as there are any; a thread that comes late finds none."""
        while (task := next(self._following)) < self._tasks:
            try:
                self._ended.put((task, self._work(task), None))
            except BaseException as error:  # raised where the results are asked for
                self._ended.put((task, None, error))

    def results(self) -> list[Any]:
        """``[work(0), ..., work(tasks - 1)]``, once all are done; to be asked for once."""
        self._take()
        found: list[Any] = [None] * self._tasks
        failed: BaseException | None = None
        for _ in range(self._tasks):
            task, found[task], error = self._ended.get()
            failed = failed or error
        if failed is not None:
            raise failed
        return found


def start(work: Callable[[int], Any], tasks: int) -> Started:
    """Let the other threads begin with ``work(0)`` to ``work(tasks - 1)``; `work` releases the GIL."""
    return Started(work, tasks, threads() - 1)


def parallel(work: Callable[[int], Any], tasks: int, number: int | None = None) -> list[Any]:
    """``[work(0), ..., work(tasks - 1)]``, spread over the threads as each becomes free; `work` releases the GIL."""
    number = min(threads() if number is None else number, tasks)
    if number < 2:
        return [work(task) for task in range(tasks)]
    return Started(work, tasks, number - 1).results()


def spread(part: Callable[[int, int], Any], items: int, number: int | None = None) -> list[Any]:
    """``part(first, end)`` over all items, in a few parts a thread, of which each thread takes the next as it becomes free.

    Only for items that do not depend on how they are cut; `part` releases the GIL.
    """
    number = threads() if number is None else number
    parts = 1 if number == 1 else max(1, min(items, _EACH * number))
    cuts = [items * n // parts for n in range(parts + 1)]
    return parallel(lambda n: part(cuts[n], cuts[n + 1]), parts, number)
