"""What a parameter is: told by what the graph does with an initializer, not by its name or rank alone.

A `Use` is one node that reads an initializer, directly or through nodes that only rearrange it or that a recipe brought in. It
says which role the initializer has there: weight of a product, bias, scale, table, running statistics, or a constant. Roles
that the operator's slot decides are sure; the others are a guess, which the list of parameters says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.vmm import is_vmm
from cimc.passes.recipes import CONSTANT, RECIPE

#: A node that reads a value, and the number of the input.
Usage = Any
Kind = Literal["weight", "bias", "scale", "table", "statistics", "other", "constant"]

_Role = tuple[Kind, str]
_WEIGHT: _Role = ("weight", "the weight")
_BIAS: _Role = ("bias", "the bias")
_SCALE: _Role = ("scale", "the scale")
_MEAN: _Role = ("statistics", "the running mean")
_VARIANCE: _Role = ("statistics", "the running variance")
#: What a slot of an operator takes, where the slot decides.
_SLOTS: dict[str, dict[int, _Role]] = {
    "Vmm": {1: _WEIGHT, 2: _BIAS},
    "Conv": {1: _WEIGHT, 2: _BIAS},
    "ConvTranspose": {1: _WEIGHT, 2: _BIAS},
    "Gemm": {0: _WEIGHT, 1: _WEIGHT, 2: _BIAS},
    "MatMul": {0: _WEIGHT, 1: _WEIGHT},
    "Einsum": dict.fromkeys(range(8), _WEIGHT),
    "LSTM": {1: _WEIGHT, 2: _WEIGHT, 3: _BIAS},
    "GRU": {1: _WEIGHT, 2: _WEIGHT, 3: _BIAS},
    "RNN": {1: _WEIGHT, 2: _WEIGHT, 3: _BIAS},
    "BatchNormalization": {1: _SCALE, 2: _BIAS, 3: _MEAN, 4: _VARIANCE},
    "LayerNormalization": {1: _SCALE, 2: _BIAS},
    "InstanceNormalization": {1: _SCALE, 2: _BIAS},
    "GroupNormalization": {1: _SCALE, 2: _BIAS},
    "RMSNormalization": {1: _SCALE},
    "PRelu": {1: ("scale", "the slope")},
    "Pow": {1: ("constant", "the exponent")},
    "Clip": {1: ("constant", "a limit"), 2: ("constant", "a limit")},
    "Pad": {2: ("constant", "the padding")},
    "Resize": {1: ("constant", "the region"), 2: ("constant", "the factors")},
    "Upsample": {1: ("constant", "the factors")},
    "Dropout": {1: ("constant", "the ratio")},
    "QuantizeLinear": {1: ("constant", "a quantisation scale"), 2: ("constant", "a zero point")},
    "DequantizeLinear": {1: ("constant", "a quantisation scale"), 2: ("constant", "a zero point")},
}
_VIEWS = frozenset(
    {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Cast", "CastLike", "Slice"}
)
_TRAINABLE = frozenset({"weight", "bias", "scale", "table", "other"})
#: Names that exporters give to values that have none in the model's source.
ANONYMOUS = re.compile(r"val_\d+|onnx::.*|/.*|.*_output_\d+|_?c?_?lifted_tensor.*|cimc/.*|")
#: Names that PyTorch's exporter gives to what it makes itself, never to a parameter.
_MADE = re.compile(r"val_\d+")
_NEUTRAL = "written by the exporter, as the network has no"
_RECURRENT = ("LSTM", "GRU", "RNN")
#: An added value below it is a mask of an attention.
_MASKED = -1e4


@dataclass(frozen=True)
class Use:
    """One reading of an initializer."""

    node: ir.Node
    slot: int
    kind: Kind
    why: str
    """In words, such as ``the bias of fc1``."""
    sure: bool

    @property
    def trains(self) -> bool:
        """Whether what is used so is a parameter."""
        return self.kind in _TRAINABLE

    @cached_property
    def owner(self) -> str:
        """The layer, or the node, that a person would say the initializer belongs to."""
        node = self.node
        if node.op_type == "Add" and self.kind == "bias" and (product := _product_before(node)) is not None:
            node = product
        return str(node.attributes.get_string("layer", None) or node.name) if is_vmm(node) else str(node.name)


def uses(value: ir.Value, edge: Usage | None = None) -> list[Use]:
    """All that read an initializer (or a value that a recipe makes), roles told.

    Args:
        value: The initializer.
        edge: Only what this one of its readers leads to; None: all.
    """
    return list(_uses(value, value, edge))


def _uses(value: ir.Value, initializer: ir.Value, edge: Usage | None = None) -> Iterator[Use]:
    for use in value.uses() if edge is None else (edge,):
        node = use.node
        passes = node.metadata_props.get(RECIPE) is not None or (
            node.op_type in _VIEWS and use.idx == 0 and node.graph is initializer.graph
        )
        if passes and any(out.uses() for out in node.outputs):
            for out in node.outputs:
                yield from _uses(out, initializer)
        else:
            yield _use(node, use.idx, value, initializer)


def _use(node: ir.Node, slot: int, value: ir.Value, initializer: ir.Value) -> Use:
    kind, what, sure = _role(node, slot, value, initializer)
    found = Use(node, slot, kind, what, sure)
    return Use(node, slot, kind, f"{what} of {found.owner}" if sure or kind == "bias" else f"{what} ({node.name})", sure)


def _role(node: ir.Node, slot: int, value: ir.Value, initializer: ir.Value) -> tuple[Kind, str, bool]:
    """Kind, words, and whether that is sure."""
    name = str(initializer.name)
    if node.domain in ("", "ai.onnx", "cimc") and slot in _SLOTS.get(node.op_type, {}):
        kind, what = _SLOTS[node.op_type][slot]
        if kind == "weight" and _turns_into_angles(node.outputs[0]):
            return "constant", "frequencies of an embedding by sines and cosines", False
        if _is_neutral(initializer, kind) and node.op_type not in _RECURRENT:
            return "constant", f"{_NEUTRAL} {kind}", False
        return kind, what, True
    shape = tuple(d for d in (value.shape or ()) if d != 1)
    array = _array(initializer)
    size = 1 if initializer.shape is None else int(np.prod([d for d in initializer.shape if isinstance(d, int)]))
    rank = 0 if initializer.shape is None else len(initializer.shape)
    anonymous = ANONYMOUS.fullmatch(name) is not None
    match node.op_type:
        case "Gather" if slot == 0:
            integer = node.inputs[1] is not None and node.inputs[1].const_value is None
            return ("table", "the embedding table", True) if integer else ("other", "gathered from", False)
        case "Add" if (product := _product_before(node)) is not None and _along_columns(value, product):
            return ("constant", f"{_NEUTRAL} bias", False) if _is_neutral(initializer, "bias") else ("bias", "the bias", False)
        case "Sub" | "Div" if slot == 1 and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            return "constant", "normalises the model's input", False
        case "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "Equal":
            return "constant", "compared with", True
        case _:
            pass
    if rank == 0 or (size == 1 and (anonymous or node.op_type in ("Where", "Max", "Min"))):
        return "constant", "a number that exporters write as a constant", False
    if array is not None and node.op_type in ("Add", "Sub", "Mul", "Where", "Max", "Min") and _is_mask(array, node.op_type):
        return "constant", "a mask", False
    if array is not None and _is_sinusoidal(array):
        return "constant", "a table of sines and cosines", False
    if node.op_type in ("Mul", "Div") and len(shape) > 1:
        return "constant", "a table that multiplies activations", False
    words = {"Add": "added", "Sub": "added", "Mul": "a factor", "Div": "a factor"}
    return "other", words.get(node.op_type, f"read by {node.op_type}"), False


def _array(value: ir.Value) -> NDArray[Any] | None:
    return None if value.const_value is None else value.const_value.numpy()


def _is_neutral(initializer: ir.Value, kind: Kind) -> bool:
    """Whether an exporter wrote a scale of ones or a bias of zeros for an operator of the network that has none."""
    array = _array(initializer) if kind in ("scale", "bias") else None
    written = initializer.metadata_props.get(CONSTANT) == "Constant" or _MADE.fullmatch(str(initializer.name)) is not None
    return array is not None and written and bool((array == (1 if kind == "scale" else 0)).all())


def _product_before(node: ir.Node) -> ir.Node | None:
    """The product that an Add directly follows."""
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and (
            is_vmm(producer) or producer.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum")
        ):
            return producer
    return None


def _along_columns(value: ir.Value, product: ir.Node) -> bool:
    """Whether a value stands along the columns (channels) of a product."""
    whole = product.outputs[0].shape
    if value.shape is None or len(value.shape) == 0:
        return False
    sizes = [d for d in value.shape if d != 1]
    if len(sizes) > 1 or whole is None:
        return len(sizes) <= 1
    return not sizes or sizes[0] in (whole[-1], whole[1] if len(whole) > 1 else None)


def _is_mask(array: NDArray[Any], op_type: str) -> bool:
    if array.size < 2 or array.dtype.kind != "f":
        return False
    if op_type == "Mul":
        return array.ndim > 1 and bool(((array == 0) | (array == 1)).all()) and bool((array == 0).any() and (array == 1).any())
    return not bool(np.isfinite(array).all()) or bool((array <= _MASKED).any())


def _is_sinusoidal(array: NDArray[Any]) -> bool:
    """Pairs of columns are sine and cosine of one angle."""
    columns = array.shape[-1] if array.ndim else 0
    if columns < 2 or columns % 2 or array.size < 8 or array.dtype.kind != "f":
        return False
    table = array.reshape(-1, columns).astype(np.float64)
    pairs = (table[:, 0::2] ** 2 + table[:, 1::2] ** 2, table[:, : columns // 2] ** 2 + table[:, columns // 2 :] ** 2)
    varies = bool((table != table[:1]).any())
    return varies and any(bool(np.allclose(sums, 1, rtol=0, atol=1e-2)) for sums in pairs)


def _turns_into_angles(value: ir.Value) -> bool:
    """Whether only sines and cosines read a value, through rearrangements and copies."""
    readers = [use.node for use in value.uses()]
    moves = _VIEWS | {"Concat"}
    return bool(readers) and all(
        node.op_type in ("Sin", "Cos") or (node.op_type in moves and _turns_into_angles(node.outputs[0])) for node in readers
    )
