"""Straight-through gradients of quantised activations: one within the codes' range, none beyond."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cimc.errors import ModelError
from cimc.passes.gradients.build import backward
from cimc.passes.gradients.survey import OPSET

from .harness import Array, run_gradients


def gradient_of(body: str, x: Array) -> Array:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {OPSET}]> {body}')
    return run_gradients(model, {"x": x.astype(np.float32)}, ["x"])[0]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_gradient_passes_where_codes_do_not_saturate(kind: str) -> None:
    """Codes move through a Transpose on the way; the outputs weigh 1 to 6."""
    body = f"""g (float[2, 3] x) => (float loss) {{
        s = Constant<value = float {{0.01}}>()  z = Constant<value = {kind} {{3}}>()
        codes = QuantizeLinear(x, s, z)  moved = Transpose(codes)  real = DequantizeLinear(moved, s, z)
        w = Constant<value = float[3, 2] {{1, 2, 3, 4, 5, 6}}>()  m = Mul(real, w)  loss = ReduceSum<keepdims=0>(m)
    }}"""
    limits = np.iinfo(kind)
    low, high = (limits.min - 3) * 0.01, (limits.max - 3) * 0.01
    x = np.array([[low - 0.1, low + 0.01, 0.0], [high + 0.1, high - 0.01, 1.0]])
    expected = np.array([[0, 3, 5], [0, 4, 6]]) * np.ones((2, 3))
    np.testing.assert_array_equal(gradient_of(body, x), expected)


def test_each_channel_has_its_own_range() -> None:
    body = """g (float[2, 2] x) => (float loss) {
        s = Constant<value = float[2] {0.01, 0.1}>()  z = Constant<value = int8[2] {0, 0}>()
        codes = QuantizeLinear<axis=1>(x, s, z)  real = DequantizeLinear<axis=1>(codes, s, z)  loss = ReduceSum<keepdims=0>(real)
    }"""
    np.testing.assert_array_equal(gradient_of(body, np.array([[1.0, 10.0], [2.0, 20.0]])), [[1, 1], [0, 0]])


def test_integer_arithmetic_on_codes_is_refused_not_zero() -> None:
    body = """g (float[1, 1, 3, 3] x, int8[1, 1, 2, 2] w) => (float loss) {
        s = Constant<value = float {0.01}>()  z = Constant<value = int8 {0}>()  codes = QuantizeLinear(x, s, z)
        [product] y = QLinearConv(codes, s, z, w, s, z, s, z)  real = DequantizeLinear(y, s, z)
        loss = ReduceSum<keepdims=0>(real)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {OPSET}]> {body}')
    with pytest.raises(ModelError, match=r"node 'product' \(QLinearConv\)"):
        backward(ir.from_proto(model), "loss", ["x"])
