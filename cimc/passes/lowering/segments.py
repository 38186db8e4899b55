"""Digital segments: the nodes of one stage as an ONNX model of their own."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from cimc.errors import ModelError
from cimc.ir.bodies import bodies, used_values


@dataclass(frozen=True)
class Segment:
    """A digital segment before it becomes a step."""

    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value]
    outputs: Sequence[ir.Value]
    initializers: Sequence[ir.Value]


def cut(nodes: Sequence[ir.Node], needed: set[ir.Value], initializers: set[ir.Value]) -> Segment:
    """The segment of ``nodes``; ``needed`` are the values that other steps or the user read."""
    made = {value for node in nodes for value in node.outputs}
    used = dict.fromkeys(value for node in nodes for value in used_values(node))
    within_bodies = _made_within_bodies(nodes)
    outside = [value for value in used if value not in made and value not in within_bodies]
    return Segment(
        nodes,
        inputs=[value for value in outside if value not in initializers],
        outputs=[value for node in nodes for value in node.outputs if value in needed],
        initializers=[value for value in outside if value in initializers],
    )


def _made_within_bodies(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    made: set[ir.Value] = set()
    for node in nodes:
        for body in bodies(node):
            made.update(body.inputs, body.initializers.values(), *(inner.outputs for inner in body))
            made |= _made_within_bodies(body)
    return made


def to_model(segment: Segment, name: str, model: ir.Model, outside: Container[str]) -> bytes:
    """The segment as a serialised ONNX model at the opset of ``model``; initializers in ``outside`` are external data."""
    graph = onnx.GraphProto(name=name)
    graph.node.extend(ir.serde.serialize_node(node) for node in segment.nodes)
    graph.input.extend(_typed(value) for value in segment.inputs)
    graph.output.extend(_typed(value) for value in segment.outputs)
    for value in segment.initializers:
        graph.initializer.append(ir.serde.serialize_tensor(_tensor(value, outside)))
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=opsets)
    proto.functions.extend(ir.serde.serialize_function(function) for function in model.functions.values())
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised


def _tensor(value: ir.Value, outside: Container[str]) -> ir.TensorProtocol:
    name, tensor = str(value.name), value.const_value
    if tensor is None:
        raise RuntimeError(f"initializer {name} has no data")
    if name not in outside:
        return tensor
    return ir.ExternalTensor(name, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def _typed(value: ir.Value) -> onnx.ValueInfoProto:
    """Name and type; dimensions only where the model's user declared them, as inferred ones may be too narrow."""
    if value.type is None and value.is_graph_output():
        return onnx.ValueInfoProto(name=value.name)  # a map, see value_spec
    if value.type is None:
        raise ModelError(
            f"the type of value {value.name}, which goes from one segment to another, is not known",
            where=f"node {getattr(value.producer(), 'name', '?')}",
            fix="state its type in the model (value_info)",
        )
    proto = ir.serde.serialize_value(value)
    if not value.is_graph_input() and proto.type.HasField("tensor_type"):
        for dimension in proto.type.tensor_type.shape.dim:
            dimension.Clear()
    return proto
