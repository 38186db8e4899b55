"""Update rules side by side: an MLP 784-64-10 on MNIST, trained on soft-bound devices, one table.

    python benchmarks/rules.py [--images 9600] [--epochs 1] [--seeds 1] [--rules pulsed,tiki_taka,...] [--json]

Devices are those of ``bulk-rram``: about 55 pulses over half the window, ups a quarter larger than downs, steps that spread
by 30 % from pulse to pulse and from device to device. Their programming error is a hundredth of the window, so that references
can be set. Accuracy is that of 2,000 test images. Pulses a weight are those of the rule, on all devices of the weight; a
threshold update is a direct write, counted as one. Seconds are those of the simulation.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import cimc
from cimc.datasets import mnist

DEVICE = {"device.programming.mean_us": 0.0, "device.programming.sigma_us": 0.25}
SHIFT = {"update.zero_shift_pulses": 400}
#: Settings of the target, optimizer and rate of each rule.
RULES: dict[str, tuple[dict[str, Any], str, float]] = {
    "threshold": ({}, "adamw", 4e-3),
    "residual": ({}, "adamw", 4e-3),
    "pulsed": ({}, "sgd", 0.1),
    "tiki_taka": ({"update.transfer_rows": 8, "update.transfer_lr": 0.2, **SHIFT}, "sgd", 0.1),
    "ttv2": ({"update.transfer_rows": 8, "update.transfer_lr": 0.2, **SHIFT}, "sgd", 0.1),
    "residual_arrays": ({"update.transfer_rows": 8, "update.transfer_lr": 0.05, **SHIFT}, "sgd", 0.1),
}


def mlp(seed: int) -> onnx.ModelProto:
    """784-64-10, He's normal initialisation."""
    random = np.random.default_rng(seed)
    text = "mlp (float[N, 784] x) => (float[N, 10] y) { a = Gemm (x, w1, b1)  r = Relu (a)  y = Gemm (r, w2, b2) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    arrays = {
        "w1": random.normal(0, np.sqrt(2 / 784), (784, 64)), "b1": np.zeros(64),
        "w2": random.normal(0, np.sqrt(2 / 64), (64, 10)), "b2": np.zeros(10),
    }  # fmt: skip
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    return model


def measure(rule: str, seed: int, images: int, epochs: int) -> dict[str, Any]:
    """One training of one rule."""
    data = mnist()
    train, test = ((data[f"x_{part}"].reshape(-1, 784) / np.float32(255)).astype(np.float32) for part in ("train", "test"))
    own, optimizer, lr = RULES[rule]
    settings = {**DEVICE, "update.rule": rule, **own}
    program = cimc.compile(mlp(seed), target="bulk-rram", calibration={"x": train[:256]}, settings=settings)
    trainer = cimc.Trainer(
        cimc.Chip(program, seed), optimizer=optimizer, lr=lr, batch_size=16, seed=seed, init="weights", window=4.0
    )
    begin = time.perf_counter()
    history = trainer.fit(train[:images], data["y_train"][:images], epochs=epochs)
    seconds = time.perf_counter() - begin
    weights, writes = 784 * 64 + 64 * 10, history.cost["writes"]
    return {
        "rule": rule, "seed": seed, "accuracy": trainer.evaluate(test[:2000], data["y_test"][:2000])["accuracy"],
        "pulses_a_weight": (writes["device_writes"] if writes["pulses"] is None else writes["pulses"]) / weights,
        "devices_a_weight": program.target.planes, "tile_ops": history.cost["tile_ops"], "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=9600)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        measure(rule, seed, options.images, options.epochs) for rule in options.rules.split(",") for seed in range(options.seeds)
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("rule", "devices a weight", "accuracy", "pulses a weight", "seconds")
    for rule in options.rules.split(","):
        own = [row for row in rows if row["rule"] == rule]
        accuracy, pulses, seconds = (np.median([row[name] for row in own]) for name in ("accuracy", "pulses_a_weight", "seconds"))
        table.add_row(rule, str(own[0]["devices_a_weight"]), f"{accuracy:.4f}", f"{pulses:.1f}", f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
