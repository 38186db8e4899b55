"""Time of the solvers for IR drop, as JSON.

Each solver on single arrays of 5 to 50 µS cells at 1 Ω a segment, with the drop of the current and the error of the fast
solver: the largest of a bit line's current with all word lines driven, and with random voltages.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cimc.runtime.wires.effective import Block, Solver
from cimc.targets.description import Wires
from cimc.threads import set_threads, threads

ARRAYS = [(64, 64), (256, 64), (256, 256)]


def seconds(work: Callable[[], object], least_s: float = 0.2) -> float:
    """Of a call; after one that is not timed."""
    work()
    calls, start = 0, time.perf_counter()
    while not calls or time.perf_counter() - start < least_s:
        work()
        calls += 1
    return (time.perf_counter() - start) / calls


def arrays(rows: int, columns: int) -> dict[str, Any]:
    """Both solvers on one array."""
    random = np.random.default_rng(0)
    g = random.uniform(5, 50, (rows, columns)).astype(np.float32)
    took, found = {}, {}
    for name in ("exact", "fast"):
        wires = Wires(row_segment_ohm=1, column_segment_ohm=1, solver=name)
        words, bits = np.arange(rows), np.arange(columns)
        solver = Solver([Block.of(words * columns, bits, words, bits, (rows, columns), wires, 0.0)], wires)
        out = np.empty_like(g)
        took[f"{name}_ms"] = 1e3 * seconds(lambda solver=solver, out=out: solver.solve(g.reshape(-1), out.reshape(-1)))
        found[name] = out.astype(np.float64)
    exact, fast = found["exact"], found["fast"]
    drive = np.concatenate([np.ones((1, rows)), random.random((50, rows))])
    error = np.abs((drive @ fast) / (drive @ exact) - 1)
    drop = float(1 - exact.sum() / g.sum())
    return {"rows": rows, "columns": columns, **took, "mean_drop": drop, "largest_error": float(error.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="the default: one JSON object")
    parser.add_argument("--threads", type=int, help="the default: all cores")
    options = parser.parse_args()
    set_threads(options.threads)
    print(json.dumps({"threads": threads(), "arrays": [arrays(*shape) for shape in ARRAYS]}, indent=2))


if __name__ == "__main__":
    main()
