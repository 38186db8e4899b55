"""Accuracy of the trained ResNet on simulated chips: with nothing clipped, with the defaults, and with outputs fitted.

By default the first convolution, which drives few word lines, lies on free word lines several times.

    python examples/resnet/run.py --chips 5 --images 2000

The forecast of the compiler, and the median, the lowest and the highest accuracy over the chips, go to standard output as a
Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

import cimc
from cimc.datasets import FASHION_MNIST_FOLDER, fashion_mnist

MODEL = Path(__file__).with_name("resnet.onnx")
LARGEST: dict[str, object] = {"weights.window": "largest", "weights.scale": "layer", "dac.full_scale": "largest"}
#: Settings by name, which repeats are chosen, and whether the outputs are fitted.
WAYS: dict[str, tuple[dict[str, object], Literal["free", "none"], bool]] = {
    "nothing clipped, each row once": (LARGEST, "none", False),
    "each row once": ({}, "none", False),
    "defaults": ({}, "free", False),
    "each row once, outputs fitted": ({}, "none", True),
    "defaults, outputs fitted": ({}, "free", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="written by make_model.py")
    parser.add_argument("--data", type=Path, default=FASHION_MNIST_FOLDER, help="folder of the four IDX files")
    parser.add_argument("--chips", type=int, default=5, help="chips of seed 0, 1, ...")
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument("--targets", nargs="+", default=["bulk-rram-256", "bulk-rram"])
    options = parser.parse_args()
    data = fashion_mnist(options.data)
    train, fit = (data["x_train"][part, None].astype(np.float32) / np.float32(255) for part in (slice(512), slice(512, 768)))
    x = data["x_test"][: options.images, None].astype(np.float32) / np.float32(255)
    y = data["y_test"][: options.images]
    print(f"| target | | forecast, dB | median of {options.chips} chips | lowest | highest |\n|---|---|---:|---:|---:|---:|")
    for target in ["ideal", *options.targets]:
        for name, (settings, repeats, fitted) in WAYS.items() if target != "ideal" else [("", WAYS["each row once"])]:
            given = {"settings": settings, "repeats": repeats}
            program = cimc.compile(options.model, target=target, calibration={"input": train}, **given)
            expected = "" if target == "ideal" or fitted else f"{program.forecast().outputs[0].sqnr_db:.1f}"
            found = []
            for seed in range(1 if target == "ideal" else options.chips):
                chip = cimc.Chip(program, seed)
                if fitted:
                    chip.fit_outputs({"input": fit})
                parts = [chip.run({"input": x[n : n + 500]}, n)["logits"].argmax(1) for n in range(0, len(x), 500)]
                found.append(100 * float((np.concatenate(parts) == y).mean()))
            print(f"| {target} | {name} | {expected} | {median(found):.1f} | {min(found):.1f} | {max(found):.1f} |", flush=True)


if __name__ == "__main__":
    main()
