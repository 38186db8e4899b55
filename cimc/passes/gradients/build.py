"""Reverse-mode differentiation of a digital graph: backward nodes appended to it, forward activations reused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from cimc.errors import ModelError
from cimc.passes.gradients import (
    activations,
    arithmetic,
    convolution,
    einsum,
    losses,
    movement,
    norms,
    pooling,
    products,
    quantisation,
    reductions,
    resize,
    scatter,
)
from cimc.passes.gradients.registry import rule_for
from cimc.passes.gradients.rule import FLOATS, Rule, Tape, dims_of

#: Opset of training graphs: the first with RMSNormalization, and one that ONNX Runtime 1.32 runs whole on the CPU
#: (training-mode BatchNormalization, Gelu, GroupNormalization with a scale a channel, scatter with reduction).
OPSET = 23

#: Importing a family registers its rules.
FAMILIES = (
    activations,
    arithmetic,
    convolution,
    einsum,
    losses,
    movement,
    norms,
    pooling,
    products,
    quantisation,
    reductions,
    resize,
    scatter,
)


@dataclass(frozen=True)
class Backward:
    """What `add_backward` appended.

    Attributes:
        gradients: Gradient of the loss by name of the value asked for, of its shape and type.
        nodes: Backward nodes in order; ``metadata_props["cimc.gradient_of"]`` names the forward node.
        saved: Forward values that backward nodes read: what a training step must keep.
    """

    gradients: Mapping[str, ir.Value]
    nodes: tuple[ir.Node, ...]
    saved: tuple[ir.Value, ...]


def backward(model: ir.Model, loss: str, wrt: Sequence[str]) -> ir.Model:
    """A copy of the model that also gives ``<name>.grad`` for each name in ``wrt``, after its own outputs.

    Raises:
        ModelError: as `add_backward`, or if a value of the model has such a name.
    """
    step = model.clone()
    taken = {v.name for node in step.graph for v in node.outputs} | {v.name for v in step.graph.inputs}
    result = add_backward(step, loss, wrt)
    for name in dict.fromkeys(wrt):
        value = result.gradients[name]
        if f"{name}.grad" in taken:
            raise ModelError(f"the model already has a value '{name}.grad'", fix="rename it")
        node = ir.node("Identity", [value], name=f"{name}.grad")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{name}.grad", value.type, value.shape
        step.graph.append(node)
        step.graph.outputs.append(node.outputs[0])
    return step


def add_backward(model: ir.Model, loss: str, wrt: Sequence[str]) -> Backward:
    """Append to the graph the nodes that compute the gradients of ``loss``, a real scalar, by the values ``wrt``.

    Reverse accumulation: each node on a path from ``wrt`` to the loss hands the gradients of its outputs to its rule, the
    last node first; gradients of a value with several readers add up. Nodes off these paths, and those that only pass
    integers or booleans on, need no rule. A value without influence on the loss gets zeros.

    Types and shapes are inferred first. What the caller has annotated is kept and used: shape inference does not see
    through a ``cimc::Vmm``, and some rules want the rank of what follows it.

    Raises:
        ModelError: another opset than `OPSET`, an unknown name, a loss that is no scalar, an operator without a rule.
    """
    graph = model.graph
    if graph.opset_imports.get("") != OPSET:
        raise ModelError(f"the training graph needs opset {OPSET}, this one has {graph.opset_imports.get('')}",
                         fix=f"convert the model to opset {OPSET}")  # fmt: skip
    _infer_types(model)
    values = {v.name: v for v in [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)] if v.name}
    for name in [loss, *wrt]:
        if name not in values:
            raise ModelError(f"the graph has no value '{name}' to differentiate", fix="check the names with Netron")
    _check_loss(values[loss])
    sources = {name: values[name] for name in wrt}
    for name, value in sources.items():
        if value.dtype is not None and value.dtype not in FLOATS:
            raise ModelError(f"'{name}' is {value.dtype.name} and has no gradient", fix="ask for real values only")
    nodes = list(graph)
    path = _path(nodes, values[loss], set(sources.values()))
    tape = Tape(graph)
    grads: dict[ir.Value, list[ir.Value]] = {}
    if values[loss] in path:
        grads[values[loss]] = [_fill(tape, values[loss], 1.0)]
    for node in reversed(nodes):
        if any(output in grads for output in node.outputs):
            _apply(tape, node, path, grads)
    found = {name: _total(tape, value, grads.get(value, [])) for name, value in sources.items()}
    _remove_unused(graph, tape, set(found.values()))
    made = set(tape.nodes)
    read = [v for node in tape.nodes for v in node.inputs if v is not None and v.producer() not in made]
    return Backward(found, tuple(tape.nodes), tuple(dict.fromkeys(read)))


def _infer_types(model: ir.Model) -> None:
    """Shape inference, then types through operators that it does not know, by their schema (a Vmm's product is as its input)."""
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for node in model.graph:
        version = model.graph.opset_imports.get(node.domain, 1)
        if all(v.type is not None for v in node.outputs) or not onnx.defs.has(node.op_type, node.domain):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        known = {f.type_str: v.type for f, v in zip(schema.inputs, node.inputs, strict=False) if v is not None and v.type}
        for formal, value in zip(schema.outputs, node.outputs, strict=False):
            value.type = value.type or known.get(formal.type_str)


def _check_loss(value: ir.Value) -> None:
    dims = dims_of(value)
    if value.dtype not in FLOATS or any(d != 1 for d in dims or ()):
        kind = value.dtype.name if value.dtype else "unknown type"
        raise ModelError(f"the loss must be one real number, '{value.name}' is {kind} of shape {list(dims or ())}",
                         fix="reduce it with ReduceMean or ReduceSum")  # fmt: skip


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node, and what its subgraphs take from outside."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        else:
            continue
        for graph in subgraphs:
            yield from graph.outputs
            for inner in graph:
                yield from _reads(inner)


def _path(nodes: Sequence[ir.Node], loss: ir.Value, sources: set[ir.Value]) -> set[ir.Value]:
    """Real values, and codes that stand for such, that depend on a source and that the loss depends on."""
    reached = set(sources)
    for node in nodes:
        if any(v in reached for v in _reads(node)):
            codes = {v.dtype for v in node.inputs if v is not None and v in reached}
            if node.op_type == "QuantizeLinear":
                codes.add(node.outputs[0].dtype)
            reached.update(v for v in node.outputs if v.dtype is None or v.dtype in FLOATS or v.dtype in codes)
    wanted = {loss}
    for node in reversed(nodes):
        if any(v in wanted for v in node.outputs):
            wanted.update(_reads(node))
    return reached & wanted


def _fill(tape: Tape, value: ir.Value, number: float) -> ir.Value:
    """A tensor of the shape and type of ``value``, full of one number."""
    scalar = tape.constant(np.asarray(number), value.dtype or ir.DataType.FLOAT)
    shape = tape.emit("Shape", [value], {}, "", str(value.name), 1)
    return tape.emit("Expand", [scalar, *shape], {}, "", str(value.name), 1)[0]


def _total(tape: Tape, value: ir.Value, parts: Sequence[ir.Value]) -> ir.Value:
    """Sum of what the readers of a value contributed; zeros without any."""
    if not parts:
        total = _fill(tape, value, 0.0)
    else:
        total = parts[0] if len(parts) == 1 else tape.emit("Sum", parts, {}, "", str(value.name), 1)[0]
    if total.shape is None:
        total.shape = value.shape
    if total.type is None and value.dtype in FLOATS:
        total.type = value.type
    return total


def _apply(tape: Tape, node: ir.Node, path: set[ir.Value], grads: dict[ir.Value, list[ir.Value]]) -> None:
    """Run the rule of one node and hand its results on to the inputs."""
    if not any(v in path for v in _reads(node)):
        return
    needed = [v in path for v in node.inputs]
    rule = rule_for(node)
    outputs: list[ir.Value | None] = []
    for value in node.outputs:
        if value in grads:
            grads[value] = [_total(tape, value, grads[value])]
        outputs.append(grads[value][0] if value in grads else None)
    context = Rule(tape, node, outputs, needed)
    for source, wanted, term in zip(node.inputs, needed, rule(context), strict=False):
        if source is not None and wanted and term is not None:
            grads.setdefault(source, []).append(term.value)


def _remove_unused(graph: ir.Graph, tape: Tape, keep: set[ir.Value]) -> None:
    """Drop backward nodes that no wanted gradient reads: rules write the gradients of all inputs."""
    for node in reversed(tape.nodes):
        if not any(v in keep or v.uses() for v in node.outputs):
            graph.remove(node, safe=True)
    tape.nodes = [node for node in tape.nodes if node.graph is graph]
