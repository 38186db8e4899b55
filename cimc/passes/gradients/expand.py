"""Operators without a rule that ONNX itself defines by simpler ones (Attention, CenterCropPad, …) are written out."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx import helper

from cimc.ir.names import Names
from cimc.passes.gradients.registry import has_rule
from cimc.passes.gradients.tape import name_of


def write_out(model: ir.Model, nodes: Iterable[ir.Node]) -> bool:
    """Replace those of ``nodes`` that have no rule, but a body in the ONNX standard, by that body; True if any was.

    One node at a time, as a model of its own: no weight is copied. Values must have types.
    """
    todo = [node for node in nodes if not has_rule(node) and _has_body(model, node)]
    for node in todo:
        _replace(model, node)
    return bool(todo)


def _has_body(model: ir.Model, node: ir.Node) -> bool:
    version = model.graph.opset_imports.get(node.domain, 0)
    if node.domain or not onnx.defs.has(node.op_type):
        return False
    schema = onnx.defs.get_schema(node.op_type, version)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def spell_out_defaults(node: onnx.NodeProto, opset: int) -> None:
    """ONNX's inliner drops what refers to an attribute that is not there."""
    given = {attribute.name for attribute in node.attribute}
    known = onnx.defs.get_schema(node.op_type, opset).attributes.values()
    node.attribute.extend(a.default_value for a in known if a.default_value.name and a.name not in given)


def _replace(model: ir.Model, node: ir.Node) -> None:
    inputs = list(dict.fromkeys(v for v in node.inputs if v is not None))
    proto = ir.to_proto(node)
    spell_out_defaults(proto, model.graph.opset_imports[""])
    alone = helper.make_graph([proto], "one", [ir.to_proto(v) for v in inputs], [ir.to_proto(v) for v in node.outputs if v.name])
    opsets = [helper.make_opsetid("", model.graph.opset_imports[""])]
    inlined = onnx.inliner.inline_selected_functions(
        helper.make_model(alone, opset_imports=opsets, ir_version=10), [("", node.op_type)], inline_schema_functions=True
    )
    body = ir.from_proto(inlined).graph
    names = Names({v.name for n in model.graph for v in n.outputs} | {n.name for n in model.graph})
    made = list(body)
    for index, inner in enumerate(made):
        inner.name = names.fresh(f"{name_of(node)}.{inner.op_type}.{index}")
        for value in inner.outputs:
            value.name = names.fresh(f"{name_of(node)}.{value.name}") if value.name else value.name
    for formal, value in zip(body.inputs, inputs, strict=True):
        formal.replace_all_uses_with(value)
    old = [v for v in node.outputs if v.name]
    new = list(body.outputs)
    body.outputs.clear()
    body.remove(made)
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], made, old, new)
