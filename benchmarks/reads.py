"""Images per second of LeNet inference for each kind of read, device and array, beside the plain chip's.

Run: ``python benchmarks/reads.py [--images N] [--rounds N]``. Prints one JSON object. All chips take the same images in turns in
one process; ``images_per_s`` is a median over the rounds, ``times_plain`` the median of a round's share of the plain chip's time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import cimc

EXAMPLES = Path(__file__).parent.parent / "examples"
PLAIN = "plain"
KINDS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "pairs subtracted in the array": {"adc.pair_read": "subtracted"},
    "noise of each pulse": {"dac.pulse_noise": "fresh"},
    "converters that differ": {"adc.gain_sigma": 0.03, "adc.offset_sigma_lsb": 2.0, "adc.calibration_reads": 64},
    "drift": {"device.drift.kind": "power_law"},
    "read noise by state": {"device.read_noise.kind": "flicker"},
    "slow noise over 64 images": {"device.slow_noise.sigma_us": 1.0, "device.slow_noise.held_images": 64},
    "slow noise of each image": {"device.slow_noise.sigma_us": 1.0},
    "wires": {"array.wires.row_segment_ohm": 1.0, "array.wires.column_segment_ohm": 1.0},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with np.load(EXAMPLES / "data" / "mnist.npz") as data:
        x = data["x_test"][: options.images, None].astype(np.float32) / 255
    chips = {}
    for name, settings in KINDS.items():
        program = cimc.compile(
            EXAMPLES / "lenet_mnist" / "lenet.onnx", target="bulk-rram-256", calibration={"input": x[:128]}, settings=settings
        )
        chips[name] = cimc.Chip(program, 0)
        chips[name].advance(3600.0)
        chips[name].run({"input": x}, 0)
    taken: dict[str, list[float]] = {name: [] for name in chips}
    for _ in range(options.rounds):
        for name, chip in chips.items():
            begin = time.perf_counter()
            chip.run({"input": x}, 0)
            taken[name].append(time.perf_counter() - begin)
    found = {
        name: {
            "images_per_s": round(len(x) / median(seconds)),
            "times_plain": round(median(own / plain for own, plain in zip(seconds, taken[PLAIN], strict=True)), 2),
        }
        for name, seconds in taken.items()
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
