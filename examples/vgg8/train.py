"""Train VGG-8 in the larger setting of arXiv 2305.14547 (256x64 arrays, 16 levels: `bulk-rram-256`), and in FP32 beside it.

Both runs keep a checkpoint after each epoch in the folder given by `--work`: killed and started again, they go on. Images are
Fashion-MNIST (Debian package dataset-fashion-mnist), or those of an npz file of images `[n, height, width, channels]` such as
CIFAR-10's. An epoch on the chip takes minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from model import vgg8
from numpy.typing import NDArray

import cimc
from cimc.data import read_npz
from cimc.datasets import fashion_mnist
from cimc.training.history import Lines

#: The paper's batch and rate.
BATCH, RATE = 64, 3e-3
#: Weight that spans the window of every layer: θ, a 15th of it, is 6 of the optimizer's largest steps.
W_MAX = 0.25
Images = tuple[NDArray[np.float32], NDArray[Any]]


def images(path: Path | None) -> tuple[Images, Images]:
    """Training and test images ``[n, channels, height, width]`` in 0...1, and labels."""
    data = fashion_mnist() if path is None else read_npz(path)
    if missing := [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in data]:
        raise cimc.DataError(f"holds no array {', '.join(missing)}", where=str(path))
    parts = []
    for part in ("train", "test"):
        x = data[f"x_{part}"].astype(np.float32) / np.float32(255)
        x = x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        parts.append((x, data[f"y_{part}"].reshape(-1)))
    return parts[0], parts[1]


def run(name: str, train: Images, test: Images, options: argparse.Namespace) -> dict[str, Any]:
    """One training run, on the chip or in floating point; goes on from its folder."""
    x, y = train
    model = vgg8(x.shape[1], x.shape[2], int(y.max()) + 1, options.seed)
    target = options.target if name == "chip" else "ideal"
    program = cimc.compile(model.SerializeToString(), target=target, calibration={"input": x[:256]}, repeats="none")
    start: dict[str, Any] = {"init": "devices", "w_max": W_MAX} if name == "chip" else {"init": "weights"}
    chip = cimc.Chip(program, options.seed)
    print(f"{name}:", file=sys.stderr)
    trainer = cimc.Trainer(chip, batch_size=BATCH, lr=RATE, seed=options.seed, callbacks=[Lines()], **start)
    history = trainer.fit(
        x, y, epochs=options.epochs, steps_per_epoch=options.steps_per_epoch, validation=test,
        checkpoint=options.work / name, checkpoint_steps=100, resume=True,
    )  # fmt: skip
    last = history.last
    return {
        "accuracy": last["validation_accuracy"],
        "accuracy_by_epoch": history["validation_accuracy"],
        "steps": last["step"],
        "updates_per_weight": last["updates_per_weight"],
        "most_updates": last["most_updates"],
        "cost": history.cost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("vgg8"), help="folder of the checkpoints")
    parser.add_argument("--data", type=Path, help="npz with x_train, y_train, x_test, y_test; default: Fashion-MNIST")
    parser.add_argument("--epochs", type=int, default=15, help="the paper has 100")
    parser.add_argument("--steps-per-epoch", type=int, help="random batches an epoch; default: all images once")
    parser.add_argument("--target", default="bulk-rram-256")
    parser.add_argument("--seed", type=int, default=0, help="of chip, weights and data order")
    parser.add_argument("--only", choices=("chip", "fp32"), help="one of the two runs")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    train, test = images(options.data)
    names = ("chip", "fp32") if options.only is None else (options.only,)
    found: dict[str, Any] = {name: run(name, train, test, options) for name in names}
    if "chip" in found:
        found["share_of_fp32_updates"] = found["chip"]["updates_per_weight"] / found["chip"]["steps"]
    if len(found) > 2:
        found["gap_points"] = 100 * (found["fp32"]["accuracy"] - found["chip"]["accuracy"])
    print(json.dumps({"epochs": options.epochs, "seed": options.seed, "test_images": len(test[0]), **found}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except cimc.CimcError as error:
        sys.exit(str(error))
