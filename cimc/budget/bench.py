"""Runs a chip with parts of its errors, on samples whose outputs the model has stated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.budget.causes import CAUSES, Cause, Kept, of_read
from cimc.budget.deviations import Deviations
from cimc.budget.scale import StepCheck, scale_of_devices
from cimc.budget.switched import SwitchedLayer
from cimc.errors import DataError
from cimc.ir.classes import Classes
from cimc.ir.sqnr import power_ratio_db
from cimc.report.evaluate import said
from cimc.runtime.chip import Chip
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.executor import Executor, image_count
from cimc.runtime.fitting import ideal_crossbars
from cimc.runtime.output_fit import OutputFit

Array = NDArray[Any]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What one execution makes of the samples."""

    signal: float
    error: float
    """Sums of squares: of the model's output, and of the difference from it."""
    right: F64 | None
    """Whether each label is met, 1 or 0, ``[labels]``; None: there are no labels."""

    @property
    def sqnr_db(self) -> float | None:
        """None: no error, or no signal."""
        return power_ratio_db(self.signal, self.error)

    @property
    def accuracy(self) -> float | None:
        """Share of the labels that are met."""
        return None if self.right is None else float(self.right.mean())


@dataclass
class Samples:
    """Inputs, the model's first output on them, and labels."""

    batches: Sequence[Mapping[str, Any]]
    reference: Sequence[Array]
    labels: Array | None
    classes: Classes

    def outcome(self, outputs: Sequence[Array]) -> Outcome:
        """What outputs come to, batch by batch."""
        signal = error = 0.0
        for expected, made in zip(self.reference, outputs, strict=True):
            if np.shape(made) != np.shape(expected):
                what = f"the model's output has shape {np.shape(expected)}, the chip's {np.shape(made)}"
                raise DataError(what, fix="give the ONNX file that the program was compiled from")
            exact = np.asarray(expected, np.float64)
            signal += float(np.square(exact).sum())
            error += float(np.square(exact - made).sum())
        if self.labels is None:
            return Outcome(signal, error, None)
        judged = np.ones(self.labels.shape, np.bool_) if self.classes.ignore is None else self.labels != self.classes.ignore
        scores = np.concatenate([np.asarray(made) for made in outputs])
        right = (said(scores, self.labels, self.classes) == self.labels)[judged]
        return Outcome(signal, error, right.astype(np.float64))


class Bench:
    """A chip beside its exact execution, on some samples.

    Args:
        chip: At its present time; it is read, not changed.
        samples: To run.
        checks: Steps of the program that are not the model's; their correction is part of an execution without errors.
        advance: Told 1 after each run.
    """

    def __init__(
        self, chip: Chip, samples: Samples, checks: Sequence[StepCheck] = (), advance: Callable[[int], None] | None = None
    ) -> None:
        self.chip, self.samples, self._advance = chip, samples, advance or (lambda _: None)
        self._checks = {check.step: check for check in checks if check.correction is not None}
        program, self._exact = chip.program, ideal_crossbars(chip.program)
        real = {} if program.target.is_ideal else chip.crossbars
        self.scales = {name: scale_of_devices(own, self._exact[name].matrix) for name, own in real.items()}
        self._deviations: dict[str, list[Deviations]] = {}
        self._now: dict[str, Crossbar] = {}
        self._executors: dict[Any, Executor] = {}
        first = accumulate((image_count(program.inputs, batch) for batch in samples.batches), initial=0)
        self._batches = list(zip(samples.batches, first, strict=False))

    def causes_of(self, layer: str) -> set[Cause]:
        """The causes that a layer has."""
        program = self.chip.program
        found: set[Cause] = {"scale"} if any(check.layer == layer for check in self._checks.values()) else set()
        if program.target.is_ideal:
            return found
        return found.union(of_read(program.target), *(copy.causes() for copy in self.deviations(layer)))

    def deviations(self, layer: str) -> list[Deviations]:
        """Of each copy of a layer."""
        if layer not in self._deviations:
            own, matrix = self.chip.crossbars[layer], self._exact[layer].matrix
            self._deviations[layer] = [Deviations(own, matrix, copy, self.scales[layer]) for copy in range(len(own.held))]
        return self._deviations[layer]

    @property
    def layers(self) -> list[str]:
        """Names, in the order of the program."""
        return [layer.name for layer in self.chip.program.layers]

    def whole(self) -> Outcome:
        """The chip as it is."""
        output = self.chip.program.outputs[0].name
        outputs = [self.chip.run(batch, first)[output] for batch, first in self._batches]
        self._advance(1)
        return self.samples.outcome(outputs)

    def kept(self, layers: Mapping[str, Kept]) -> Outcome:
        """The chip, with parts of the errors of some layers; the fits of its outputs act, but for layers without any error.

        Args:
            layers: What is kept, by layer; of other layers everything.
        """
        corrected = {c.step for c in self._checks.values() if layers.get(c.layer, {}).get("scale", 1.0) == 0}
        exact = {name for name, kept in layers.items() if self._switched(name, kept) is self._exact[name]}
        steps = {step.name: step.layer for step in self.chip.program.vmm_steps}
        fits = {step: fit for step, fit in self.chip.fits.items() if steps[step] not in exact}
        return self._run(self.chip.crossbars, layers, corrected, fits)

    def fitted(self, fits: Mapping[str, OutputFit]) -> Outcome:
        """The chip with other fits of its outputs."""
        return self._run(self.chip.crossbars, {}, set(), fits)

    def alone(self, layers: Mapping[str, Kept]) -> Outcome:
        """An exact execution, but for these layers; without fits of outputs, which belong to the errors of the whole die.

        Args:
            layers: What is kept, by layer; of other layers nothing.
        """
        corrected = {c.step for c in self._checks.values() if layers.get(c.layer, {}).get("scale", 0.0) == 0}
        return self._run(self._exact, layers, corrected, {})

    def _run(
        self, base: Mapping[str, Crossbar], layers: Mapping[str, Kept], corrected: set[str], fits: Mapping[str, OutputFit]
    ) -> Outcome:
        self._now.clear()
        self._now.update(base)
        for name, kept in layers.items():
            self._now[name] = self._switched(name, kept)
        key = (base is self._exact, frozenset(corrected), tuple(map(id, fits.values())))
        if key not in self._executors:
            program = self.chip.program
            both = dict(fits)
            for step in corrected:
                correction = self._checks[step].correction
                assert correction is not None
                fit = both.get(step)
                both[step] = correction if fit is None else OutputFit(*correction.after(fit.scale, fit.offset))
            self._executors[key] = Executor(program, self._now, self.chip.noise_seed, fits=both)
        output = self.chip.program.outputs[0].name
        outputs = [self._executors[key].run(batch, first)[output] for batch, first in self._batches]
        self._advance(1)
        return self.samples.outcome(outputs)

    def _switched(self, name: str, kept: Kept) -> Crossbar:
        causes = self.causes_of(name)
        if all(kept.get(cause, 1.0) == 0 for cause in causes):
            return self._exact[name]
        own = self.chip.crossbars[name]
        if all(kept.get(cause, 1.0) == 1 for cause in CAUSES if cause in causes):
            return own
        return SwitchedLayer(own, self.deviations(name), kept)
