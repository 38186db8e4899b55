"""Fit a chip's outputs on some images of a data file, and tell on others what it brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import ValueSpec
from cimc.runtime.chip import Chip
from cimc.runtime.digital import Value
from cimc.runtime.executor import image_count
from cimc.runtime.fitting import StepFit
from cimc.runtime.output_fit import Method

#: Fewer images leave errors that more would correct; a note says so.
FEW_IMAGES = 64

#: Images of a run where the model takes any number.
_BATCH = 32


@dataclass(frozen=True)
class FittedStep:
    """One crossbar step: how its channels were fitted, and its SQNR (dB) before and after; None: exact, or no signal."""

    fit: StepFit
    sqnr_db_before: float | None
    sqnr_db_after: float | None

    def to_dict(self) -> dict[str, Any]:
        return {**self.fit.to_dict(), "sqnr_db_before": self.sqnr_db_before, "sqnr_db_after": self.sqnr_db_after}


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` came to."""

    images: int
    check_images: int
    """Images behind the SQNR."""
    held_out: bool
    """Whether none of them was fitted on."""
    steps: list[FittedStep]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "steps": [step.to_dict() for step in self.steps]}


def calibrate(
    chip: Chip, images: Sequence[Mapping[str, Value]], check: Sequence[Mapping[str, Value]], method: Method, ranges: bool
) -> Calibration:
    """Fit the chip's outputs, see `Chip.fit_outputs`.

    Args:
        chip: Changed in place; no device is written.
        images: To fit on: batches, each a dict of arrays by input name.
        check: To measure the SQNR on; empty: the same images.
        method: Of the fit.
        ranges: Choose input gains and ADC ranges on the chip first.

    Raises:
        DataError: Inputs do not suit the model.
    """
    specs = chip.program.inputs
    count = sum(image_count(specs, batch) for batch in images)
    notes = [] if count >= FEW_IMAGES else [f"{count} images are few to fit on: {FEW_IMAGES} or more leave less error"]
    if not check:
        notes.append("the SQNR is that of the images that were fitted on; of other images it is lower")
    shown = check or images
    before = chip.sqnr(shown)
    if ranges:
        chip.calibrate(images)
    fits = chip.fit_outputs(images, method)
    after = chip.sqnr(shown)
    steps = [FittedStep(fit, before[fit.name], after[fit.name]) for fit in fits]
    if all(fit.unchanged == fit.channels for fit in fits):
        notes.append("nothing was fitted: no channel shows an error of scale or mean that these images can tell from noise")
    return Calibration(count, sum(image_count(specs, batch) for batch in shown), bool(check), steps, notes)


def fixed_batch(inputs: Mapping[str, Value], specs: Sequence[ValueSpec]) -> int | None:
    """Images that the model takes in each run; None: any number."""
    sizes = {spec.name: spec.shape[0] if spec.shape else None for spec in specs}
    lead = next((name for name, x in inputs.items() if isinstance(x, np.ndarray) and x.ndim), None)
    size = None if lead is None else sizes[lead]
    return size if isinstance(size, int) else None


def split(total: int, images: int, batch: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images to fit on, spread evenly over all, and of the others; whole batches where their size is fixed."""
    size = batch or 1
    count = min(max(images, size), total) // size * size
    chosen = np.arange(count) * total // max(1, count)
    others = np.setdiff1d(np.arange(total), chosen)
    return chosen, others[: len(others) // size * size]


def batches(inputs: Mapping[str, Value], specs: Sequence[ValueSpec], chosen: NDArray[np.int64]) -> list[dict[str, Value]]:
    """The chosen images, a dict for each run; inputs that are no images go into every run."""
    total, fixed = image_count(tuple(specs), inputs), fixed_batch(inputs, specs)
    sizes = {spec.name: spec.shape[0] if spec.shape else None for spec in specs}
    cut = [
        name
        for name, x in inputs.items()
        if isinstance(x, np.ndarray) and x.ndim and len(x) == total and (not isinstance(sizes[name], int) or sizes[name] == fixed)
    ]
    size = fixed or _BATCH
    parts = [chosen[n : n + size] for n in range(0, len(chosen), size)]
    return [{name: np.asarray(x)[part] if name in cut else x for name, x in inputs.items()} for part in parts]
