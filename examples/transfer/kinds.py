"""The kinds of model that are transferred, each trained once a seed and exported as an image."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cimc
from cimc.datasets import mnist
from cimc.image.image import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "lenet_mnist"))
from make_model import initial_weights, to_onnx
from qat import train as train_quantised
from train import BATCH, MODEL, RATE

Array = NDArray[Any]


@dataclass(frozen=True)
class Data:
    """MNIST, or a part of it; images float32 ``[n, 1, 28, 28]``, 0...1."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    @classmethod
    def load(cls) -> Data:
        data = mnist()
        x_train, x_test = (data[key][:, None].astype(np.float32) / np.float32(255) for key in ("x_train", "x_test"))
        return cls(x_train, data["y_train"], x_test, data["y_test"])

    @property
    def some(self) -> dict[str, Array]:
        """What input gains and ADC ranges are chosen on."""
        return {"input": self.x_train[:512]}


@dataclass(frozen=True)
class Length:
    """How long a training is."""

    epochs: int
    steps: int
    """Batches an epoch."""


#: From chip, seed, data, length and a folder for checkpoints to a trained model's image.
Training = Callable[[str, int, Data, Length, Path], Image]


def mixed_precision(chip: str, seed: int, data: Data, length: Length, checkpoint: Path) -> Image:
    """Trained on the chip from its devices as born; the image holds W, what training has not written yet is dropped."""
    made = cimc.Chip(cimc.compile(MODEL, target=chip, calibration=data.some, repeats="none"), seed)
    trainer = _fit(made, "devices", seed, data, length, checkpoint)
    return _image(made, chip, "mixed", seed, length, trainer.evaluate(data.x_test, data.y_test)["accuracy"])


def floating_point(chip: str, seed: int, data: Data, length: Length, checkpoint: Path) -> Image:
    """Trained in FP32, then compiled for the chip: the largest weight of a layer spans its window."""
    fresh = to_onnx(initial_weights(np.random.default_rng(seed)))
    trainer = _fit(cimc.Chip(cimc.compile(fresh, target="ideal")), "weights", seed, data, length, checkpoint)
    accuracy = trainer.evaluate(data.x_test, data.y_test)["accuracy"]
    model = to_onnx({name.removesuffix(".weight"): w for name, w in trainer.weights().items()})
    return _image(cimc.compile(model, target=chip, calibration=data.some, repeats="none"), chip, "fp32", seed, length, accuracy)


def quantisation_aware(chip: str, seed: int, data: Data, length: Length, checkpoint: Path) -> Image:
    """Trained in FP32 with weights rounded to the chip's levels, then compiled for the chip."""
    sizes = {"epochs": length.epochs, "steps": length.steps, "batch": BATCH, "rate": RATE}
    weights = train_quantised(data.x_train[:, 0], data.y_train, seed=seed, **sizes)
    model = to_onnx(weights)
    logits = cimc.Chip(cimc.compile(model, target="ideal")).run({"input": data.x_test})["logits"]
    accuracy = float((logits.argmax(1) == data.y_test).mean())
    return _image(cimc.compile(model, target=chip, calibration=data.some, repeats="none"), chip, "qat", seed, length, accuracy)


def _fit(chip: cimc.Chip, init: Any, seed: int, data: Data, length: Length, checkpoint: Path) -> cimc.Trainer:
    trainer = cimc.Trainer(chip, batch_size=BATCH, lr=RATE, schedule="cosine", seed=seed, init=init)
    sizes = {"epochs": length.epochs, "steps_per_epoch": length.steps}
    trainer.fit(data.x_train, data.y_train, checkpoint=checkpoint, resume=True, **sizes)
    return trainer


def _image(made: cimc.Chip | cimc.Program, chip: str, kind: str, seed: int, length: Length, accuracy: float) -> Image:
    about = {"kind": kind, "seed": seed, "epochs": length.epochs, "steps_per_epoch": length.steps, "accuracy": accuracy}
    return cimc.export_image(made, target=chip, source="target", training=about)
