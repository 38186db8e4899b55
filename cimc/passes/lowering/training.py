"""The operators of a training step, each a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import onnx_ir as ir

from cimc.errors import ModelError
from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv, Geometry
from cimc.ir.program import MaskStep, OuterStep, PoolBackwardStep, Step, UpdateStep, VmmBackwardStep
from cimc.ir.vmm import geometry_of

#: Positions of one image of an activation under a geometry, None where the shape is not static.
Positions = Callable[[ir.Value, Geometry], int | None]


def is_update(node: ir.Node | None) -> bool:
    """Whether the node is a parameter's update."""
    return node is not None and node.domain == DOMAIN and node.op_type == "Update"


def updated_parameters(graph: ir.Graph) -> tuple[str, ...]:
    """Initializers that training changes and no crossbar holds."""
    updates = (node for node in graph if is_update(node) and "layer" not in node.attributes)
    return tuple(str(node.inputs[0].name) for node in updates if node.inputs[0] is not None)


def training_step(node: ir.Node, positions: Positions) -> Step:
    """The step of a node of the dialect other than a Vmm.

    Raises:
        ModelError: The dialect has no such operator.
    """
    name, attributes = str(node.name), node.attributes
    values = [cast(ir.Value, value) for value in node.inputs]
    inputs = tuple(str(value.name) for value in values)
    match node.op_type:
        case "DropoutMask":
            ratio = attributes.get_float("ratio")
            return MaskStep(name=name, input=inputs[0], output=str(node.outputs[0].name), ratio=ratio)
        case "Update":
            layer, action = attributes.get_string("layer", None), attributes.get_string("action", "descend")
            scales = cast(Any, attributes.get_string("scales", "none"))
            return UpdateStep(
                name=name, parameter=inputs[0], layer=layer, inputs=inputs[1:], action=cast(Any, action), scales=scales
            )
        case "MaxPoolBackward":
            windows = cast(Conv, geometry_of(node))
            gradient, activation, pooled = inputs
            return PoolBackwardStep(
                name=name,
                input=gradient,
                activation=activation,
                pooled=pooled,
                output=str(node.outputs[0].name),
                geometry=windows,
            )
        case "VmmBackward" | "Outer":
            pass
        case _:
            raise ModelError(f"the dialect has no operator {node.op_type}", where=f"node {name}")
    geometry = geometry_of(node)
    x = values[2] if node.op_type == "VmmBackward" else values[0]
    common: dict[str, Any] = {
        "name": name,
        "layer": attributes.get_string("layer"),
        "output": str(node.outputs[0].name),
        "geometry": geometry,
        "alpha": attributes.get_float("alpha", 1.0),
        "positions": positions(x, geometry),
        "nodes": (name,),
    }
    if node.op_type == "Outer":
        return OuterStep(input=inputs[0], gradient=inputs[1], **common)
    mode, ste = attributes.get_string("mode", "digital"), attributes.get_string("ste", "pass")
    return VmmBackwardStep(input=inputs[0], activation=inputs[2], mode=cast(Any, mode), ste=cast(Any, ste), **common)
