"""The right outputs of a chip's program, and the steps of the program that do not compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import from_proto

from cimc.budget.scale import StepCheck, check_steps
from cimc.compiler import Model
from cimc.data import needed_inputs
from cimc.errors import DataError
from cimc.frontend.load import load
from cimc.ir.program import Program, RandomStep
from cimc.report.compare import reference_values, specialised
from cimc.report.reference import Reference, named
from cimc.runtime.chip import Chip
from cimc.runtime.executor import image_count
from cimc.runtime.fitting import ideal_executor


def draws_numbers(program: Program) -> bool:
    """Whether the program has random operators, so that no two executions of the model agree."""
    return any(isinstance(step, RandomStep) for step in program.steps)


def reference_outputs(chip: Chip, model: Model | None, runs: Sequence[Mapping[str, Any]]) -> tuple[list[NDArray[Any]], list[str]]:
    """The right outputs, batch by batch, and what the user should know of them.

    Args:
        chip: Its program's first output is meant.
        model: Run by ONNX Runtime; None: the program's own graph.
        runs: Batches of inputs by name.

    Raises:
        DataError: The model is another network's, or the output is no array of numbers.
    """
    program = chip.program
    output = program.outputs[0].name
    if draws_numbers(program):
        first = np.cumsum([0, *(image_count(program.inputs, batch) for batch in runs)])
        exact = ideal_executor(program, chip.noise_seed)
        found = [exact.run(batch, int(n))[output] for batch, n in zip(runs, first, strict=False)]
        note = "the model draws random numbers, so an exact execution of the program with the chip's draws is the reference"
        return _real(found, output), [note]
    graph = from_proto(program.to_onnx()) if model is None else specialised(load(model).model, program)
    names = [spec.name for spec in needed_inputs(program.inputs)]
    runner = Reference(graph, named(model), names, [output], bound=program.bound_values())
    return _real([runner.run(batch)[output] for batch in runs], output), []


def _real(values: Sequence[Any], output: str) -> list[NDArray[Any]]:
    if not all(isinstance(value, np.ndarray) and value.dtype.kind in "fiu" for value in values):
        raise DataError("is no array of numbers, so there is no error to explain", where=f"output {output}")
    return list(values)


def checks_of(chip: Chip, model: Model | None, batch: Mapping[str, Any]) -> list[StepCheck]:
    """The steps that are not the model's, see `check_steps`, by one batch."""
    program = chip.program
    names = tuple(name for step in program.vmm_steps for name in (step.input, step.output))
    given = from_proto(program.to_onnx()) if model is None else model
    values = reference_values(given, batch, names, program if model is not None else None) | dict(batch)
    return check_steps(program, ideal_executor(program, chip.noise_seed), values, image_count(program.inputs, batch))
