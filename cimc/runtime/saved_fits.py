"""Fitted scales and offsets as arrays of a saved chip, back, and as digital factors of a program."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.ir.program import FIT_PARTS, Program
from cimc.runtime.output_fit import OutputFit


def saved_fits(program: Program) -> dict[str, OutputFit]:
    """The fits of the chip that a program holds, by step name.

    Raises:
        ArtifactError: A step has a scale without an offset, or an offset without a scale.
    """
    fits = {}
    for step in program.vmm_steps:
        scale, offset = (program.tensors.get(f"state/{step.name}/{part}") for part in FIT_PARTS)
        if scale is not None and offset is not None:
            fits[step.name] = OutputFit(np.array(scale), np.array(offset))
        elif scale is not None or offset is not None:
            raise ArtifactError("a fitted scale and offset must stand together", where=f"step {step.name}", fix="fit it again")
    return fits


def fit_state(fits: Mapping[str, OutputFit]) -> dict[str, NDArray[np.float64]]:
    """The fits as arrays of a saved chip, by name without ``state/``."""
    return {
        f"{name}/{part}": array
        for name, found in fits.items()
        for part, array in zip(FIT_PARTS, (found.scale, found.offset), strict=True)
    }


def without_fits(program: Program) -> Program:
    """The program without fits of the chip in it."""
    tensors = {
        name: tensor
        for name, tensor in program.tensors.items()
        if not (name.startswith("state/") and name.rpartition("/")[2] in FIT_PARTS)
    }
    provenance = program.provenance.model_copy(update={"fitted": ""})
    return program.model_copy(update={"tensors": tensors, "provenance": provenance})


def with_factors(program: Program, fits: Mapping[str, OutputFit]) -> Program:
    """The program whose digital scales and offsets are those of its steps with the fits behind them."""
    tensors = dict(program.tensors)
    for step in program.vmm_steps:
        if step.name in fits:
            names = [f"{word}/{step.name}" for word in ("scale", "offset")]
            factors = fits[step.name].after(*(program.tensors.get(name) for name in names))
            dtype = np.float64 if step.dtype == "float64" else np.float32
            tensors |= {name: factor.astype(dtype) for name, factor in zip(names, factors, strict=True)}
    return program.model_copy(update={"tensors": tensors})
