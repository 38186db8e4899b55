"""Quantised models give ONNX Runtime's codes on `ideal`, whatever stays digital; the oracle runs without graph optimisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import cimc

RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((6, 8, 12, 12)).astype(np.float32)
#: Of signed weights. ONNX Runtime's kernels for unsigned times signed bytes add pairs of products in 16 bits on CPUs without
#: VNNI: beyond 64 such a pair may saturate there, so its codes are wrong (docs of its quantisation, "reduce_range").
LARGEST = 63
node = helper.make_node


def model(nodes: list[Any], shape: list[Any], arrays: dict[str, Any], output: int = TensorProto.UINT8) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def as_written(made: ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(made.SerializeToString(), options).run(None, {"x": x})[0]


def check(made: ModelProto, x: np.ndarray, analog: bool) -> None:
    program = cimc.compile(made, "ideal")
    assert any(place.where == "analog" for place in program.placements) == analog
    np.testing.assert_array_equal(cimc.Chip(program).run({"x": x})["y"], as_written(made, x))


def quantisation(channels: int, weight: np.ndarray, per_channel: bool, zero: int) -> dict[str, Any]:
    scales = RANDOM.uniform(0.005, 0.02, channels) if per_channel else np.array(0.01)
    return {
        "xs": np.float32(0.021),
        "xz": np.uint8(zero),
        "w": weight,
        "ws": scales.astype(np.float32),
        "wz": np.zeros(scales.shape, weight.dtype),
        "ys": np.float32(0.033),
        "yz": np.uint8(117),
    }


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("group", "analog"), [(1, True), (2, True), (8, False)])
def test_qlinear_conv(group: int, analog: bool, per_channel: bool) -> None:
    weight = RANDOM.integers(-LARGEST, LARGEST + 1, (8, 8 // group, 3, 3)).astype(np.int8)
    arrays = quantisation(8, weight, per_channel, 128) | {"b": RANDOM.integers(-500, 500, 8).astype(np.int32)}
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], pads=[1, 1, 1, 1], group=group),
    ]
    check(model(nodes, ["n", 8, 12, 12], arrays), X, analog)


@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_matmul(per_channel: bool) -> None:
    weight = RANDOM.integers(-LARGEST, LARGEST + 1, (12, 10)).astype(np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"]),
    ]
    check(model(nodes, ["n", 12], quantisation(10, weight, per_channel, 99)), X[0, 0], analog=True)


@pytest.mark.parametrize("operator", ["conv", "depthwise", "matmul"])
def test_integer_products_of_dynamic_quantisation(operator: str) -> None:
    shape = {"conv": (4, 8, 3, 3), "depthwise": (8, 1, 3, 3), "matmul": (12, 10)}[operator]
    weight = RANDOM.integers(1, 255, shape).astype(np.uint8)
    product = (
        node("MatMulInteger", ["q", "w", "z", "wz"], ["y"])
        if operator == "matmul"
        else node("ConvInteger", ["q", "w", "z", "wz"], ["y"], group=8 if operator == "depthwise" else 1)
    )
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), product]
    x = X[0, 0] if operator == "matmul" else X
    made = model(nodes, ["n", *x.shape[1:]], {"w": weight, "wz": np.uint8(128)}, TensorProto.INT32)
    check(made, x, operator != "depthwise")


def test_a_depthwise_convolution_between_dequantize_and_quantize() -> None:
    weight = RANDOM.integers(-LARGEST, LARGEST + 1, (8, 1, 3, 3)).astype(np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "xz"], ["f"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"]),
        node("Conv", ["f", "wf"], ["c"], group=8),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    check(model(nodes, ["n", 8, 12, 12], quantisation(8, weight, False, 128)), X, analog=False)


# Signed weights of the whole range: ONNX Runtime's own kernels saturate on some CPUs, so the oracles are written out. ---------


def by_reference(made: ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(made).run(None, {"x": x})[0])


@pytest.mark.parametrize("operator", ["QLinearMatMul", "MatMulInteger", "QLinearConv"])
def test_digital_products_of_signed_weights_do_not_saturate(operator: str) -> None:
    conv = operator == "QLinearConv"
    weight = RANDOM.integers(-127, 128, (4, 4, 3, 3) if conv else (12, 10)).astype(np.int8)
    arrays = quantisation(10, weight, False, 99)
    given = ["q", "w", "xz"] if operator == "MatMulInteger" else ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    nodes = [node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), node(operator, given, ["y"])]
    x = X[:, :4] if conv else X[0, 0]
    if operator == "MatMulInteger":
        arrays = {name: array for name, array in arrays.items() if name in ("xs", "xz", "w")}
    output = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.UINT8
    made = model(nodes, ["n", *x.shape[1:]], arrays, output)
    expected = by_reference(made, x)
    program = cimc.compile(made, "ideal", digital="*")
    assert not program.layers
    for found in (program, cimc.compile(made, "ideal")):
        wrong = np.abs(cimc.Chip(found).run({"x": x})["y"].astype(int) - expected)
        assert wrong.max() <= conv  # a value halfway between two codes may round either way: float32 has no exact scale
        assert (wrong > 0).mean() < 0.01


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Codes without their zero point, and the scale, as DynamicQuantizeLinear has them."""
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = (high - low) / np.float32(255) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255) - zero, scale


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("signed", [True, False])
def test_a_dynamically_quantised_lstm_is_as_defined(signed: bool, per_channel: bool) -> None:
    """Gates are those of the ONNX operator LSTM, products those of codes; by hand in float64."""
    steps, batch, inputs, hidden = 5, 3, 6, 8
    w, r = RANDOM.integers(-127, 128, (inputs, 4 * hidden)), RANDOM.integers(-127, 128, (hidden, 4 * hidden))
    bias = RANDOM.normal(size=8 * hidden).astype(np.float32)
    count = 4 * hidden if per_channel else 1
    ws, rs = (RANDOM.uniform(0.002, 0.006, count).astype(np.float32) for _ in range(2))
    zero, kind = (0, np.int8) if signed else (128, np.uint8)
    arrays = {"w": (w + zero)[None].astype(kind), "r": (r + zero)[None].astype(kind), "b": bias[None],
              "ws": ws[None] if per_channel else ws, "rs": rs[None] if per_channel else rs}  # fmt: skip
    arrays["z"] = np.full(arrays["ws"].shape, zero, kind)
    given = ["x", "w", "r", "b", "", "", "", "", "ws", "z", "rs", "z"]
    made = model([node("DynamicQuantizeLSTM", given, ["y"], domain="com.microsoft", hidden_size=hidden)],
                 [steps, "n", inputs], arrays, TensorProto.FLOAT)  # fmt: skip
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = RANDOM.normal(size=(steps, batch, inputs)).astype(np.float32)

    codes, scale = quantised(x)
    gates = codes @ w * (scale * ws).astype(np.float64) + bias[: 4 * hidden] + bias[4 * hidden :]
    h, c, expected = np.zeros((batch, hidden)), np.zeros((batch, hidden)), []
    for step in gates:
        codes, scale = quantised(h.astype(np.float32))
        i, o, f, cell = np.split(step + codes @ r * (scale * rs).astype(np.float64), 4, axis=1)
        i, o, f = (1 / (1 + np.exp(-v)) for v in (i, o, f))
        c = f * c + i * np.tanh(cell)
        h = o * np.tanh(c)
        expected.append(h)
    got = cimc.Chip(cimc.compile(made, "ideal")).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.array(expected)[:, None], rtol=0, atol=2e-6)


def own_model(operator: str, x: np.ndarray, arrays: dict[str, Any], given: list[str], **attributes: Any) -> ModelProto:
    """``x`` is quantised, then read by ONNX Runtime's own operator."""
    nodes = [node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), node(operator, given, ["y"], domain="com.microsoft", **attributes)]
    made = model(nodes, ["n", *x.shape[1:]], arrays, TensorProto.FLOAT)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("operator", ["QGemm", "MatMulIntegerToFloat", "QAttention"])
def test_digital_products_of_onnx_runtimes_own_operators_do_not_saturate(operator: str, per_column: bool) -> None:
    """Weights of the whole range in digital; the product of codes by hand in float64, the attention too."""
    heads, size = 2, 4
    weight = RANDOM.integers(-127, 128, (12, 3 * heads * size))
    columns = weight.shape[1]
    ws = RANDOM.uniform(0.002, 0.006, columns if per_column else ()).astype(np.float32)
    bias = RANDOM.normal(size=columns).astype(np.float32)
    arrays = {
        "xs": np.float32(0.021),
        "xz": np.uint8(99),
        "w": weight.astype(np.int8),
        "ws": ws,
        "wz": np.zeros(ws.shape, np.int8),
    }
    x = X[0, :3, :5] if operator == "QAttention" else X[0, 0]
    codes = np.clip(np.rint(x / arrays["xs"]) + 99, 0, 255) - 99
    expected = codes @ weight * (np.float64(arrays["xs"]) * ws)
    if operator == "QGemm":
        made = own_model(operator, x, arrays, ["q", "xs", "xz", "w", "ws", "wz"])
    elif operator == "MatMulIntegerToFloat":
        made = own_model(operator, x, arrays | {"b": bias}, ["q", "w", "xs", "ws", "xz", "wz", "b"])
        expected = expected + bias
    else:
        made = own_model(operator, x, arrays | {"b": bias}, ["q", "w", "b", "xs", "ws", "", "xz", "wz"], num_heads=heads)
        parts = np.split(expected + bias, 3, axis=-1)
        q, k, v = (part.reshape(3, 5, heads, size).transpose(0, 2, 1, 3) for part in parts)
        scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(size))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        expected = mixed.transpose(0, 2, 1, 3).reshape(3, 5, heads * size)
    program = cimc.compile(made, "ideal", digital=() if operator == "QAttention" else "*")
    assert not program.layers
    got = cimc.Chip(program).run({"x": x})["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
