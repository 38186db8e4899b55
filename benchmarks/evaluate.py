"""Images per second of `cimc evaluate` over many dice: LeNet and VGG-8 on their noisy chips, one thread a process.

Each round measures, one after the other: one process, a Dask cluster of each number of workers (started before, its workers
warm), and a loop of `cimc evaluate` commands, one a die, each with its start. A rate is dice times images over seconds, of the
best and of the median round. ``linear`` is the rate over that of one Dask worker times the number of workers, the median over
rounds. What ONNX Runtime says of the images is computed once for all dice of a study, by every command anew. Images are random
numbers: no step depends on them. The figures of all dice must be the same everywhere. Prints JSON.
"""

from __future__ import annotations

import os

os.environ["CIMC_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cimc

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
Array = NDArray[Any]
Run = Callable[[], list[float]]


def lenet(folder: Path) -> tuple[Path, tuple[int, ...]]:
    """The compiled program, and the shape of an image."""
    path, x = folder / "lenet.cim", images(256, (1, 28, 28))
    cimc.compile(EXAMPLES / "lenet_mnist" / "lenet.onnx", "bulk-rram-256", calibration={"input": x}).save(path)
    return path, (1, 28, 28)


def vgg8(folder: Path) -> tuple[Path, tuple[int, ...]]:
    """The same of VGG-8 with fresh weights."""
    sys.path.insert(0, str(EXAMPLES / "vgg8"))
    path, shape = folder / "vgg8.cim", (1, 28, 28)
    model = import_module("model").vgg8(*shape[:2])
    cimc.compile(model, "bulk-rram-256", calibration={model.graph.input[0].name: images(32, shape)}).save(path)
    return path, shape


def images(count: int, shape: tuple[int, ...]) -> Array:
    """Uniform from 0 to 1, float32 ``[count, *shape]``."""
    return np.random.default_rng(0).random((count, *shape), np.float32)


def commands(program: Path, data: Path, dice: int) -> list[float]:
    """Accuracies of so many dice, a command each."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found = []
    for seed in range(dice):
        command = [sys.executable, "-m", "cimc", "evaluate", str(program), "--data", str(data), "--seed", str(seed), "--json"]
        told = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": path})
        found.append(float(json.loads(told.stdout)["accuracy"]))
    return found


def study(program: Path, x: Array, y: Array, dice: int, client: Any = None) -> list[float]:
    """Accuracies of so many dice, in one study."""
    found: list[float] = cimc.evaluate(program, x, y, chips=dice, scheduler=client).accuracy[0, 0].tolist()
    return found


def runs_of(
    program: Path, data: Path, x: Array, y: Array, dice: int, looped: int, clients: dict[int, Any]
) -> dict[str, tuple[int, Run]]:
    """What is measured, by name: how many dice it evaluates, and the call."""
    runs: dict[str, tuple[int, Run]] = {"one process": (dice, lambda: study(program, x, y, dice))}
    for workers, client in clients.items():
        runs[f"{workers} Dask workers"] = (dice, lambda client=client: study(program, x, y, dice, client))  # type: ignore[misc]
    runs["commands"] = (looped, lambda: commands(program, data, looped))
    return runs


def measured(runs: dict[str, tuple[int, Run]], count: int, repeats: int) -> dict[str, dict[str, float]]:
    """Rates of each, interleaved.

    Raises:
        SystemExit: A die has another figure elsewhere.
    """
    expected = runs["one process"][1]()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):  # the first is not counted: kernels are loaded, workers get warm
        for name, (dice, run) in runs.items():
            if number == 0 and name == "commands":
                continue
            begin = time.perf_counter()
            found = run()
            if number:
                seconds[name].append((time.perf_counter() - begin) / (dice * count))
            if found != expected[:dice]:
                raise SystemExit(f"{name}: {found} instead of {expected[:dice]}")
    rows = {name: {"images_per_second": 1 / min(s), "median": 1 / float(np.median(s))} for name, s in seconds.items()}
    base = np.array(seconds.get("1 Dask workers", seconds["one process"]))
    for name, row in rows.items():
        if name.endswith("workers"):
            row["linear"] = float(np.median(base / np.array(seconds[name]))) / int(name.split()[0])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the default: one JSON object")
    parser.add_argument("--workers", default="1,2", help="numbers of Dask workers, 1 first; without Dask none")
    parser.add_argument("--dice", type=int, default=8, help="of a study")
    parser.add_argument("--commands", type=int, default=2, help="dice of the loop of commands")
    parser.add_argument("--lenet-images", type=int, default=10000)
    parser.add_argument("--vgg8-images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, Any] = {"dice": options.dice, "commands": options.commands, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        clients: dict[int, Any] = {}
        try:
            distributed: Any = import_module("distributed")
        except ImportError:
            distributed = None
        for workers in map(int, options.workers.split(",")) if distributed else ():
            cluster = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
            clients[workers] = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
        for make, count in ((lenet, options.lenet_images), (vgg8, options.vgg8_images)):
            program, shape = make(Path(name))
            x, y = images(count, shape), np.random.default_rng(1).integers(0, 10, count)
            data = Path(name) / f"{make.__name__}.npz"
            np.savez(data, x=x, y=y)
            runs = runs_of(program, data, x, y, options.dice, options.commands, clients)
            results[make.__name__] = {"images": count, **measured(runs, count, options.repeats)}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
