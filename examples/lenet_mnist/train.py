"""Train the LeNet of arXiv 2305.14547 on the simulated bulk-RRAM chip, as the paper does, and show its figures beside ours."""

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
from cimc.training.history import Lines

MODEL = Path(__file__).with_name("lenet_init.onnx")
#: Settings that the paper gives.
EPOCHS, STEPS, BATCH, RATE = 13, 400, 64, 4e-3


def run(seed: int, schedule: str = "cosine", folder: Path | None = None, **options: Any) -> dict[str, Any]:
    """One training run; the last epoch's figures on all 10,000 test images.

    Args:
        seed: Of the chip and of the order of the images.
        schedule: The paper's rate is constant.
        folder: Takes the trained chip, ``trained.cim``, and the checkpoint folder ``training``.
        options: ``target``, ``changes`` of it (``["array.transposed={}"]``), ``init``, ``update``, ``lr``, ``epochs`` and
            whatever else `Trainer` takes.
    """
    target, epochs = options.pop("target", "bulk-rram"), options.pop("epochs", EPOCHS)
    changes = options.pop("changes", [])
    data = mnist()
    x_train, x_test = (data[key][:, None].astype(np.float32) / np.float32(255) for key in ("x_train", "x_test"))
    begin = time.perf_counter()
    program = cimc.compile(MODEL, target=target, calibration={"input": x_train[:512]}, settings=changes, repeats="none")
    settings = {"init": "weights" if target == "ideal" else "devices", "lr": RATE, **options}
    trainer = cimc.Trainer(
        cimc.Chip(program, seed), batch_size=BATCH, schedule=schedule, seed=seed, callbacks=[Lines()], **settings
    )
    test = (x_test, data["y_test"])
    checkpoint = folder / "training" if folder else None
    length = {"epochs": epochs, "steps_per_epoch": STEPS}
    history = trainer.fit(x_train, data["y_train"], validation=test, checkpoint=checkpoint, **length)
    if folder:
        trainer.program().save(folder / "trained.cim")
    last, cost = history.last, history.cost
    weights, devices = 3220, program.cost().devices
    return {
        "seed": seed,
        "schedule": schedule,
        "target": target,
        "changes": changes,
        **{name: value for name, value in settings.items() if name != "callbacks"},
        "epochs": epochs,
        "accuracy": last["validation_accuracy"],
        "accuracy_by_epoch": history["validation_accuracy"],
        "updates_per_weight": last["updates_per_weight"],
        "most_updates": last["most_updates"],
        "device_writes": cost["writes"]["device_writes"],
        "device_writes_per_device": cost["writes"]["device_writes"] / devices,
        "fewer_updates": last["step"] * weights / max(1, cost["writes"]["weight_updates"]),
        "cost": cost,
        "seconds": time.perf_counter() - begin,
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, figure here, figure of the paper."""
    return [
        ("accuracy, trained on the chip", f"{100 * found['accuracy']:.2f} %", "97.73 %"),
        ("updates per weight", f"{found['updates_per_weight']:.1f}", "10.8"),
        ("fewer updates than steps", f"{found['fewer_updates']:.0f} times", "about 500 times"),
        ("device writes", f"{found['device_writes']}", "not given"),
    ]


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"LeNet trained on the chip: {found['schedule']} rate, seed {found['seed']}", title_justify="left")
    for name in ("", "here", "paper"):
        table.add_column(name, no_wrap=True)
    for row in rows(found):
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"All 10,000 test images after {found['epochs']} epochs; {found['seconds']:.0f} s.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of chip and data order")
    parser.add_argument("--schedule", default="cosine", help="of the learning rate; the paper's is constant")
    parser.add_argument("--init", choices=("devices", "weights"), default="devices", help="initial state")
    parser.add_argument("--backward", choices=("digital", "analog"), default="digital", help="analog: on the transposed array")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a figure of the target")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    settings = {"init": options.init, "backward": options.backward, "changes": options.set, "epochs": options.epochs}
    found = run(options.seed, options.schedule, **settings)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
