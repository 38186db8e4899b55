"""Quantised products in ONNX Runtime's own operators, as `cimc.passes.selection.quantised` writes those of the standard.

The real forms, whose output is float32, apply ``a_scale * b_scale`` and add a bias. ``a_scale`` may be known only at run time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cimc.passes.selection import quantised
from cimc.passes.selection.nodes import input_at
from cimc.passes.selection.quantised import (
    activation_of,
    constant_of,
    dequantised,
    integers_of,
    need_plain,
    requantised,
    single,
)
from cimc.passes.selection.site import Site, StaysDigital


def qgemm(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero)``: int32 c; without y_scale the output is float32."""
    x, a_scale, (weight, b_scale) = activation_of(node, 0), single(constant_of(node, 1)), _weight(node, site, 3, 4, 5)
    real = dequantised(x, node.inputs[2], site)
    if node.attributes.get_int("transA", 0):
        (real,) = site.op("Transpose", [real], "transpose", {"perm": [1, 0]})
    c = input_at(node, 6)
    (product,) = site.op("MatMul", [real, weight], "")
    if c is not None:
        product = _plus(product, site.op("Cast", [c], "cast", {"to": int(ir.DataType.FLOAT)})[0], site)
    factor = np.float32(node.attributes.get_float("alpha", 1.0)) * a_scale * b_scale
    if input_at(node, 7) is None:
        return site.op("Mul", [product, site.constant(factor, "scale")], "scale")
    return requantised(product, factor / single(constant_of(node, 7)), input_at(node, 8), site)


def matmul_integer_to_float(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, b, a_scale, b_scale, a_zero, b_zero, bias)``."""
    x, a_scale = activation_of(node, 0), node.inputs[2]
    return _to_float(node, site, x, a_scale, input_at(node, 4), _weight(node, site, 1, 3, 5), input_at(node, 6))


def dynamic_quantize_matmul(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, b, b_scale, b_zero, bias)``: a is quantised by its own range at run time."""
    weight = _weight(node, site, 1, 2, 3)
    x, scale, zero = site.op("DynamicQuantizeLinear", [node.inputs[0]], "quantise", outputs=3)
    x.type = zero.type = ir.TensorType(ir.DataType.UINT8)
    x.shape = node.inputs[0].shape if node.inputs[0] is not None else None
    scale.shape = zero.shape = ir.Shape(())
    return _to_float(node, site, x, scale, zero, weight, input_at(node, 4))


def qlinear_conv(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """As the standard's; with ``channels_last`` the input and the output are ``[N, spatial axes, C]``, the weight is as ever."""
    if not node.attributes.get_int("channels_last", 0):
        return quantised.qlinear_conv(node, site)
    x = activation_of(node, 0)
    rank = len(site.dims(x))
    axes = [0, rank - 1, *range(1, rank - 1)]
    (moved,) = site.op("Transpose", [x], "channels_first", {"perm": axes})
    moved.type, moved.shape = x.type, ir.Shape([x.shape[a] for a in axes]) if x.shape is not None else None
    attributes = [attribute for name, attribute in node.attributes.items() if name != "channels_last"]
    plain = ir.Node("", "QLinearConv", [moved, *node.inputs[1:]], attributes)
    try:
        (y,) = quantised.qlinear_conv(plain, site)
    except StaysDigital:
        _forget(moved.producer())
        raise
    finally:
        _forget(plain)
    (last,) = site.op("Transpose", [y], "channels_last", {"perm": [0, *range(2, rank), 1]})
    return [last]


def _forget(node: ir.Node | None) -> None:
    """A node that does not join the graph reads nothing."""
    if node is not None:
        for slot in range(len(node.inputs)):
            node.replace_input_with(slot, None)


def _weight(node: ir.Node, site: Site, slot: int, scale_slot: int, zero_slot: int) -> tuple[ir.Value, np.ndarray]:
    """The integers of ``[rows, columns]`` less their zero points as an initializer, and the scale, one number or one a column."""
    w, scale = constant_of(node, slot), constant_of(node, scale_slot).astype(np.float32)
    zero = constant_of(node, zero_slot) if input_at(node, zero_slot) is not None else np.zeros((), w.dtype)
    if w.ndim != 2:
        raise StaysDigital(f"its weight has {w.ndim} axes, not 2")
    if node.attributes.get_int("transB", 0):
        w = w.T
    need_plain(w.shape[1], scale, zero)
    return site.constant(np.ascontiguousarray(integers_of(w, zero, (-1,))), "weight"), scale


def _to_float(
    node: ir.Node,
    site: Site,
    x: ir.Value,
    a_scale: ir.Value | None,
    zero: ir.Value | None,
    weight: tuple[ir.Value, np.ndarray],
    bias: ir.Value | None,
) -> Sequence[ir.Value]:
    if a_scale is None or a_scale.shape is None or any(size != 1 for size in a_scale.shape):
        raise StaysDigital("the scale of its input is no single number")
    (product,) = site.op("MatMul", [dequantised(x, zero, site), weight[0]], "")
    (factor,) = site.op("Mul", [a_scale, site.constant(weight[1], "weight_scale")], "scale")
    (y,) = site.op("Mul", [product, factor], "scaled")
    return [y if bias is None else _plus(y, bias, site)]


def _plus(y: ir.Value, bias: ir.Value, site: Site) -> ir.Value:
    return site.op("Add", [y, bias], "add_bias")[0]
