"""Time of the solvers for IR drop, and what wires cost LeNet in inference and training, as JSON.

Each solver on single arrays of 5 to 50 µS cells at 1 Ω a segment, with the drop of the current and the error of the fast
solver: the largest of a bit line's current with all word lines driven, and with random voltages. Then LeNet on bulk-rram with
and without 1 Ω a segment, in turns in one process; CPU times are the least of the runs, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import cimc
from cimc.datasets import mnist
from cimc.runtime.wires.effective import Block, Solver
from cimc.targets.description import Wires
from cimc.threads import set_threads, threads

ARRAYS = [(64, 64), (256, 64), (256, 256)]
MODEL = Path(__file__).parent.parent / "examples" / "lenet_mnist"
SETTINGS = {"array.wires.row_segment_ohm": 1.0, "array.wires.column_segment_ohm": 1.0}
#: Images of an inference and of a training step.
BATCH, STEP = 256, 64


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


def cpu_ms(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU time of each, in turns; once before that without the clock."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, work in works.items():
            begin = time.process_time()
            work()
            if turn:
                least[name] = min(least[name], 1e3 * (time.process_time() - begin))
    return least


def with_share(times: dict[str, float], units: int) -> dict[str, float]:
    """Of one unit of work, and wired in parts of plain."""
    found = {f"{name}_ms": time_ms / units for name, time_ms in times.items()}
    return {**found, "share": times["wired"] / times["plain"]}


def lenet(steps: int, repeats: int) -> dict[str, Any]:
    """Inference of a batch, and a training step, which solves each block with a write anew."""
    data = mnist()
    x, y = data["x_train"][:, None].astype(np.float32) / np.float32(255), data["y_train"]
    settings = {"plain": {}, "wired": SETTINGS}

    def compiled(file: str, name: str) -> cimc.Chip:
        return cimc.Chip(cimc.compile(MODEL / file, "bulk-rram", calibration={"input": x[:256]}, settings=settings[name]))

    chips = {name: compiled("lenet.onnx", name) for name in settings}
    runs = {name: lambda chip=chip: chip.run({"input": x[:BATCH]}) for name, chip in chips.items()}
    trainers = {
        name: cimc.Trainer(compiled("lenet_init.onnx", name), batch_size=STEP, schedule="constant", init="devices")
        for name in settings
    }
    fits = {name: lambda one=one: one.fit(x, y, epochs=1, steps_per_epoch=steps) for name, one in trainers.items()}
    return {
        "inference_of_256_images": with_share(cpu_ms(runs, 5 * repeats), 1),
        "training_step_of_64_images": with_share(cpu_ms(fits, repeats), steps),
        "accuracy": {name: one.evaluate(x[-5000:], y[-5000:])["accuracy"] for name, one in trainers.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="the default: one JSON object")
    parser.add_argument("--threads", type=int, help="the default: all cores")
    parser.add_argument("--steps", type=int, default=400, help="batches of a training run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    set_threads(options.threads)
    found = {"arrays": [arrays(*shape) for shape in ARRAYS], "lenet": lenet(options.steps, options.repeats)}
    print(json.dumps({"threads": threads(), **found}, indent=2))


if __name__ == "__main__":
    main()
