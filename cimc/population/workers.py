"""Where pieces run: in this process, in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from typing import Any

from cimc.errors import CimcError, RunError
from cimc.population.work import Found, Piece, Work, run_piece
from cimc.threads import threads

#: Times that pieces are tried, where a worker dies.
_AGAIN = 3
_here: Work | None = None


def results(work: Work, pieces: Sequence[Piece], scheduler: Any = None) -> Iterator[Found]:
    """What the pieces come to, in the order in which they end.

    Args:
        work: What they share.
        pieces: What to do.
        scheduler: None: this process; ``local:N``: N processes of this machine; ``tcp://…``: a Dask scheduler; or a Dask client.

    Raises:
        CimcError: An unknown scheduler, or a piece cannot be done.
        RunError: Workers keep dying.
    """
    if scheduler is None:
        yield from (run_piece(work, piece) for piece in pieces)
    elif isinstance(scheduler, str) and scheduler.startswith("local:"):
        yield from _local(work, pieces, _count(scheduler))
    elif isinstance(scheduler, str) and not scheduler.startswith(("tcp://", "tls://", "ucx://", "ws://")):
        raise CimcError(f"no scheduler {scheduler!r}", where="scheduler", fix="local:N, or tcp://HOST:PORT of a Dask scheduler")
    else:
        yield from _dask(work, pieces, scheduler)


def _count(scheduler: str) -> int:
    number = scheduler.removeprefix("local:")
    if not (number.isascii() and number.isdecimal() and 1 <= int(number[:6]) <= 4096):
        raise CimcError(f"{scheduler!r} names no number of processes", where="scheduler", fix="for example local:2")
    return int(number)


def _begin(work: Work, number: int) -> None:
    """Make a process ready: its threads are bounded, so that N processes on N cores do not fight.

    Ctrl-C reaches all processes of a terminal; this one's parent ends it.
    """
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["CIMC_THREADS"] = str(number)
    _here = work


def _run_here(piece: Piece) -> Found:
    assert _here is not None
    return run_piece(_here, piece)


def _local(work: Work, pieces: Sequence[Piece], count: int) -> Iterator[Found]:
    left = {piece.key: piece for piece in pieces}
    share = max(1, threads() // count)
    for _ in range(_AGAIN):
        # Not forked: kernels' threads do not survive a fork.
        with ProcessPoolExecutor(min(count, len(left)) or 1, get_context("spawn"), _begin, (work, share)) as pool:
            with undisturbed():
                futures = [pool.submit(_run_here, piece) for piece in left.values()]
            try:
                for future in as_completed(futures):
                    found = future.result()
                    left.pop((found.point, found.seed), None)
                    yield found
            except BrokenProcessPool:
                continue  # what had not ended is tried again
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    raise RunError(f"workers died {_AGAIN} times", where="scheduler", fix="fewer processes: each holds the program and a die")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that would stop this process wait: a process that is being started would end in a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    own = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in own.items():
        if callable(handler):
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in own.items():
            if callable(handler):
                signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _dask(work: Work, pieces: Sequence[Piece], scheduler: Any) -> Iterator[Found]:
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise CimcError("Dask is not installed", where="scheduler", fix="pip install 'cimc[cluster]'") from error
    client, own = scheduler, isinstance(scheduler, str)
    if own:
        try:
            client = distributed.Client(scheduler, timeout="20s")
        except OSError as error:
            raise RunError(f"no Dask scheduler answers: {error}", where=scheduler, fix="start one, or give local:N") from error
    elif not isinstance(scheduler, distributed.Client):
        raise CimcError(f"a {type(scheduler).__name__} is no scheduler", where="scheduler", fix="give a text or a Dask client")
    try:
        shared = client.scatter(work, broadcast=True, hash=False)
        futures = [client.submit(run_piece, shared, piece, pure=False, retries=_AGAIN) for piece in pieces]
        for future in distributed.as_completed(futures):
            yield future.result()
            future.release()
    finally:
        if own:
            client.close()
