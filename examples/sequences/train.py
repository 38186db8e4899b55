"""Train a recurrent network and a transformer encoder on MNIST on the simulated chip, and in FP32 beside it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from make_models import MODELS

import cimc
from cimc.datasets import mnist
from cimc.training.history import Lines

BATCH = 128
#: Epochs, rate, and the accuracy on the 10,000 test images that the chip is to reach.
SETTINGS = {
    "lstm": (4, 4e-3, 0.97),
    "gru": (4, 4e-3, 0.97),
    "transformer": (12, 4e-3, 0.96),
}


def run(
    name: str, target: str, seed: int = 0, epochs: int | None = None, work: Path | None = None, **options: Any
) -> dict[str, Any]:
    """One training run from fresh weights; the last epoch's figures on all 10,000 test images.

    Args:
        name: Of a model that `make_models` knows.
        target: ``ideal`` is FP32.
        seed: Of the chip and of the order of the images.
        epochs: Other than those of `SETTINGS`.
        work: Folder for checkpoints; a run that was cut short goes on from there.
        options: What else `Trainer` takes.
    """
    chosen, rate, goal = SETTINGS[name]
    data, model = mnist(), MODELS[name]()
    shape = (-1, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    x, x_test = (data[key].reshape(shape).astype(np.float32) / np.float32(255) for key in ("x_train", "x_test"))
    program = cimc.compile(model, target=target, calibration={"input": x[:256]}, repeats="none")
    settings = {"lr": rate, "batch_size": BATCH, "seed": seed, "callbacks": [Lines()], **options}
    trainer = cimc.Trainer(cimc.Chip(program, seed), **settings)
    test = (x_test, data["y_test"])
    place: dict[str, Any] = {}
    if work is not None:
        place = {"checkpoint": work / f"{name}-{target}-{seed}", "resume": True, "checkpoint_steps": 50}
    history = trainer.fit(x, data["y_train"], epochs=epochs or chosen, validation=test, **place)
    for note in history.notes:
        print(f"note: {note}", file=sys.stderr)
    last, writes = history.last, history.cost["writes"]
    weights = sum(int(np.prod(layer.weight.shape)) for layer in program.layers)
    return {
        "model": name,
        "target": target,
        "seed": seed,
        "epochs": epochs or chosen,
        "goal": goal,
        "accuracy": last["validation_accuracy"],
        "accuracy_by_epoch": history["validation_accuracy"],
        "crossbar_weights": weights,
        "updates_per_weight": last["updates_per_weight"],
        "fewer_updates": last["step"] * weights / max(1, writes["weight_updates"]),
        "device_writes": writes["device_writes"],
        "seconds": sum(history["seconds"]),
        "milliseconds_per_step": 1000 * sum(history["seconds"]) / last["step"],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("models", nargs="*", default=["lstm", "transformer"], help=", ".join(SETTINGS))
    arguments.add_argument("--target", nargs="*", default=["ideal", "bulk-rram-256"], help="chips; ideal is FP32")
    arguments.add_argument("--seed", type=int, default=0, help="of chip and data order")
    arguments.add_argument("--epochs", type=int, help="other than stated")
    arguments.add_argument("--work", type=Path, help="folder for checkpoints, to go on from")
    arguments.add_argument("--lr", type=float, help="other than stated")
    options = arguments.parse_args()
    rate = {} if options.lr is None else {"lr": options.lr}
    for name in options.models:
        for target in options.target:
            print(json.dumps(run(name, target, options.seed, options.epochs, options.work, **rate)), flush=True)


if __name__ == "__main__":
    main()
