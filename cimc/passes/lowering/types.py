"""Types of the values that go from step to step: a segment states those of its inputs."""

from __future__ import annotations

import onnx_ir as ir

from cimc.passes.lowering.stages import is_own
from cimc.passes.selection.shapes import infer_shapes


def complete_types(model: ir.Model) -> None:
    """Give the main graph's values their types.

    A graph without crossbars and random operators is one segment, which needs none; what nobody can tell, or is no tensor,
    stays without.
    """
    if any(is_own(node) for node in model.graph):
        infer_shapes(model, [v for node in model.graph for v in node.outputs if v.name and v.type is None and v.uses()])
