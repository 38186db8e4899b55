"""Images per second of LeNet inference on the simulated training chip, beside ONNX Runtime's and numpy's float LeNet.

Run: ``python benchmarks/lenet.py``. Prints one JSON object. The chip draws read noise and converts every current; the numpy one
is the plain im2col form: windows gathered into a matrix, one BLAS product a layer. All take the same images in the same batches,
in turns in one process, so that they meet the same machine; figures are medians, shares medians of the pairs. ``cpu_ms`` is the
user and system time of a batch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from threadpoolctl import threadpool_limits

import cimc
from cimc.threads import set_threads, threads

F32 = NDArray[np.float32]
MODEL = Path(__file__).parent.parent / "examples" / "lenet_mnist" / "lenet.onnx"


def numpy_lenet(path: Path) -> Callable[[F32], F32]:
    """The float network in numpy: two convolutions with ReLU and 2x2 pooling, one dense layer."""
    model = onnx.load(path)
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    kernels = [w for w in weights if w.ndim == 4]
    dense = next(w for w in weights if w.ndim == 2)
    dense = dense if dense.shape[1] == 10 else dense.T
    biases = {w.size: w for w in weights if w.ndim == 1}

    def convolution(x: F32, kernel: F32) -> F32:
        channels, _, height, width = kernel.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))
        n, _, rows, columns = windows.shape[:4]
        matrix = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * rows * columns, -1)
        y = matrix @ kernel.reshape(channels, -1).T + biases.get(channels, np.float32(0))
        y = np.maximum(y, 0).reshape(n, rows // 2, 2, columns // 2, 2, channels).max(axis=(2, 4))
        return np.ascontiguousarray(y.transpose(0, 3, 1, 2))

    def run(x: F32) -> F32:
        for kernel in kernels:
            x = convolution(x, kernel)
        y: F32 = x.reshape(len(x), -1) @ dense + biases.get(10, np.float32(0))
        return y

    return run


def seconds(work: Callable[[F32], object], images: F32, batch: int) -> tuple[float, float]:
    """Wall and processor time over all images."""
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(images), batch):
        work(images[first : first + batch])
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the default: one JSON object")
    parser.add_argument("--target", default="bulk-rram")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of all; the default: all cores")
    options = parser.parse_args()
    set_threads(options.threads)
    images = np.random.default_rng(0).random((options.images, 1, 28, 28), np.float32)
    begin = time.perf_counter()
    chip = cimc.Chip(cimc.compile(MODEL, options.target), seed=0)
    name = chip.program.inputs[0].name
    chip.run({name: images[: options.batch]})
    first_run = time.perf_counter() - begin
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads()
    session = ort.InferenceSession(MODEL, session_options, providers=["CPUExecutionProvider"])
    plain = numpy_lenet(MODEL)
    np.testing.assert_allclose(plain(images[:9]), session.run(None, {name: images[:9]})[0], rtol=1e-3, atol=1e-4)
    works: dict[str, Callable[[F32], object]] = {
        "cimc": lambda x: chip.run({name: x}),
        "onnxruntime": lambda x: session.run(None, {name: x}),
        "numpy": plain,
    }
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in works}
    with threadpool_limits(options.threads):
        for _ in range(options.repeats):
            for key, work in works.items():
                times[key].append(seconds(work, images, options.batch))
    results: dict[str, Any] = {}
    batches = -(-options.images // options.batch)
    for key, measured in times.items():
        results[key] = {
            "images_per_second": options.images / median(wall for wall, _ in measured),
            "cpu_ms": 1e3 * median(cpu for _, cpu in measured) / batches,
            "cimc_share": median(other / own for (own, _), (other, _) in zip(times["cimc"], measured, strict=True)),
        }
    setting = {"target": options.target, "images": options.images, "batch": options.batch, "threads": threads()}
    print(json.dumps({**setting, "compile_and_first_run_seconds": first_run, **results}, indent=2))


if __name__ == "__main__":
    main()
