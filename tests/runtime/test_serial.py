"""Work on threads of Python: each task once, errors where results are asked for, nested work, forked processes."""

from __future__ import annotations

import threading
import time

import pytest

from cimc.runtime.serial import parallel
from tests.runtime.forked import found_in_child


def test_each_task_is_done_once_and_results_stand_in_their_order() -> None:
    done: list[int] = []

    def work(task: int) -> int:
        time.sleep(0.001 * (task % 3))
        done.append(task)
        return task * task

    assert parallel(work, 20, 4) == [n * n for n in range(20)]
    assert sorted(done) == list(range(20))


def test_another_thread_takes_part() -> None:
    # Both wait for each other: one thread alone would never pass.
    meeting = threading.Barrier(2)
    assert sorted(parallel(lambda _: meeting.wait(timeout=30), 2, 2)) == [0, 1]


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_comes_out_after_no_task_runs_any_more(number: int) -> None:
    running: list[int] = []

    def work(task: int) -> None:
        running.append(task)
        time.sleep(0.005)
        running.remove(task)
        if task == 1:
            raise ValueError("task 1")

    with pytest.raises(ValueError, match="task 1"):
        parallel(work, 6, number)
    assert running == []


def test_work_may_ask_for_work() -> None:
    def outer(task: int) -> int:
        return sum(parallel(lambda inner: 10 * task + inner, 3, 3))

    assert parallel(outer, 4, 2) == [3 + 30 * task for task in range(4)]


def test_a_forked_process_has_threads_of_its_own() -> None:
    parallel(lambda task: task, 4, 2)
    assert found_in_child(lambda: sum(parallel(lambda task: task, 10, 2))) == 45
