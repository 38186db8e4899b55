"""What this machine and installation offer, what a small product takes, and what would make cimc faster."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from threadpoolctl import threadpool_info

from cimc.compiler import compile as compile_model
from cimc.runtime import gemm, kernel_files
from cimc.runtime.chip import Chip
from cimc.threads import threads
from cimc.version import __version__

#: Packages that every installation has, and optional ones with what they are for.
_NEEDED = ("numpy", "numba", "llvmlite", "onnx", "onnx-ir", "onnxruntime", "pydantic", "safetensors")
_OPTIONAL = {
    "torch": "cimc.torch", "onnxscript": "cimc.torch", "matplotlib": "pictures", "plotly": "cimc report",
    "pillow": "folders of images", "scipy": "cimc evaluate --samples",
    "distributed": "cimc evaluate --scheduler tcp://...", "cryptography": "signed images", "intelhex": "Intel HEX files",
    "tensorboard": "cimc train --tensorboard", "pandas": "tables as data frames", "pyarrow": "tables as Parquet",
}  # fmt: skip
_ROWS, _COLUMNS, _BATCH, _REPEATS = 512, 512, 256, 7
#: The chip's noisy product is about as quick as numpy's; below this share of it something is wrong.
_SLOW = 0.25
_SMALL_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    advice: str = ""


def findings(speed: bool = True) -> Iterator[Finding]:
    """Look at one thing after another.

    Args:
        speed: Also time a product, on the chip and in numpy.

    Raises:
        CimcError: CIMC_THREADS is not a number of threads.
    """
    yield Finding("cimc", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    yield Finding("packages", ", ".join(f"{name} {metadata.version(name)}" for name in _NEEDED))
    yield _optional()
    yield _threads()
    yield Finding("BLAS of numpy", _blas())
    yield Finding(
        "vectors", "AVX2" if gemm.has_avx2() else "no AVX2",
        "" if gemm.has_avx2() else "products take float32 instead of 16-bit integers, at about half the speed",
    )  # fmt: skip
    yield _memory()
    yield _kernels()
    if speed:
        yield _speed()


def _optional() -> Finding:
    there, absent = [], []
    for name, purpose in _OPTIONAL.items():
        try:
            there.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(f"{name} ({purpose})")
    return Finding("optional packages", ", ".join(there) or "none", f"not installed: {', '.join(absent)}" if absent else "")


def _threads() -> Finding:
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    count, wanted = threads(), os.environ.get("CIMC_THREADS")
    advice = ""
    if count > cores:
        advice = f"more threads than cores wait for each other: CIMC_THREADS={cores}"
    elif count < cores:
        advice = f"unset CIMC_THREADS to use all {cores} cores"
    told = "is not set" if wanted is None else f"is {wanted}"
    return Finding("threads", f"{count} on {cores} cores, CIMC_THREADS {told}", advice)


def _blas() -> str:
    found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads" for pool in found) or "not known"


def _memory() -> Finding:
    free = None
    with suppress(OSError, ValueError, IndexError, StopIteration):  # Linux; elsewhere it is not known
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    if free is None:
        return Finding("memory", "not known")
    advice = "networks of more than 100 million weights may not fit" if free < _SMALL_BYTES else ""
    return Finding("memory", f"{free / 2**30:.1f} GiB available", advice)


def _kernels() -> Finding:
    folder, count = kernel_files.kept()
    if folder is None:
        fix = "set NUMBA_CACHE_DIR to a folder that you may write to; else every start compiles them again"
        return Finding("compiled kernels", "no folder takes them", fix)
    advice = "" if count else "cimc warmup compiles all, about two minutes; else each is compiled when it is first needed"
    return Finding("compiled kernels", f"{count} in {folder}", advice)


def _speed() -> Finding:
    """The same product on the noisy chip and in numpy, the quickest of a few."""
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.05, (_ROWS, _COLUMNS)).astype(np.float32)
    x = random.random((_BATCH, _ROWS)).astype(np.float32)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N, {_ROWS}] x) => (float[N, {_COLUMNS}] y) {{ y = MatMul (x, w) }}'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    settings: dict[str, Any] = {"weights.window": "largest", "weights.scale": "layer"}
    chip = Chip(compile_model(model, "bulk-rram-256", calibration={"x": x[:64]}, settings=settings))

    def quickest(work: Any) -> float:
        work()
        times = []
        for _ in range(_REPEATS):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    own, plain = quickest(lambda: chip.run({"x": x}, 0)), quickest(lambda: x @ weights)
    rate = _ROWS * _COLUMNS * _BATCH / own / 1e9
    advice = ""
    if plain < _SLOW * own:
        advice = "other work may be using the cores; compare with benchmarks/vmm.py on an idle machine"
    found = f"{rate:.1f} billion multiply-accumulates a second on the noisy chip, {plain / own:.2f} of numpy in float32"
    return Finding("speed", found, advice)
