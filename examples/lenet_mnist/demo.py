"""Compile a LeNet for the bulk-RRAM chip, classify MNIST with it, and show accuracy and cost beside the published figures.

The paper (Wu et al., arXiv 2305.14547) trains this network on the chip; here its FP32 weights are written into the chip.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import cimc
from cimc.datasets import mnist
from cimc.report.evaluate import evaluate

MODEL = Path(__file__).with_name("lenet.onnx")
#: Table 1 and text of the paper; energy an image in microjoule.
PAPER = {
    "weights' devices": "6440",
    "crossbars": "6",
    "ops": "641",
    "tile ops": "707",
    "latency, ms": "0.46",
    "pipelined, ms": "0.42",
    "energy, µJ": "1.9",
    "accuracy in FP32": "98.7 %",
    "accuracy on the chip": "97.73 %, trained on it",
}


def measure(seed: int, images: int | None = None, save: Path | None = None) -> dict[str, Any]:
    """Compile, run, account; the program goes to ``save``."""
    data = mnist()
    x_train, x_test = (data[k][:, None].astype(np.float32) / np.float32(255) for k in ("x_train", "x_test"))
    begin = time.perf_counter()
    program = cimc.compile(MODEL, target="bulk-rram", calibration={"input": x_train})
    compiled = time.perf_counter() - begin
    if save:
        program.save(save)
    result = evaluate(program, x_test[:images], data["y_test"][:images], seed=seed, reference=MODEL)
    return {
        "images": result.images,
        "seed": seed,
        "accuracy": result.accuracy,
        "reference_accuracy": result.reference_accuracy,
        "agreement": result.agreement,
        "cost": program.cost().to_dict(),
        "compile_s": compiled,
        "run_s": time.perf_counter() - begin - compiled,
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, figure here, figure of the paper."""
    cost = found["cost"]
    ours = {
        "weights' devices": f"{cost['devices']}",
        "crossbars": f"{cost['crossbars']}",
        "ops": f"{cost['ops']}",
        "tile ops": f"{cost['tile_ops']}",
        "latency, ms": f"{cost['latency_ms']['sequential']:.5f}",
        "pipelined, ms": f"{cost['latency_ms']['pipelined']:.5f}",
        "energy, µJ": f"{1e3 * cost['energy_mj']['analog']:.3f}",
        "accuracy in FP32": f"{100 * found['reference_accuracy']:.2f} %, by ONNX Runtime",
        "accuracy on the chip": f"{100 * found['accuracy']:.2f} %, written once",
    }
    return [(name, value, PAPER[name]) for name, value in ours.items()]


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    cost = found["cost"]
    table = Table(
        title=f"LeNet on bulk-rram: {found['images']} MNIST test images, chip of seed {found['seed']}", title_justify="left"
    )
    for name in ("", "here", "paper"):
        table.add_column(name, no_wrap=True)
    for row in rows(found):
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(
        f"{cost['tiles']} tiles on {cost['chips']} chip; latency as placed {cost['latency_ms']['placed']:.5f} ms. "
        f"Chip and ONNX Runtime say the same on {100 * found['agreement']:.2f} % of the images. "
        f"Compiled in {found['compile_s']:.1f} s, both ran in {found['run_s']:.1f} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the chip")
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    found = measure(options.seed, options.images)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
