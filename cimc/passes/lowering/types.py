"""Types of the values that go from step to step: a segment states those of its inputs."""

from __future__ import annotations

import onnx_ir as ir

from cimc.ir.expand import expand
from cimc.ir.onnx_io import session, split
from cimc.ir.vmm import is_vmm
from cimc.passes.selection.shapes import infer_missing_shapes

#: ONNX Runtime's words for element types, where they are not the lower-case names of ONNX.
_WORDS = {"tensor(float)": ir.DataType.FLOAT, "tensor(double)": ir.DataType.DOUBLE} | {
    f"tensor({kind.name.lower()})": kind for kind in ir.DataType if kind.name not in ("UNDEFINED", "FLOAT", "DOUBLE")
}


def complete_types(model: ir.Model) -> None:
    """Give the main graph's values their types: by ONNX's inference, else (operators of other domains) by ONNX Runtime's.

    A graph without crossbars is one segment, which needs none; what neither knows, or is no tensor, stays without.
    """
    if not any(is_vmm(node) for node in model.graph):
        return
    infer_missing_shapes(model, _untyped(model))
    missing = {str(value.name): value for value in _untyped(model)}
    if missing:
        for output in session(*split(expand(model)), outputs=list(missing)).get_outputs():
            if output.type in _WORDS:
                missing[output.name].type = ir.TensorType(_WORDS[output.type])


def _untyped(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs if value.name and value.type is None and value.uses()]
