"""How far a chip's values lie from ONNX Runtime's, layer by layer and output by output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.compiler import Model, compile_model
from cimc.frontend.load import load
from cimc.ir.bound import without_bound
from cimc.ir.program import Program
from cimc.ir.sqnr import power_ratio_db
from cimc.report.reference import Reference, named, same_shape
from cimc.runtime.chip import Chip


@dataclass(frozen=True)
class Difference:
    """Of one output: SQNR in dB (None where the chip is exact or the reference all zero) and the largest error."""

    name: str
    sqnr_db: float | None
    largest_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LayerDifference:
    """Of one crossbar step: with the error of all layers before it, and its own (from ONNX Runtime's input)."""

    name: str
    layer: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    largest_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sqnr_db(reference: NDArray[Any], value: NDArray[Any]) -> float | None:
    """Signal to quantisation noise ratio, ``10 log10(sum r^2 / sum (r - v)^2)``."""
    exact = reference.astype(np.float64)
    return power_ratio_db(float(np.square(exact).sum()), float(np.square(exact - value).sum()))


def reference_values(
    model: Model, inputs: Mapping[str, Any], also: tuple[str, ...] = (), program: Program | None = None
) -> dict[str, Any]:
    """ONNX Runtime's outputs of ``model``, and those of the intermediate values ``also`` that the model has.

    Args:
        model: The model.
        inputs: By name.
        also: Names of intermediate values.
        program: What the model was compiled to: inputs that were bound have their values, and branches that it has taken are
            taken, so that values in them have names.

    Raises:
        DataError: ONNX Runtime does not take the inputs, a bound input has another value, or the model is another network's than
            ``program``.
    """
    loaded = load(model).model
    if program is not None:
        inputs = without_bound(inputs, program.bound_values(), "inputs")
        loaded = specialised(loaded, program)
    outputs = [spec.name for spec in program.outputs] if program is not None else []
    return Reference(loaded, named(model), inputs, outputs, also).run(inputs)


def specialised(model: ir.Model, program: Program) -> ir.Model:
    """The model with the bound inputs and the fixed sizes of the program; as it is where that changes nothing."""
    inputs = {str(value.name) for value in model.graph.inputs}
    bound = {name: value for name, value in program.bound_values().items() if name in inputs}
    if not bound and not any(node.op_type == "If" for node in model.graph):
        return model
    shapes = {
        spec.name: [size if isinstance(size, int) else None for size in spec.shape]
        for spec in program.inputs
        if spec.type == "tensor" and spec.shape is not None and spec.name in inputs
    }
    return compile_model(model, "ideal", bind=bound, shapes=shapes, stop_after="specialise").model


def compare_outputs(outputs: Mapping[str, Any], reference: Mapping[str, Any]) -> list[Difference]:
    """Per numeric output, in the model's order."""
    rows = []
    for name, value in outputs.items():
        expected = reference.get(name)
        if isinstance(expected, np.ndarray) and isinstance(value, np.ndarray) and np.issubdtype(expected.dtype, np.number):
            same_shape(name, expected, value)
            rows.append(Difference(name, sqnr_db(expected, value), _largest_error(expected, value)))
    return rows


def compare_layers(chip: Chip, model: Model, inputs: Mapping[str, Any]) -> list[LayerDifference]:
    """Per crossbar step whose output the user's model has too, worst own SQNR first.

    Raises:
        DataError: Inputs do not suit the model, a bound one has another value, or it is another network's.
    """
    inputs = without_bound(inputs, chip.program.bound_values(), "inputs")
    steps = chip.program.vmm_steps
    names = tuple(step.output for step in steps)
    wanted = (*names, *(step.input for step in steps))
    reference = reference_values(model, inputs, wanted, chip.program) | inputs
    values = chip.run(inputs, 0, keep=names)
    rows = []
    for step in steps:
        if step.output not in reference:
            continue  # made by an unrolled or split node
        expected, value = reference[step.output], values[step.output]
        same_shape(step.output, expected, value)
        own = chip.multiply(step.name, reference[step.input]) if step.input in reference else None
        own_db = None if own is None else sqnr_db(expected, own)
        rows.append(LayerDifference(step.name, step.layer, sqnr_db(expected, value), own_db, _largest_error(expected, value)))
    return sorted(rows, key=lambda row: np.inf if row.own_sqnr_db is None else row.own_sqnr_db)


def _largest_error(expected: NDArray[Any], value: NDArray[Any]) -> float:
    return float(np.abs(expected.astype(np.float64) - value).max()) if expected.size else 0.0
