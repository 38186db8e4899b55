"""Training form (batch statistics, active dropout, biases that train) and inference form of a graph."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from cimc.errors import ModelError
from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Dense
from cimc.ir.vmm import geometry_of, is_vmm
from cimc.passes.fold import drop_unused

_OWN = ("", "ai.onnx")
#: Whether what a node reads there is to stay as it is.
Frozen = Callable[[ir.Node, int], bool]


def to_training_form(model: ir.Model, frozen: Frozen) -> tuple[dict[str, ir.Value], list[str]]:
    """Change the graph in place.

    - BatchNormalization uses the statistics of the batch, and gives new running ones; one whose scale or bias is frozen
      stays as it is.
    - Dropout becomes ``X * cimc.DropoutMask(X)``, whose mask the runtime draws, the same for the same seed and image.
    - The bias of a ``Vmm`` becomes an Add behind it.

    Returns:
        New running statistics by name of the initializer that they replace, and what to tell the user.

    Raises:
        ModelError: Dropout's ratio is computed, or its mask is used; two nodes share running statistics.
    """
    statistics: dict[str, ir.Value] = {}
    normalisations, kept, dropouts = 0, 0, 0
    for node in list(model.graph):
        if node.domain not in (*_OWN, DOMAIN):
            continue
        if node.op_type == "BatchNormalization":
            switched = _normalise_by_batch(node, frozen, statistics)
            normalisations, kept = normalisations + switched, kept + (not switched)
        elif node.op_type == "Dropout":
            dropouts += _activate(node, model)
        elif is_vmm(node) and len(node.inputs) > 2 and (bias := node.inputs[2]) is not None and not frozen(node, 2):
            _split_bias(node, bias)
    notes = []
    if normalisations:
        notes.append(f"training form: {_count(normalisations, 'BatchNormalization')} by the statistics of the batch")
    if kept:
        why = "frozen, or no initializers of its own"
        notes.append(f"{_count(kept, 'BatchNormalization')} by running statistics, as in inference: {why}")
    if dropouts:
        notes.append(f"training form: {_count(dropouts, 'Dropout')} active")
    return statistics, notes


def to_inference_form(model: ir.Model) -> list[str]:
    """Switch off, in place, what a model that was exported for training has switched on.

    A Dropout whose ``training_mode`` is a constant passes its input on; a BatchNormalization that holds running statistics, and
    gives new ones to nobody, uses them.

    Returns:
        What was switched, as a note; empty if nothing was.
    """
    dropouts, normalisations = 0, 0
    for node in model.graph:
        if node.domain not in _OWN:
            continue
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            mode = ir.convenience.get_const_tensor(node.inputs[2])
            if mode is not None and not node.inputs[2].is_graph_input():
                dropouts += bool(mode.numpy())
                switch = node.inputs[2]
                node.resize_inputs(2)
                drop_unused(model.graph, [switch])
        elif node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode", False):
            held = all(v is not None and v.const_value is not None and not v.is_graph_input() for v in node.inputs[3:5])
            if held and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
                normalisations += 1
                node.attributes["training_mode"] = ir.AttrInt64("training_mode", 0)
                node.resize_outputs(1)
    switched = [_count(n, word) for n, word in ((normalisations, "BatchNormalization"), (dropouts, "Dropout")) if n]
    if not switched:
        return []
    return [
        f"the model was exported for training: {' and '.join(switched)} switched to inference for evaluation and the trained chip"
    ]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}"


def _normalise_by_batch(node: ir.Node, frozen: Frozen, statistics: dict[str, ir.Value]) -> bool:
    running = [value for value in node.inputs[3:5] if value is not None]
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        what = "its new running statistics are used, which training keeps to itself"
        raise ModelError(what, where=f"node '{node.name}' (BatchNormalization)", fix="export the model without that use")
    if any(value.const_value is None or value.is_graph_input() for value in running):
        return False
    if any(frozen(node, slot) for slot in range(1, 5)) or any(value.is_graph_input() for value in node.inputs[1:3] if value):
        return False
    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    node.resize_outputs(3)
    for old, new in zip(running, node.outputs[1:], strict=True):
        name = str(old.name)
        if name in statistics:
            what = f"two BatchNormalizations share the running statistics {name}"
            raise ModelError(what, where=f"node '{node.name}'", fix="give each its own")
        new.name, new.type, new.shape = f"{name}.running", old.type, old.shape
        statistics[name] = new
    return True


def _activate(node: ir.Node, model: ir.Model) -> bool:
    x, y, where = node.inputs[0], node.outputs[0], f"node '{node.name}' (Dropout)"
    if len(node.outputs) > 1 and node.outputs[1].uses():
        what = "its mask is used, which training cannot switch on"
        raise ModelError(what, where=where, fix="export the model without that use")
    ratio = 0.5
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        if tensor is None:
            raise ModelError("its ratio is computed at run time", where=where, fix="export the model with a constant ratio")
        ratio = float(tensor.numpy())
    if x is None or not 0 < ratio < 1:
        return False
    mask = _node("DropoutMask", [x], f"{node.name}/mask", DOMAIN, ratio=ratio)
    product = _node("Mul", [x, mask.outputs[0]], str(node.name))
    for made in (mask, product):
        made.outputs[0].type, made.outputs[0].shape = x.type, x.shape
    model.opset_imports[DOMAIN] = model.opset_imports.get(DOMAIN, 1)
    _replace(node, [mask, product], y, product.outputs[0])
    return True


def _split_bias(node: ir.Node, bias: ir.Value) -> None:
    """``Vmm(x, w, b)`` to ``Add(Vmm(x, w), b')``, where ``b'`` stands along the columns of the product."""
    geometry, y = geometry_of(node), node.outputs[0]
    beta = node.attributes.get_float("beta", 1.0)
    node.resize_inputs(2)
    node.attributes.pop("beta", None)
    nodes: list[ir.Node] = []

    def then(op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        nodes.append(_node(op_type, inputs, f"{node.name}/bias{len(nodes)}", **attributes))
        return nodes[-1].outputs[0]

    term = bias
    if beta != 1:
        dtype = bias.dtype or ir.DataType.FLOAT
        factor = then("Constant", [], value=ir.tensor(np.array(beta, dtype.numpy())))
        term = then("Mul", [bias, factor])
    if isinstance(geometry, Dense):
        shape, perm = [1] * geometry.kept + list(geometry.output_dims), geometry.output_perm
    else:
        channels = prod(bias.shape.numpy()) if bias.shape is not None else -1
        shape, perm = [1, channels] + [1] * len(geometry.kernel_shape), ()
    if not (isinstance(geometry, Dense) and len(geometry.output_dims) == 1 and perm[-1] == geometry.kept):
        term = then("Reshape", [term, then("Constant", [], value=ir.tensor(np.array(shape, np.int64)))])
        term.type, term.shape = bias.type, ir.Shape([size if size >= 0 else None for size in shape])
        if tuple(perm) != tuple(range(len(perm))):
            term = then("Transpose", [term], perm=list(perm))
    product = ir.Value(name=f"{y.name}/product", type=y.type, shape=y.shape)
    total = then("Add", [product, term])
    total.type, total.shape = y.type, y.shape
    name = y.name
    y.replace_all_uses_with(total, replace_graph_outputs=True)
    y.name, total.name = product.name, name
    nodes[-1].replace_input_with(0, y)
    graph = node.graph
    if graph is not None:
        graph.insert_after(node, nodes)


def _node(op_type: str, inputs: list[ir.Value], name: str, domain: str = "", **attributes: Any) -> ir.Node:
    made = ir.node(op_type, inputs, attributes=attributes, domain=domain, name=name)
    made.outputs[0].name = f"cimc/{name}"
    return made


def _replace(node: ir.Node, nodes: list[ir.Node], old: ir.Value, new: ir.Value) -> None:
    graph = node.graph
    if graph is None:
        return
    name, old.name = old.name, None
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])
    new.name = name
