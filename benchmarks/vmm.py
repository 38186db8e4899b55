"""Device-MACs per second of a noisy crossbar product, as a share of numpy's float32 product of the same device matrix.

Run: ``python benchmarks/vmm.py``. Prints one JSON object. The two alternate in one process, so that both meet the same machine;
the figures are medians, the share is the median of the pairs. Programming error, read noise, 8-bit DAC, 8-bit ADC and ADC noise
are all on; both device columns of a weight count, as numpy multiplies both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from cimc.ir.geometry import Dense, WeightView
from cimc.ir.program import InputCoding, Layer
from cimc.runtime.crossbar import Crossbar
from cimc.targets.description import Target
from cimc.threads import set_threads, threads

TARGET: dict[str, Any] = {
    "name": "benchmark",
    "array": {"rows": 256, "columns": 64},
    "device": {
        "g_min_us": 10.0, "g_max_us": 70.0, "levels": 16, "read_voltage_v": 0.1, "read_sigma_us": 1.2,
        "programming": {"sigma_us": 2.0},
    },
    "dac": {"bits": 8},
    "adc": {"bits": 8, "sigma_lsb": 2.0, "range_ua": 350.0},
}  # fmt: skip


#: OpenBLAS's idle threads spin for some 30 ms after a product; whoever runs then has a core less. After a rest, cores take
#: some 50 ms to come back to speed, for either side.
REST_S, WARM_S, TIMED_S = 0.1, 0.06, 0.12


def crossbar(rows: int, columns: int) -> Crossbar:
    """A dense layer of random weights."""
    weights = np.random.default_rng(0).normal(size=(1, rows, columns)).astype(np.float32)
    layer = Layer(
        name="dense",
        weight=WeightView(tensor="w", split=(rows, columns), perm=(0, 1), shape=(1, rows, columns)),
        coding=InputCoding(gain=255.0, signed=False),
        adc_range_ua=TARGET["adc"]["range_ua"],
        row_cuts=(*range(0, rows, 256), rows),
        column_cuts=(*range(0, columns, 32), columns),
    )
    return Crossbar(layer, weights, np.array([np.abs(weights).max()]), Target.model_validate(TARGET), chip_seed=1)


def seconds(work: Callable[[], object], calls: int) -> float:
    time.sleep(REST_S)
    warm = time.perf_counter() + WARM_S
    while time.perf_counter() < warm:
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def measure(batch: int, rows: int, columns: int, repeats: int) -> dict[str, float]:
    """One batch size."""
    chip = crossbar(rows, columns)
    x = np.random.default_rng(1).random((batch, rows), np.float32)
    geometry = Dense(input_perm=(0, 1), kept=1, output_dims=(columns,), output_perm=(0, 1))
    devices = np.ascontiguousarray(chip.g_us.reshape(rows, -1))
    plain, cim = (lambda: x @ devices), (lambda: chip.multiply(x, geometry, 7))
    calls = max(1, round(TIMED_S / seconds(plain, 3)))
    cim_calls = max(1, round(TIMED_S / seconds(cim, 3)))
    pairs = [(seconds(cim, cim_calls), seconds(plain, calls)) for _ in range(repeats)]
    macs = batch * devices.size
    return {
        "batch": batch,
        "cimc_gmacs": macs / median(c for c, _ in pairs) / 1e9,
        "numpy_gmacs": macs / median(p for _, p in pairs) / 1e9,
        "share": median(p / c for c, p in pairs),
        "saturated_share": chip.stats.adc_saturations / chip.stats.adc_conversions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="the default: one JSON object")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of both; the default: all cores")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=1024)
    options = parser.parse_args()
    set_threads(options.threads)
    with threadpool_limits(options.threads):
        results = [measure(batch, options.rows, options.columns, options.repeats) for batch in options.batches]
    setting = {"rows": options.rows, "weight_columns": options.columns, "tile_rows": 256, "threads": threads()}
    print(json.dumps({**setting, "results": results}, indent=2))


if __name__ == "__main__":
    main()
