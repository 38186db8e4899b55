"""Compiles candidates and measures them on simulated dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.compiler import Model, compile_model
from cimc.ir.cost import macs_by_layer
from cimc.ir.program import Program
from cimc.passes.base import Compilation
from cimc.report.calibrate import batches, fixed_batch
from cimc.report.evaluate import evaluate
from cimc.runtime.chip import Chip
from cimc.targets.description import Target
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Cost

Array = NDArray[Any]
#: Images of one run where the model takes any number.
_BATCH = 256
#: Compilations that are kept: what is compiled to look at its cost is simulated next.
_KEPT = 2


@dataclass(frozen=True)
class Images:
    """Labelled images of one use; no image has two uses."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)

    def cut(self, begin: int, end: int, size: int = 1) -> Images:
        """Those from ``begin`` to ``end``, whole batches of ``size``."""
        end = begin + max(0, min(end, len(self)) - begin) // size * size
        return Images(self.x[begin:end], self.y[begin:end])


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
    _made: dict[str, Compilation] = field(default_factory=dict)
    """The last compilations, by key of the candidate."""

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of an image on the crossbars of the defaults."""
        return sum(macs_by_layer(self.compiled(Candidate()).need_program()).values())

    def compiled(self, candidate: Candidate) -> Compilation:
        """The candidate's compilation, forecast included.

        Raises:
            CimcError: It does not fit the chip, or the model is not usable.
        """
        if candidate.key in self._made:
            return self._made[candidate.key]
        state = compile_model(
            self.trained.get(candidate.tuned_epochs, self.model),
            self.target,
            calibration=self.calibration,
            settings=dict(candidate.settings),
            repeats=dict(candidate.repeats),
            digital=candidate.digital,
            **self.options,
        )
        self._made = dict([*self._made.items(), (candidate.key, state)][-_KEPT:])
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
        fixed, count = fixed_batch(self.fit, program.inputs), len(next(iter(self.fit.values())))
        for seed in seeds:
            held = program
            if fitted:
                chip = Chip(program, seed)
                chip.fit_outputs(batches(self.fit, program.inputs, np.arange(count)))
                held = chip.trained_program()
            result = evaluate(held, images.x, images.y, seed=seed, batch=fixed or _BATCH, reference=self.model)
            found.append(result.accuracy)
            agreements.append(result.agreement)
            reference = result.reference_accuracy
            self.step()
        return Measured(tuple(found), float(np.mean(agreements)), reference, len(images))
