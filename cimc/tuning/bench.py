"""Compiles candidates and measures them on simulated dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.compiler import Model, compile_model
from cimc.data import needed_inputs, preprocess
from cimc.errors import DataError
from cimc.ir.program import Preprocessing, Program
from cimc.passes.base import Compilation
from cimc.report.evaluate import evaluate
from cimc.runtime.chip import Chip
from cimc.targets.description import Target
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Cost

Array = NDArray[Any]
#: Images of one run where the model takes any number.
_BATCH = 256
_FIT_BATCH = 32


@dataclass(frozen=True)
class Images:
    """Labelled images of one use; no image has two uses."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Measured:
    """What simulation of a candidate came to."""

    accuracies: tuple[float, ...]
    """Of each die."""
    agreement: float
    """Share of images on which die and reference say the same, the mean over dice."""
    reference: float
    """Of ONNX Runtime on the model as it was given, on the same images."""
    images: int

    @property
    def accuracy(self) -> float:
        """The median over dice."""
        return float(median(self.accuracies))

    @property
    def lost_points(self) -> float:
        """Percentage points below the reference."""
        return 100 * (self.reference - self.accuracy)

    @property
    def error_points(self) -> float:
        """Standard error of `lost_points` from the number of images: only those on which the two differ can tell them apart.

        Dice see the same images, so their number does not make it smaller.
        """
        return 100 * float(np.sqrt(max(1 - self.agreement, 0.5 / self.images) / self.images))

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "accuracies": list(self.accuracies),
            "agreement": self.agreement,
            "error_points": self.error_points,
            "reference": self.reference,
            "lost_points": self.lost_points,
            "images": self.images,
        }


@dataclass
class Bench:
    """A model, a chip, and images for ranges and fits.

    Args:
        model: As it was given.
        target: The chip.
        calibration: Images that set input scales and ADC ranges, as the model takes them.
        fit: Images that outputs are fitted on, likewise.
        options: Further options of the compilation.
        step: Told after each die.
    """

    model: Model
    target: Target
    calibration: Mapping[str, Array]
    fit: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict)
    step: Callable[[], None] = lambda: None
    trained: dict[int, Model] = field(default_factory=dict)
    """Models after so many epochs of noise-aware training."""
    macs: int = 0
    """Multiply-accumulates of an image, all products on crossbars; known after the first compilation."""

    def compiled(self, candidate: Candidate) -> Compilation:
        """The candidate's compilation, forecast included.

        Raises:
            CimcError: It does not fit the chip, or the model is not usable.
        """
        state = compile_model(
            self.trained.get(candidate.tuned_epochs, self.model),
            self.target,
            calibration=self.calibration,
            settings=dict(candidate.settings),
            repeats=dict(candidate.repeats),
            digital=candidate.digital,
            **self.options,
        )
        if not self.macs:
            self.macs = macs_of(state.need_program())
        return state

    def cost(self, program: Program) -> Cost:
        """Of one image."""
        return Cost.of(program, self.macs)

    def measured(self, program: Program, images: Images, seeds: Sequence[int], *, fitted: bool) -> Measured:
        """Accuracy on dice of these seeds.

        Raises:
            DataError: The images do not suit the model.
        """
        found: list[float] = []
        agreements: list[float] = []
        reference = 0.0
        batch = _fixed_batch(program) or _BATCH
        for seed in seeds:
            held = program
            if fitted:
                chip = Chip(program, seed)
                chip.fit_outputs(_parts(self.fit, _fixed_batch(program) or _FIT_BATCH))
                held = chip.trained_program()
            result = evaluate(held, images.x, images.y, seed=seed, batch=batch, reference=self.model)
            found.append(result.accuracy)
            agreements.append(result.agreement)
            reference = result.reference_accuracy
            self.step()
        return Measured(tuple(found), float(np.mean(agreements)), reference, len(images))


def macs_of(program: Program) -> int:
    """Multiply-accumulates of an image on crossbars, each layer's positions counted; unknown ones as one."""
    sizes = {layer.name: prod(layer.weight.shape) for layer in program.layers}
    return sum((step.positions or 1) * sizes[step.layer] for step in program.vmm_steps)


def input_name(program: Program) -> str:
    """The one input that has no default.

    Raises:
        DataError: There are several.
    """
    needed = needed_inputs(program.inputs)
    if len(needed) != 1:
        raise DataError(f"the model has {len(needed)} inputs, accuracy is defined for one", fix="tune a model of one input")
    return needed[0].name


def as_fed(name: str, x: Array, how: Preprocessing | None) -> dict[str, Array]:
    """Images as the model takes them."""
    return {name: preprocess(x, how)}


def _fixed_batch(program: Program) -> int | None:
    shape = needed_inputs(program.inputs)[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else None


def _parts(inputs: Mapping[str, Array], size: int) -> list[dict[str, Array]]:
    total = len(next(iter(inputs.values()))) // size * size or size
    return [{name: np.asarray(x)[n : n + size] for name, x in inputs.items()} for n in range(0, total, size)]
