"""What a forked process finds: threads do not survive a fork, so whoever has some must make them again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable


def found_in_child(work: Callable[[], int]) -> int:
    """``work()`` as a forked child does it; an error if it takes half a minute."""
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=lambda: queue.put(work()))
    child.start()
    try:
        return queue.get(timeout=30)
    finally:
        child.join(timeout=30)
