"""Types of the values that go from step to step: a segment states those of its inputs."""

from __future__ import annotations

import onnx_ir as ir

from cimc.ir.expand import expand
from cimc.ir.onnx_io import session, split, told_type
from cimc.ir.vmm import is_vmm
from cimc.passes.selection.shapes import infer_missing_shapes


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
            missing[output.name].type = told_type(output.type)


def _untyped(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs if value.name and value.type is None and value.uses()]
