"""The loss behind a model's output, or the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from cimc.errors import CimcError, ModelError
from cimc.ir.classes import Classes
from cimc.ir.names import Names

LOSSES = ("softmax_cross_entropy", "mse", "binary_cross_entropy", "model")


@dataclass(frozen=True)
class Loss:
    """What `add_loss` found or made: the scalar, the input that takes the labels (None: the model has its own), a note."""

    value: ir.Value
    labels: ir.Value | None
    note: str


def add_loss(model: ir.Model, spec: str, classes: Classes | None = None) -> Loss:
    """Append a loss, the mean over the batch, and an input for the labels.

    =========================  =====================================================================================
    ``softmax_cross_entropy``  of the output as logits; ``labels`` int64, of the output's shape without the axis of the
                               classes, the mean over those that are not ignored; of soft labels, ``labels`` of the output's
                               shape and type, -Σ label·log softmax, the mean over the places
    ``mse``                    of the output; ``target`` of its shape and type
    ``binary_cross_entropy``   of the output as logits; ``target`` of its shape and type, 0 to 1
    ``model``                  the output is the loss
    =========================  =====================================================================================

    A Softmax (or LogSoftmax) that ends the model stands in for the first's own, a Sigmoid for the third's.

    Args:
        model: The graph, changed in place.
        spec: Name of the loss, and ``:OUTPUT`` where it is not the model's first.
        classes: How labels of a softmax cross-entropy lie.

    Raises:
        ModelError: No such loss or output, or the output's type or rank does not suit it.
    """
    if not isinstance(spec, str):
        raise CimcError(
            f"the loss is a {type(spec).__name__}, not the name of one",
            fix=f"one of {', '.join(LOSSES)}; for a loss of your own, export a model that computes it, and take 'model'",
        )
    kind, _, name = spec.partition(":")
    if kind not in LOSSES:
        raise ModelError(f"no loss is called {kind}", fix=f"the losses are {', '.join(LOSSES)}; add :OUTPUT to choose an output")
    outputs = {str(value.name): value for value in model.graph.outputs}
    if name and name not in outputs:
        raise ModelError(f"the model has no output {name} for the loss", fix=f"its outputs are {', '.join(outputs)}")
    value = outputs[name] if name else model.graph.outputs[0]
    if kind == "model":
        return Loss(value, None, f"the loss is the model's output {value.name}")
    if value.dtype is None or not value.dtype.is_floating_point():
        what = f"the output {value.name} is not real, so {kind} cannot be computed"
        raise ModelError(what, fix="name a real output: LOSS:OUTPUT")
    if kind == "softmax_cross_entropy":
        return _softmax_cross_entropy(_Writer(model), value, classes or Classes())
    return _MAKERS[kind](_Writer(model), value)


@dataclass
class _Writer:
    """Appends nodes; names no value of the graph has."""

    model: ir.Model

    def __post_init__(self) -> None:
        graph = self.model.graph
        values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
        self._names, self._node_names = Names(value.name for value in values), Names(node.name for node in graph)

    def op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes, name=self._node_names.fresh(f"loss/{op_type}"))
        node.outputs[0].name = self._names.fresh(f"loss/{op_type}")
        self.model.graph.append(node)
        return node.outputs[0]

    def input(self, wish: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        value = ir.val(self._names.fresh(wish), dtype=dtype, shape=shape)
        self.model.graph.inputs.append(value)
        return value

    def scalar(self, value: ir.Value, name: str = "loss") -> ir.Value:
        """Name and annotate the loss."""
        value.name = self._names.fresh(name)
        value.shape = ir.Shape([])
        self.model.graph.outputs.append(value)
        return value


def _before(value: ir.Value, *op_types: str) -> tuple[ir.Value, ir.Node | None]:
    """The input of the activation that the loss contains, and that activation."""
    node = value.producer()
    if node is None or node.op_type not in op_types or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
        return value, None
    inner = node.inputs[0]
    inner.type, inner.shape = inner.type or value.type, inner.shape or value.shape
    return inner, node


def _softmax_cross_entropy(writer: _Writer, value: ir.Value, classes: Classes) -> Loss:
    logits, softmax = _before(value, "Softmax", "LogSoftmax")
    shape = value.shape
    if shape is None or len(shape) < 2:
        raise ModelError(f"softmax_cross_entropy wants classes along an axis of {value.name}, of rank 2 or more")
    axis = _class_axis(value, softmax, classes.axis)
    note = f"the loss is the softmax cross-entropy of {value.name}, classes along axis {axis}"
    if classes.soft:
        note += ", labels are probabilities"
    elif classes.ignore is not None:
        note += f", label {classes.ignore} ignored"
    note += f"; it contains the {softmax.op_type} there" if softmax else ""
    if classes.soft:
        return _soft_cross_entropy(writer, value, logits, axis, note)
    others = [a for a in range(len(shape)) if a != axis]
    if axis != 1:
        logits = writer.op("Transpose", logits, perm=[others[0], axis, *others[1:]])
        logits.type, logits.shape = value.type, ir.Shape([shape[a] for a in (others[0], axis, *others[1:])])
    labels = writer.input("labels", ir.DataType.INT64, ir.Shape([shape[a] for a in others]))
    ignored = {} if classes.ignore is None else {"ignore_index": classes.ignore}
    loss = writer.op("SoftmaxCrossEntropyLoss", logits, labels, reduction="mean", **ignored)
    loss.type = value.type
    return Loss(writer.scalar(loss), labels, note)


def _class_axis(value: ir.Value, softmax: ir.Node | None, chosen: int | None) -> int:
    rank = len(value.shape or ())
    own = None if softmax is None else softmax.attributes.get_int("axis", -1) % rank
    if chosen is None:
        return 1 if own is None else own
    if not (-rank < chosen < rank and chosen % rank != 0):
        what = f"class_axis is {chosen}, but classes lie along an axis from 1 to {rank - 1} of the output {value.name}"
        raise ModelError(what, fix=f"class_axis {rank - 1}")
    if own is not None and chosen % rank != own:
        what = f"class_axis is {chosen}, but the Softmax that ends the model is along axis {own} of {value.name}"
        raise ModelError(what, fix="leave class_axis out")
    return chosen % rank


def _soft_cross_entropy(writer: _Writer, value: ir.Value, logits: ir.Value, axis: int, note: str) -> Loss:
    """The mean of -Σ label·log softmax over all places, as PyTorch has it."""
    labels = writer.input("labels", value.dtype or ir.DataType.FLOAT, value.shape)
    logs = writer.op("LogSoftmax", logits, axis=axis)
    logs.type, logs.shape = value.type, value.shape
    along = writer.op("Constant", value=ir.tensor(np.array([axis], np.int64)))
    sums = writer.op("ReduceSum", writer.op("Mul", logs, labels), along, keepdims=0)
    loss = writer.op("Neg", writer.op("ReduceMean", sums, keepdims=0))
    loss.type = value.type
    return Loss(writer.scalar(loss), labels, note)


def _mse(writer: _Writer, value: ir.Value) -> Loss:
    target = writer.input("target", value.dtype or ir.DataType.FLOAT, value.shape)
    difference = writer.op("Sub", value, target)
    loss = writer.op("ReduceMean", writer.op("Mul", difference, difference), keepdims=0)
    loss.type = value.type
    return Loss(writer.scalar(loss), target, f"the loss is the mean squared error of {value.name}")


def _binary_cross_entropy(writer: _Writer, value: ir.Value) -> Loss:
    """softplus(z) - z·t, which is -t·log(s) - (1 - t)·log(1 - s) for s = sigmoid(z)."""
    logits, found = _before(value, "Sigmoid")
    target = writer.input("target", value.dtype or ir.DataType.FLOAT, value.shape)
    parts = writer.op("Sub", writer.op("Softplus", logits), writer.op("Mul", logits, target))
    loss = writer.op("ReduceMean", parts, keepdims=0)
    loss.type = value.type
    note = f"the loss is the binary cross-entropy of {value.name}"
    return Loss(writer.scalar(loss), target, note + (", whose Sigmoid it contains" if found else " as logits"))


_MAKERS: dict[str, Callable[[_Writer, ir.Value], Loss]] = {
    "mse": _mse,
    "binary_cross_entropy": _binary_cross_entropy,
}
