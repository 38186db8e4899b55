"""Fit the outputs of a chip to those of an ideal execution of its program; see `cimc.runtime.output_fit` for one step.

Both executions run the program side by side, one crossbar step after the other, in firing order. A step gets inputs that the fits
of the steps before it have corrected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from cimc.ir.program import Program, VmmStep, output_channels, weight_matrix
from cimc.ir.sqnr import power_ratio_db
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.digital import Value
from cimc.runtime.draws import Stream
from cimc.runtime.executor import Executor, image_count
from cimc.runtime.output_fit import Method, OutputFit, by_channel, fit
from cimc.targets.load import load_target

Batches = Sequence[Mapping[str, Value]]
#: A step, and the values after it of each batch: of the chip, and of the ideal execution.
_Stop = tuple[VmmStep, list[dict[str, Value]], list[dict[str, Value]]]


@dataclass(frozen=True)
class StepFit:
    """What fitting one crossbar step came to: how many of its output channels have which coefficients."""

    name: str
    layer: str
    channels: int
    scaled: int
    """A scale, and an offset where it is needed."""
    shifted: int
    """An offset alone."""

    @property
    def unchanged(self) -> int:
        """Neither: the data show no error, or too little of the channel."""
        return self.channels - self.scaled - self.shifted

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unchanged": self.unchanged}


def ideal_executor(program: Program, seed: int, deterministic: bool = False) -> Executor:
    """Runs the program with exact products of its weights; random operators draw as on the chip of that seed."""
    target = load_target("ideal")
    return Executor(program.model_copy(update={"target": target}), ideal_crossbars(program), seed, deterministic)


def ideal_crossbars(program: Program) -> dict[str, Crossbar]:
    """Layers that multiply exactly by the program's weights, by name."""
    target = load_target("ideal")
    return {
        layer.name: Crossbar(layer, weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], target)
        for layer in program.layers
    }


def fit_steps(
    program: Program, chip: Executor, ideal: Executor, batches: Batches, method: Method, stream: Stream
) -> tuple[dict[str, OutputFit], list[StepFit]]:
    """Fit every crossbar step.

    Args:
        program: Of the chip.
        chip: Without fits.
        ideal: From `ideal_executor`.
        batches: Inputs by name, a dict for each run.
        method: See `cimc.runtime.output_fit`.
        stream: Of read noise.

    Returns:
        The fits by step name, those that change something; and a row for each step.

    Raises:
        DataError: Inputs do not suit the model.
    """
    layers = {layer.name: layer for layer in program.layers}
    fits, rows = {}, []
    for step, ours, theirs in _side_by_side(program, chip, ideal, batches, stream):
        layer, geometry, output = layers[step.layer], step.geometry, step.output
        parts = ((by_channel(a[output], geometry), by_channel(b[output], geometry)) for a, b in zip(ours, theirs, strict=True))
        images = sum(geometry.images(np.shape(values[step.input])) for values in ours)
        found = fit(parts, output_channels(step, layer), images, method)
        if found.changes:
            fits[step.name] = found
            for values in ours:
                values[output] = found.applied(values[output], geometry)
        rows.append(StepFit(step.name, layer.name, len(found.scale), *found.counts))
    return fits, rows


def sqnr_of_steps(program: Program, chip: Executor, ideal: Executor, batches: Batches, stream: Stream) -> dict[str, float | None]:
    """Signal over error of each crossbar step's outputs against the ideal execution, dB; None: exact, or no signal."""
    found: dict[str, float | None] = {}
    for step, ours, theirs in _side_by_side(program, chip, ideal, batches, stream):
        signal = noise = 0.0
        for mine, other in zip(ours, theirs, strict=True):
            exact = np.asarray(other[step.output], np.float64)
            signal += float(np.square(exact).sum())
            noise += float(np.square(exact - mine[step.output]).sum())
        found[step.name] = power_ratio_db(signal, noise)
    return found


def _side_by_side(program: Program, chip: Executor, ideal: Executor, batches: Batches, stream: Stream) -> Iterator[_Stop]:
    first = accumulate((image_count(program.inputs, batch) for batch in batches), initial=0)
    pairs = [(batch, image) for batch, image in zip(batches, first, strict=False)]
    runs = [[executor.products(batch, image, stream) for batch, image in pairs] for executor in (chip, ideal)]
    for step in program.vmm_steps:
        ours, theirs = ([next(run)[1] for run in own] for own in runs)
        yield step, ours, theirs
