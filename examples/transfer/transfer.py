"""The transfer experiment of arXiv 2305.14547 for LeNet: trained once, programmed into other dice, used there as it is.

Each training becomes an image; each image is written into dice of its chip, each with programming errors and read noise of its
own, and classifies the MNIST test images there. Nothing is trained or calibrated again. What is finished stays in the work
folder, so that a run that was stopped goes on; the summary goes to standard output as JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cimc
from cimc.files import write_file
from cimc.image.image import Image
from cimc.targets.load import load_target

sys.path.insert(0, str(Path(__file__).parent))
from kinds import Data, Length, Training, floating_point, mixed_precision, quantisation_aware

#: Dice have other seeds than the chips that were trained: they were made with other devices.
FIRST_DIE = 1000


@dataclass(frozen=True)
class Kind:
    """A kind of model: how it is trained, for which chip, and in what the dice differ from the target."""

    train: Training
    chip: str
    die: dict[str, Any] = field(default_factory=dict)


#: Half a step of the 2-bit window of 8.2 to 32.9 µS.
HALF_STEP_US = (32.9 - 8.2) / 3 / 2
KINDS = {
    "mixed": Kind(mixed_precision, "bulk-rram-256"),
    "fp32": Kind(floating_point, "bulk-rram-256"),
    "qat": Kind(quantisation_aware, "bulk-rram-256"),
    "mixed-2bit": Kind(
        mixed_precision,
        "bulk-rram",
        {"device.programming.sigma_us": HALF_STEP_US, "device.programming.mean_us": 0.0},
    ),
}


class Results:
    """Accuracies by kind, training and die, in a file of one JSON object a line; the die is None where a model was trained."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.found = {(r["kind"], r["training"], r["die"]): r["accuracy"] for r in map(json.loads, lines)}

    def add(self, kind: str, training: int, die: int | None, accuracy: float) -> None:
        """Take one more; the file is written whole or not at all."""
        self.found[kind, training, die] = accuracy
        lines = (
            json.dumps(dict(zip(("kind", "training", "die"), key, strict=True)) | {"accuracy": a})
            for key, a in self.found.items()
        )
        write_file(self.path, "".join(f"{line}\n" for line in lines).encode())


def image_of(name: str, seed: int, data: Data, length: Length, work: Path) -> Image:
    """One trained model as an image: that of the work folder, or made now.

    Raises:
        CimcError: The folder holds a training of another length.
    """
    path = work / f"{name}-{seed}.cimg"
    if path.is_file():
        image = cimc.load_image(path)
        about = image.meta["training"]
        if (about["epochs"], about["steps_per_epoch"]) != (length.epochs, length.steps):
            raise cimc.CimcError("a training of another length is there", where=str(path), fix="give another --work")
        return image
    begin, checkpoint = time.perf_counter(), work / f"{name}-{seed}"
    kind = KINDS[name]
    image = kind.train(kind.chip, seed, data, length, checkpoint)
    image.save(path)
    shutil.rmtree(checkpoint, ignore_errors=True)
    accuracy = image.meta["training"]["accuracy"]
    print(f"{name} {seed}: {100 * accuracy:.2f} % where trained, {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return image


def accuracy_on(image: Image, die: int, data: Data, changes: dict[str, Any]) -> float:
    """Share of the test images that one die classifies rightly."""
    target = load_target(image.target, changes)
    chip = image.program(FIRST_DIE + die, target=target, programming="gaussian")
    right = 0
    for first in range(0, len(data.x_test), 500):
        x, y = data.x_test[first : first + 500], data.y_test[first : first + 500]
        right += int((chip.run({"input": x}, first)["logits"].argmax(1) == y).sum())
    return right / len(data.x_test)


def run(kinds: Sequence[str], trainings: int, dice: int, length: Length, work: Path, data: Data) -> dict[str, Any]:
    """Make what the work folder does not hold yet; returns the summary of all that it holds."""
    work.mkdir(parents=True, exist_ok=True)
    results = Results(work / "results.jsonl")
    for name in kinds:
        for seed in range(trainings):
            missing = [die for die in (None, *range(dice)) if (name, seed, die) not in results.found]
            if not missing:
                continue
            image = image_of(name, seed, data, length, work)
            for die in missing:
                own = image.meta["training"]["accuracy"]
                results.add(name, seed, die, own if die is None else accuracy_on(image, die, data, KINDS[name].die))
    return summary(results)


def summary(results: Results) -> dict[str, Any]:
    """Of all that the work folder holds: figures by kind, and the median's share of FP32's median where trained."""
    seeds = {name: sorted({seed for kind, seed, _ in results.found if kind == name}) for name in KINDS}
    own = {name: [results.found[name, seed, None] for seed in seeds[name]] for name in KINDS}
    reference = median(own["fp32"]) if own.get("fp32") else None
    rows = {}
    for name in (name for name in KINDS if own[name]):
        dice = [
            [a for (kind, s, die), a in results.found.items() if (kind, s) == (name, seed) and die is not None]
            for seed in seeds[name]
        ]
        every = [accuracy for row in dice for accuracy in row]
        rows[name] = {
            "chip": KINDS[name].chip,
            "trainings": len(dice),
            "dice": len(every),
            "median": median(every),
            "least": min(every),
            "most": max(every),
            "share_of_fp32": median(every) / reference if reference else None,
            "where_trained": own[name],
            "on_dice": dice,
        }
    return {"fp32_accuracy": reference, "kinds": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="keeps images and results; a run goes on from it")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), help="all of them by default")
    parser.add_argument("--trainings", type=int, default=10, help="of each kind")
    parser.add_argument("--dice", type=int, default=10, help="for each training")
    parser.add_argument("--epochs", type=int, default=13, help="of each training")
    parser.add_argument("--steps", type=int, default=400, help="batches an epoch")
    options = parser.parse_args()
    if min(options.trainings, options.dice, options.epochs, options.steps) < 1:
        parser.error("numbers must be 1 or more")
    length = Length(options.epochs, options.steps)
    try:
        found = run(options.kinds, options.trainings, options.dice, length, options.work, Data.load())
    except cimc.CimcError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
