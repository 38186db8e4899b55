"""One kernel shared among threads by cimc's team and by numba's own threading layers.

    python benchmarks/threads.py [--layers omp,workqueue,tbb] [--threads 1 2] [--repeats 15]

Each layer runs in a process of its own, as numba has one for a process; one that is not installed is left out. The kernel is an
integer product of blocks of rows, as a read of a crossbar has them. Team and ``prange`` alternate in one process, with a rest
between them that is longer than the time for which either's idle threads watch. ``in a row`` is a call among others that
follow one another, as in a training step; ``after a rest`` is the first call after 20 ms. Figures are the median and the least
of the repeats, µs; ``share`` is the median of the pairs, numba's time over the team's: above 1 the team is faster. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from cimc.runtime.atomic import bound
from cimc.runtime.team import crew, share

#: Rows of the inputs; each is a product with 64 x 64 numbers, of a few microseconds.
SIZES = {"4 rows": 4, "32 rows": 32, "256 rows": 256, "2048 rows": 2048}
REST_S = 0.02


@njit(inline="always")
def _row(i: int, x: Any, w: Any, out: Any) -> None:
    for j in range(w.shape[1]):
        out[i, j] = 0
    for k in range(w.shape[0]):
        for j in range(w.shape[1]):
            out[i, j] += x[i, k] * w[k, j]


@njit(nogil=True)
def _rows(first: int, end: int, thread: int, x: Any, w: Any, out: Any) -> None:
    for i in range(first, end):
        _row(i, x, w, out)


@njit(nogil=True)
def by_team(members: Any, x: Any, w: Any, out: Any) -> None:
    share(members, len(x), bound(_rows, (x, w, out)))


@njit(nogil=True, parallel=True)
def by_numba(x: Any, w: Any, out: Any) -> None:
    for i in prange(len(x)):
        _row(i, x, w, out)


def in_a_row(work: Callable[[], object], calls: int) -> float:
    """Microseconds of a call among others, after a few that wake the threads."""
    time.sleep(REST_S)
    for _ in range(max(3, calls // 10)):
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls * 1e6


def after_a_rest(work: Callable[[], object], calls: int) -> float:
    """Microseconds of one call of threads that sleep."""
    time.sleep(REST_S)
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def measure(rows: int, threads: int, repeats: int) -> dict[str, Any]:
    """Both ways with one number of threads, alternating."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 255, (rows, 64), np.int32), rng.integers(-99, 99, (64, 64), np.int32)
    outs = np.zeros((2, rows, 64), np.int32)
    numba.set_num_threads(threads)

    def team() -> None:
        by_team(crew(threads), x, w, outs[0])

    def layer() -> None:
        by_numba(x, w, outs[1])

    team(), layer()
    if not (outs[0] == outs[1]).all() or not (outs[0] == x @ w).all():
        raise SystemExit("the two ways give different results")
    found: dict[str, Any] = {}
    for name, timed in (("in a row", in_a_row), ("after a rest", after_a_rest)):
        calls = max(5, min(400, 20_000 // rows))
        pairs = [(timed(team, calls), timed(layer, calls)) for _ in range(repeats)]
        found[name] = {
            "team_us": [round(pick(t for t, _ in pairs), 1) for pick in (median, min)],
            "numba_us": [round(pick(n for _, n in pairs), 1) for pick in (median, min)],
            "share": round(median(n / t for t, n in pairs), 2),
        }
    return found


def child(options: argparse.Namespace) -> None:
    """All sizes and numbers of threads, in the layer that the environment names."""
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        rows += [{"threads": threads, "size": name, **measure(n, threads, options.repeats)} for name, n in SIZES.items()]
    print(json.dumps({"layer": numba.threading_layer(), "results": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="omp,workqueue,tbb")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    found, left_out = [], []
    for layer in options.layers.split(","):
        env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        env |= {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": str(max(options.threads))}
        arguments = ["--child", "--repeats", str(options.repeats), "--threads", *map(str, options.threads)]
        done = subprocess.run([sys.executable, __file__, *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            left_out.append({"layer": layer, "why": next((line for line in reversed(lines) if "Error" in line), lines[-1])})
        else:
            found.append(json.loads(done.stdout))
    print(json.dumps({"cores": os.cpu_count(), "layers": found, "left_out": left_out}, indent=1))


if __name__ == "__main__":
    main()
