"""Integer products as real ones: QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger with constant weights.

The crossbar keeps the integers, which are the levels of the quantised weight, and the digital side applies the scales::

    y = QuantizeLinear((DequantizeLinear(x, 1, x_zero) @ (w - w_zero)) * (x_scale * w_scale / y_scale), 1, y_zero)

That is the arithmetic of ONNX Runtime's kernels, so results are the same as long as a sum stays below 2**24, where
float32 ceases to hold every integer. The integer forms, which show the sum itself, are rewritten only if it must; the
requantised ones always, as there a sum that large is rounded to 8 bits anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.passes.selection.conv import windows_of
from cimc.passes.selection.nodes import input_at
from cimc.passes.selection.operand import is_constant
from cimc.passes.selection.site import Site, StaysDigital

_EXACT = 1 << 24

Array = NDArray[Any]


def qlinear_conv(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B)``, scale and zero of w one an output channel or one."""
    x, x_zero, y_zero = activation_of(node, 0), node.inputs[2], node.inputs[7]
    x_scale, w, w_scale, w_zero, y_scale = (constant_of(node, i) for i in (1, 3, 4, 5, 6))
    windows_of(node, site, w.shape)  # what stays digital stays as it was written
    need_plain(len(w), w_scale, w_zero)
    weight = site.constant(integers_of(w, w_zero, (-1, *[1] * (w.ndim - 1))), "weight")
    if input_at(node, 8) is not None:
        site.need_shape(node.inputs[8], (len(w),), "bias")
    bias = [site.constant(constant_of(node, 8).astype(np.float32), "bias")] if input_at(node, 8) is not None else []
    factor = (single(x_scale) * w_scale.astype(np.float32) / single(y_scale)).astype(np.float32)
    (product,) = site.op("Conv", [dequantised(x, x_zero, site), weight, *bias], "", _attributes(node))
    if factor.size > 1:
        factor = factor.reshape(-1, *[1] * (w.ndim - 2))
    return requantised(product, factor, y_zero, site)


def qlinear_matmul(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)``, those of a one a row or one, of b one a column or one."""
    slot = 1 if is_constant(node.inputs[3]) else 0
    a_scale, b_scale, y_scale = (constant_of(node, i).astype(np.float32) for i in (1, 4, 6))
    x, w = activation_of(node, 3 * (1 - slot)), constant_of(node, 3 * slot)
    x_zero, w_zero = node.inputs[3 * (1 - slot) + 2], constant_of(node, 3 * slot + 2)
    lines = w.shape[-1] if slot else w.shape[-2] if w.ndim > 1 else 1
    need_plain(lines, w_zero, (a_scale, b_scale)[slot])
    if a_scale.ndim > 1 or b_scale.ndim > 1 or (slot and a_scale.size > 1):
        raise StaysDigital("its scales are one for each row of a batch")
    weight = site.constant(integers_of(w, w_zero, _spread(slot)), "weight")
    real = dequantised(x, x_zero, site)
    (product,) = site.op("MatMul", [real, weight] if slot else [weight, real], "")
    if a_scale.ndim == 1 and a_scale.size > 1:
        a_scale = a_scale.reshape(-1, 1)
    return requantised(product, (a_scale * b_scale / single(y_scale)).astype(np.float32), node.inputs[7], site)


def conv_integer(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(x, w, x_zero, w_zero)``, an int32 product."""
    x, w = activation_of(node, 0), constant_of(node, 1)
    windows_of(node, site, w.shape)
    w_zero = constant_of(node, 3) if input_at(node, 3) is not None else np.zeros((), w.dtype)
    need_plain(1, w_zero)
    integers = integers_of(w, w_zero, (-1, *[1] * (w.ndim - 1)))
    _need_exact(np.abs(integers).sum(axis=tuple(range(1, w.ndim))))
    weight = site.constant(integers, "weight")
    (product,) = site.op("Conv", [dequantised(x, input_at(node, 2), site), weight], "", _attributes(node))
    return _to_int32(product, site)


def matmul_integer(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, b, a_zero, b_zero)``, an int32 product."""
    slot = 1 if is_constant(node.inputs[1]) else 0
    x, w = activation_of(node, 1 - slot), constant_of(node, slot)
    w_zero = constant_of(node, 2 + slot) if input_at(node, 2 + slot) is not None else np.zeros((), w.dtype)
    need_plain(w.shape[-1] if slot else w.shape[-2] if w.ndim > 1 else 1, w_zero)
    integers = integers_of(w, w_zero, _spread(slot))
    _need_exact(np.abs(integers).sum(axis=-1 if slot == 0 or w.ndim == 1 else -2))
    weight = site.constant(integers, "weight")
    real = dequantised(x, input_at(node, 2 + 1 - slot), site)
    (product,) = site.op("MatMul", [real, weight] if slot else [weight, real], "")
    return _to_int32(product, site)


def constant_of(node: ir.Node, index: int) -> Array:
    value = node.inputs[index]
    if value is None or not is_constant(value) or value.const_value is None:
        raise StaysDigital(f"no product with a constant weight: '{value.name if value else ''}' is known only at run time")
    return value.const_value.numpy()


def activation_of(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise StaysDigital("it has no input")
    if value.dtype not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        raise StaysDigital(f"its input '{value.name}' is {value.dtype}, not of 8 bits")
    return value


def need_plain(count: int, *arrays: Array) -> None:
    """Scales and zero points are one number, or a vector of ``count``; ONNX Runtime judges any other form.

    Raises:
        StaysDigital: One is not.
    """
    for values in arrays:
        if values.shape not in ((), (1,), (count,)):
            raise StaysDigital(f"its scale or zero point of shape {list(values.shape)} is neither one number nor {count}")


def single(scale: Array) -> np.float32:
    if scale.shape not in ((), (1,)):
        raise StaysDigital("the scale of its input or output is no single number")
    return np.float32(scale.reshape(-1)[0])


def _spread(slot: int) -> tuple[int, ...]:
    """Shape of a vector of zero points: one a column of b, one a row of a."""
    return (-1,) if slot else (-1, 1)


def integers_of(w: Array, zero: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    offset = zero.astype(np.int32)
    if offset.ndim == 1 and offset.size > 1:
        offset = offset.reshape(shape)
    elif offset.size == 1:
        offset = offset.reshape(())
    return (w.astype(np.int32) - offset).astype(np.float32)


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def dequantised(x: ir.Value, zero: ir.Value | None, site: Site) -> ir.Value:
    """The activation's integers, less the zero point, as float32."""
    if zero is not None and (zero.shape is None or any(d != 1 for d in zero.shape)):
        raise StaysDigital(f"the zero point '{zero.name}' of its input is no single number")
    if zero is not None and zero.shape is not None and len(zero.shape) == 1:
        (zero,) = site.op("Reshape", [zero, site.constant(np.array([], np.int64), "scalar")], "zero_point")
    one = site.constant(np.array(1.0, np.float32), "one")
    (real,) = site.op("DequantizeLinear", [x, one, *([zero] if zero is not None else [])], "dequantize")
    real.dtype = ir.DataType.FLOAT
    real.shape = x.shape
    return real


def requantised(product: ir.Value, factor: NDArray[np.float32], y_zero: ir.Value | None, site: Site) -> Sequence[ir.Value]:
    (scaled,) = site.op("Mul", [product, site.constant(factor, "scale")], "scale")
    one = site.constant(np.array(1.0, np.float32), "unit")
    (y,) = site.op("QuantizeLinear", [scaled, one, y_zero], "quantize")
    y.dtype = ir.DataType.UINT8 if y_zero is None or y_zero.dtype is None else y_zero.dtype
    return [y]


def _to_int32(product: ir.Value, site: Site) -> Sequence[ir.Value]:
    (y,) = site.op("Cast", [product], "int32", {"to": int(ir.DataType.INT32)})
    y.dtype = ir.DataType.INT32
    return [y]


def _need_exact(column_sums: Array) -> None:
    largest = float(np.max(column_sums, initial=0)) * 255
    if largest >= _EXACT:
        raise StaysDigital(f"sums of up to {largest:.3g} could not be told exactly in float32 (2**24)")
