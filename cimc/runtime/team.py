"""Threads that share a kernel's items without the interpreter: a job lies in an array, and idle threads watch it.

A sleeping thread takes tens of microseconds to wake and then waits for the interpreter, while a step of training has twenty
kernels of 50 to 500 µs. So members stay in compiled code, look out for a job for a while, and only then sleep until somebody
rings.

Who shares its items takes the lock, writes the job and opens it, takes parts like everybody, closes it, and waits until nobody
is inside. A member that sees an open job counts itself in, and looks again whether it is open before it touches it.
"""

from __future__ import annotations

import os
from functools import cache
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import atomic
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.threads import threads

Array = NDArray[Any]

#: Members of a team.
MOST = 255
#: Parts of a thread's share: of one that comes late others take what is left.
_EACH = 8
#: Words of the job.
_KERNEL, _ARGUMENTS, _ITEMS, _HELPERS = range(4)
#: Words that several threads change, each in a cache line of its own: whether the job is open, how many members are inside,
#: whether the team is taken; for each thread the next part of its share; whether it sleeps.
_LINE = 8
_OPEN, _INSIDE, _LOCK, _NEXT = (_LINE * line for line in range(1, 5))
_ASLEEP = _NEXT + _LINE * (MOST + 1)
#: Seconds that an idle member looks out before it sleeps, and looks that tell how long one takes.
_PATIENCE_S, _TRIAL = 2e-3, 1000


class Crew(NamedTuple):
    """Who works on a kernel's items."""

    job: Array
    """Of the team."""
    helpers: int
    """Members that may help."""


@kernel(error_model="numpy")
def _take(job: Array, thread: Scalar) -> None:
    """Part after part, of its own share first: what one kernel leaves in a core's cache the next one finds there."""
    items, threads = job[_ITEMS], job[_HELPERS] + 1
    parts = threads * _EACH
    for k in range(threads):
        share = (thread + k) % threads
        part = atomic.add(job, _NEXT + _LINE * share, 1)
        while part < _EACH:
            number = share * _EACH + part
            first, end = items * number // parts, items * (number + 1) // parts
            if first < end:
                atomic.call(job[_KERNEL], job[_ARGUMENTS], first, end, thread)
            part = atomic.add(job, _NEXT + _LINE * share, 1)


@kernel(error_model="numpy")
def share(crew: Crew, items: Scalar, bound: tuple[Scalar, Scalar]) -> None:
    """Have a kernel do its items, by this thread and the crew; by this thread alone while the team works for another.

    Args:
        crew: From `crew`.
        items: To be cut into parts in any way.
        bound: From `atomic.bound`: a kernel that takes first and end item, and the number of its thread, 0 to ``crew.helpers``.
    """
    job, helpers = crew
    kernel, arguments = bound
    if helpers == 0 or items < 2 or atomic.swap(job, _LOCK, 1) != 0:
        atomic.call(kernel, arguments, 0, items, 0)
        return
    job[_KERNEL], job[_ARGUMENTS], job[_ITEMS], job[_HELPERS] = kernel, arguments, items, helpers
    for thread in range(helpers + 1):
        atomic.store(job, _NEXT + _LINE * thread, 0)
    atomic.store(job, _OPEN, 1)
    _take(job, 0)
    atomic.store(job, _OPEN, 0)
    while atomic.load(job, _INSIDE) > 0:
        atomic.pause()
    atomic.store(job, _LOCK, 0)


@kernel(error_model="numpy")
def _watch(job: Array, thread: Scalar, looks: Scalar) -> None:
    """Help with each job that comes, until none has come for a while."""
    idle = 0
    while idle < looks:
        idle += 1
        atomic.pause()
        if atomic.load(job, _OPEN) == 1 and atomic.load(job, _NEXT + _LINE * thread) < _EACH:
            atomic.add(job, _INSIDE, 1)
            if atomic.load(job, _OPEN) == 1 and thread <= job[_HELPERS]:
                _take(job, thread)
                idle = 0
            atomic.add(job, _INSIDE, -1)
    atomic.store(job, _ASLEEP + _LINE * thread, 1)


class _Team:
    """The threads of one process."""

    def __init__(self) -> None:
        self.job = np.zeros(_ASLEEP + _LINE * (MOST + 1), np.int64)
        self._asleep = self.job[_ASLEEP::_LINE]
        self._bells: list[SimpleQueue[None]] = []
        _watch(self.job, MOST, 0)
        begin = perf_counter()
        _watch(self.job, MOST, _TRIAL)
        self._looks = int(_TRIAL * _PATIENCE_S / (perf_counter() - begin))

    def wake(self, helpers: int) -> None:
        """Have that many members look out for a job."""
        while len(self._bells) < helpers:
            self._bells.append(SimpleQueue())
            thread = len(self._bells)
            Thread(target=self._member, args=(thread, self._bells[-1]), name=f"cimc {thread}", daemon=True).start()
        for thread in range(1, helpers + 1):
            if self._asleep[thread]:
                self._asleep[thread] = 0
                self._bells[thread - 1].put(None)

    def _member(self, thread: int, bell: SimpleQueue[None]) -> None:
        while True:
            _watch(self.job, thread, self._looks)
            bell.get()


#: The team of this process, once it is wanted. Threads do not survive a fork: a child makes its own.
_team = cache(_Team)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_team.cache_clear)


def crew(number: int | None = None) -> Crew:
    """That many threads, this one among them, awake; None: all of `threads`."""
    team = _team()
    helpers = min(threads() if number is None else number, MOST + 1) - 1
    if helpers:
        team.wake(helpers)
    return Crew(team.job, helpers)
