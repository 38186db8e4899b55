"""Quantised models give ONNX Runtime's codes on `ideal`, whatever stays digital; the oracle runs without graph optimisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

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
