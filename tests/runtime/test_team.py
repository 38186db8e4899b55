"""Items of a kernel shared among threads: each once, by whoever is free; the team taken or asleep; forked processes."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from cimc.runtime.atomic import bound
from cimc.runtime.team import _PATIENCE_S, Crew, crew, share
from tests.runtime.forked import found_in_child

Array = NDArray[Any]


class Pair(NamedTuple):
    values: Array
    factor: int


@njit
def _kernel(first: int, end: int, thread: int, pair: Pair, goal: Array, done: Array, rounds: int) -> None:
    """``goal[i] += factor * values[i]``, slowly; counts the items of each thread."""
    for i in range(first, end):
        x = 0.0
        for k in range(rounds):
            x += np.sqrt(float(k + i))
        goal[i] += pair.factor * pair.values[i] + (x < 0)
        done[thread] += 1


@njit(nogil=True)
def _shared(crew: Crew, pair: Pair, goal: Array, done: Array, rounds: int) -> None:
    share(crew, goal.size, bound(_kernel, (pair, goal, done, rounds)))


def _run(number: int, items: int, rounds: int = 1) -> Array:
    """Items of each thread; each item must have been done once."""
    values, goal, done = np.arange(items) + 5, np.zeros(items, np.int64), np.zeros(number, np.int64)
    _shared(crew(number), Pair(values, 3), goal, done, rounds)
    assert (goal == 3 * values).all()
    return done


@pytest.mark.parametrize("number", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 2, 5, 16, 1000])
def test_each_item_is_done_once(number: int, items: int) -> None:
    assert _run(number, items).sum() == items


def test_many_jobs_one_behind_the_other() -> None:
    # Members that come late to one job are early for the next: none may take a ticket of a job that has ended.
    for items in range(2000):
        assert _run(3, items % 40, items % 7).sum() == items % 40


def test_members_help_and_do_so_again_after_they_slept() -> None:
    for _ in range(2):
        helped = 0
        for _ in range(20):  # a machine that is busy elsewhere may not let them in time
            done = _run(2, 400, 20_000)
            helped += done[1] > 0
        assert helped
        time.sleep(20 * _PATIENCE_S)


def test_threads_that_share_at_the_same_time_all_get_their_items_done() -> None:
    failed: list[BaseException] = []

    def many() -> None:
        try:
            for items in range(300):
                assert _run(2, items % 30, 50).sum() == items % 30
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_has_a_team_of_its_own() -> None:
    _run(2, 10)
    assert found_in_child(lambda: int(_run(2, 100, 1000).sum())) == 100
