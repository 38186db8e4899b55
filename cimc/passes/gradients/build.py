"""Reverse-mode differentiation of a digital graph: backward nodes appended to it, forward activations reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

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
from cimc.passes.gradients.expand import write_out
from cimc.passes.gradients.loops import refuse_loops
from cimc.passes.gradients.registry import rule_for
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.survey import survey
from cimc.passes.gradients.tape import FLOATS, Tape
from cimc.passes.gradients.term import dims_of

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
    integers or booleans on, need no rule. An operator without a rule that ONNX defines by simpler ones is written out. A
    value without influence on the loss gets zeros.

    Types and shapes are inferred first. What the caller has annotated is kept and used: shape inference does not see
    through a ``cimc::Vmm``, and some rules want the rank of what follows it.

    Raises:
        ModelError: another opset than `survey.OPSET`, an unknown name, a loss that is no scalar, an operator without a rule,
            a loop or branch.
    """
    found = survey(model, loss, wrt)
    if write_out(model, [n for n in found.nodes if found.between(n)]):
        found = survey(model, loss, wrt)
    refuse_loops(node for node in found.nodes if found.between(node))
    graph = model.graph
    tape = Tape(graph)
    grads: dict[ir.Value, list[ir.Value]] = {}
    if found.loss in found.path:
        grads[found.loss] = [_fill(tape, found.loss, 1.0)]
    for node in reversed(found.nodes):
        if found.between(node) and any(output in grads for output in node.outputs):
            _apply(tape, node, found.path, grads)
    gradients = {name: _total(tape, value, grads.get(value, [])) for name, value in found.sources.items()}
    _remove_unused(graph, tape, set(gradients.values()))
    made = set(tape.nodes)
    read = [v for node in tape.nodes for v in node.inputs if v is not None and v.producer() not in made]
    return Backward(gradients, tuple(tape.nodes), tuple(dict.fromkeys(read)))


def _fill(tape: Tape, value: ir.Value, number: float) -> ir.Value:
    """A tensor of the shape and type of ``value``, full of one number."""
    scalar = tape.constant(np.asarray(number), value.dtype or ir.DataType.FLOAT)
    if dims_of(value) == ():
        return scalar
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
