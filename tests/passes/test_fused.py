"""Products in ONNX Runtime's own operators go to crossbars and give what ONNX Runtime gives, or the report says truly why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc

MICROSOFT = "com.microsoft"
node = helper.make_node


def real(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def codes(*shape: int, kind: Any = np.int8, seed: int = 0) -> np.ndarray:
    """Of weights: below 64, beyond which ONNX Runtime's kernels saturate on some CPUs."""
    return np.random.default_rng([seed, *shape]).integers(-63 if kind is np.int8 else 0, 64, shape).astype(kind)


def model(nodes: list[Any], x: np.ndarray, arrays: dict[str, Any], opset: int = 17) -> onnx.ModelProto:
    """The first axis of x is open."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), ["n", *x.shape[1:]])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def as_given(source: Any, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = source if isinstance(source, str) else source.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def check(made: onnx.ModelProto, x: np.ndarray, *, analog: int = 1, exact: bool = False) -> None:
    program = cimc.compile(made, "ideal")
    assert sum(place.where == "analog" for place in program.placements) == analog, program.placements
    got, wanted = cimc.Chip(program).run({"x": x})["y"], as_given(made, x)
    assert got.dtype == wanted.dtype
    if exact:
        np.testing.assert_array_equal(got, wanted)
    else:
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("z", [False, True])
@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("", []),
        ("Relu", []),
        ("Tanh", []),
        ("Sigmoid", []),
        ("LeakyRelu", [0.3]),
        ("Clip", [-0.5, 1.5]),
        ("HardSigmoid", [0.3, 0.4]),
    ],
)
def test_fused_conv(activation: str, parameters: list[float], z: bool, opset: int) -> None:
    x = real(2, 4, 6, 5)
    options: dict[str, Any] = {"activation": activation} if activation else {}
    options |= {"activation_params": parameters} if parameters else {}
    inputs = ["x", "w", "b", "x"] if z else ["x", "w", "b"]
    fused = node("FusedConv", inputs, ["y"], domain=MICROSOFT, pads=[1, 1, 1, 1], group=2, **options)
    check(model([fused], x, {"w": real(4, 2, 3, 3), "b": real(4)}, opset), x)


def test_a_depthwise_fused_conv_stays_as_it_is() -> None:
    x, arrays = real(2, 4, 6, 5), {"w": real(4, 1, 3, 3)}
    made = model([node("FusedConv", ["x", "w"], ["y"], "fc", domain=MICROSOFT, activation="Relu", group=4)], x, arrays)
    check(made, x, analog=0)
    (place,) = cimc.compile(made, "ideal").placements
    assert place.op_type == "FusedConv"
    assert "depthwise" in place.why


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", {}), ("Tanh", {}), ("Softplus", {}), ("LeakyRelu", {"alpha": 0.2}), ("Selu", {"alpha": 1.2, "gamma": 0.7}),
     ("Elu", {"alpha": 0.7}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4})],
)  # fmt: skip
def test_fused_gemm(activation: str, parameters: dict[str, float]) -> None:
    x = real(3, 6)
    options = {"activation": activation} | {f"activation_{key}": value for key, value in parameters.items()}
    fused = node("FusedGemm", ["x", "w", "b"], ["y"], domain=MICROSOFT, transB=1, alpha=0.5, beta=2.0, **options)
    check(model([fused], x, {"w": real(5, 6), "b": real(5)}), x)


@pytest.mark.parametrize(("operator", "left"), [("FusedMatMul", False), ("FusedMatMul", True), ("TransposeMatMul", False)])
@pytest.mark.parametrize("options", [{}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1, "alpha": 0.25}])
def test_fused_matmul(options: dict[str, Any], left: bool, operator: str) -> None:
    rows, depth, columns = 4, 6, 5
    a = real(2, *((depth, rows) if "transA" in options else (rows, depth)), seed=1)
    b = real(2, *((columns, depth) if "transB" in options else (depth, columns)), seed=2)
    x, w = (b, a) if left else (a, b)
    w = w[0] if operator == "TransposeMatMul" else w
    inputs = ["w", "x"] if left else ["x", "w"]
    made = model([node(operator, inputs, ["y"], domain=MICROSOFT, **options)], x, {"w": w})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    check(made, x)


@pytest.mark.parametrize("options", [{"transBatchA": 1}, {"transBatchB": 1}, {"transBatchA": 1, "transBatchB": 1, "transA": 1}])
def test_fused_matmul_moves_batch_axes(options: dict[str, Any]) -> None:
    """Sizes of A after its transposition: 2 × 3 × 4 × 6; of B: 2 × 3 × 6 × 5."""
    a, b = real(2, 3, 4, 6, seed=1), real(2, 3, 6, 5, seed=2)
    if options.get("transA"):
        a = np.ascontiguousarray(a.swapaxes(-1, -2))
    if options.get("transBatchA"):
        a = np.ascontiguousarray(np.moveaxis(a, -2, 0))
    if options.get("transBatchB"):
        b = np.ascontiguousarray(np.moveaxis(b, -2, 0))
    made = model([node("FusedMatMul", ["x", "w"], ["y"], domain=MICROSOFT, **options)], a, {"w": b})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = a.shape[0]
    check(made, a)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("bits", "rows", "block", "zeros"),
    [(4, 64, 32, ""), (4, 72, 16, "packed"), (4, 64, 32, "real"), (8, 64, 32, "packed"), (2, 64, 32, ""), (2, 72, 16, "packed")],
)
def test_matmul_n_bits(bits: int, rows: int, block: int, zeros: str, bias: bool) -> None:
    x, columns, blocks = real(3, rows), 5, -(-rows // block)
    random = np.random.default_rng(0)
    arrays = {
        "w": random.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8),
        "s": random.uniform(0.01, 0.1, columns * blocks).astype(np.float32),
    }
    if zeros == "packed":
        arrays["z"] = random.integers(0, 256, columns * -(-blocks * bits // 8)).astype(np.uint8)
    elif zeros == "real":
        arrays["z"] = random.uniform(0, 1 << bits, (columns, blocks)).astype(np.float32)
    arrays |= {"b": real(columns)} if bias else {}
    inputs = ["x", "w", "s", "z" if zeros else "", *(["", "b"] if bias else [])]
    options = {"K": rows, "N": columns, "bits": bits, "block_size": block}
    check(model([node("MatMulNBits", inputs, ["y"], domain=MICROSOFT, **options)], x, arrays), x)


@pytest.mark.parametrize("real_output", [False, True])
@pytest.mark.parametrize("options", [{}, {"transA": 1}, {"transB": 1, "alpha": 0.5}])
@pytest.mark.parametrize("per_column", [False, True])
def test_qgemm(per_column: bool, options: dict[str, Any], real_output: bool) -> None:
    x = codes(8, 8, kind=np.uint8)
    weight = codes(5, 8) if "transB" in options else codes(8, 5)
    scales = np.linspace(0.01, 0.03, 5, dtype=np.float32) if per_column else np.float32(0.02)
    arrays = {
        "as": np.float32(0.1), "az": np.uint8(7), "w": weight, "ws": scales, "wz": np.zeros(np.shape(scales), np.int8),
        "c": np.arange(5, dtype=np.int32) * 20, "ys": np.float32(0.21), "yz": np.uint8(120),
    }  # fmt: skip
    inputs = ["x", "as", "az", "w", "ws", "wz", "c", *([] if real_output else ["ys", "yz"])]
    check(model([node("QGemm", inputs, ["y"], domain=MICROSOFT, **options)], x, arrays), x, exact=not real_output)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("operator", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_products_with_a_real_output(operator: str, per_column: bool, bias: bool) -> None:
    x, scales = real(4, 8), np.linspace(0.01, 0.03, 5, dtype=np.float32) if per_column else np.array([0.02], np.float32)
    arrays = {"w": codes(8, 5), "ws": scales, "wz": np.zeros(scales.shape, np.int8), "b": real(5)}
    end = ["b"] if bias else []
    if operator == "DynamicQuantizeMatMul":
        nodes = [node(operator, ["x", "w", "ws", "wz", *end], ["y"], domain=MICROSOFT)]
    else:
        nodes = [
            node("DynamicQuantizeLinear", ["x"], ["q", "as", "az"]),
            node(operator, ["q", "w", "as", "ws", "az", "wz", *end], ["y"], domain=MICROSOFT),
        ]
    check(model(nodes, x, arrays), x)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("group", "analog"), [(1, 1), (2, 1), (4, 0)])
def test_a_quantised_convolution_with_its_channels_last(group: int, analog: int, per_channel: bool) -> None:
    x = codes(2, 7, 6, 4, kind=np.uint8)
    scales = np.linspace(0.01, 0.03, 8, dtype=np.float32) if per_channel else np.float32(0.02)
    arrays = {
        "xs": np.float32(0.1), "xz": np.uint8(7), "w": codes(8, 4 // group, 3, 3), "ws": scales,
        "wz": np.zeros(np.shape(scales), np.int8), "ys": np.float32(0.21), "yz": np.uint8(120),
        "b": np.arange(8, dtype=np.int32) * 9,
    }  # fmt: skip
    inputs = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    conv = node("QLinearConv", inputs, ["y"], domain=MICROSOFT, channels_last=1, group=group, pads=[1, 0, 1, 2], strides=[2, 1])
    check(model([conv], x, arrays), x, analog=analog, exact=True)


def test_a_run_time_weight_is_no_weight() -> None:
    x = real(5, 5)
    made = model([node("FusedMatMul", ["x", "x"], ["y"], domain=MICROSOFT, transB=1)], x, {})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    check(made, x, analog=0)
    assert "known only at run time" in cimc.compile(made, "ideal").placements[0].why


def test_what_is_not_read_says_whose_it_is() -> None:
    x = real(2, 3, 8)
    made = model([node("Attention", ["x", "w", "b"], ["y"], domain=MICROSOFT, num_heads=2)], x, {"w": real(8, 24), "b": real(24)})
    check(made, x, analog=0)
    assert "ONNX Runtime's own operator Attention" in cimc.compile(made, "ideal").placements[0].why


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_a_file_that_onnx_runtime_has_optimised(level: str, tmp_path: Path) -> None:
    x = real(2, 1, 6, 6)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "v", "d"], ["g"]),
        node("LeakyRelu", ["g"], ["y"], alpha=0.2),
    ]
    made = model(nodes, x, {"w": real(4, 1, 3, 3), "b": real(4), "v": real(64, 5), "d": real(5)})
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    program = cimc.compile(tmp_path / "m.onnx", "ideal")
    assert sum(place.where == "analog" for place in program.placements) == 2
    np.testing.assert_allclose(cimc.Chip(program).run({"x": x})["y"], as_given(made, x), rtol=1e-5, atol=1e-5)
