"""Operands and attributes that do not fit: what ONNX Runtime refuses, cimc refuses; what it runs, cimc runs alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import cimc

RNG = np.random.default_rng(0)
SETTINGS = {"mapping.depthwise": "analog"}


def model(op: str, x: Any, constants: dict[str, Any], inputs: list[str], outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    names = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, names, name="node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim)],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def agree(proto: onnx.ModelProto, x: Any) -> None:
    """Both refuse, or both give the same."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        wanted = ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})
    except Exception:
        with pytest.raises(cimc.CimcError) as caught:
            cimc.Chip(cimc.compile(proto, target="ideal", settings=SETTINGS)).run({"x": x})
        assert caught.value.where
        return
    got = cimc.Chip(cimc.compile(proto, target="ideal", settings=SETTINGS)).run({"x": x})
    for mine, theirs in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def real(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


PLAIN: dict[str, Any] = {}
CONV: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, dict[str, Any]]] = {
    # what: shapes of x, w and the bias; attributes
    "plain": ((1, 2, 4), (3, 2, 3), (3,), PLAIN),
    "bias of 1": ((1, 2, 4), (3, 2, 3), (1,), PLAIN),
    "bias of 4": ((1, 2, 4), (3, 2, 3), (4,), PLAIN),
    "bias of two axes": ((1, 2, 4), (3, 2, 3), (3, 1), PLAIN),
    "empty bias": ((1, 2, 4), (3, 2, 3), (0,), PLAIN),
    "kernel_shape below the weight's": ((1, 2, 4), (3, 2, 3), None, {"kernel_shape": [2]}),
    "kernel_shape above the weight's": ((1, 2, 4), (3, 2, 3), None, {"kernel_shape": [4]}),
    "groups that do not divide": ((1, 4, 4), (3, 2, 3), None, {"group": 2}),
    "no group": ((1, 4, 4), (4, 2, 3), None, {"group": 0}),
    "other channels": ((1, 3, 4), (3, 2, 3), None, PLAIN),
    "channels of other groups": ((1, 2, 4), (4, 2, 3), None, {"group": 2}),
    "input without room for a window": ((1, 2, 4), (3, 2, 5), None, PLAIN),
    "the same with a stride": ((1, 2, 4), (3, 2, 5), None, {"strides": [2]}),
    "no spatial axis": ((1, 2), (3, 2), None, PLAIN),
    "weight of another rank": ((1, 2, 4, 4), (3, 2, 3), None, PLAIN),
    "stride 0": ((1, 2, 4), (3, 2, 3), None, {"strides": [0]}),
    "stride -1": ((1, 2, 4), (3, 2, 3), None, {"strides": [-1]}),
    "stride of millions": ((1, 2, 4), (3, 2, 3), None, {"strides": [9_000_000]}),
    "too many strides": ((1, 2, 4), (3, 2, 3), None, {"strides": [2, 1]}),
    "dilation 0": ((1, 2, 4), (3, 2, 3), None, {"dilations": [0]}),
    "dilation of millions": ((1, 2, 4), (3, 2, 3), None, {"dilations": [9_000_000]}),
    "dilation of millions, padded": ((1, 2, 4), (3, 2, 3), None, {"dilations": [9_000_000], "auto_pad": "SAME_UPPER"}),
    "dilation and SAME": ((1, 2, 4), (3, 2, 3), None, {"dilations": [2], "auto_pad": "SAME_UPPER"}),
    "one pad": ((1, 2, 4), (3, 2, 3), None, {"pads": [1]}),
    "four pads": ((1, 2, 4), (3, 2, 3), None, {"pads": [1, 2, 1, 1]}),
    "negative pad": ((1, 2, 4), (3, 2, 3), None, {"pads": [-1, 0]}),
    "pads beyond the window": ((1, 2, 4), (3, 2, 3), None, {"pads": [5, 5]}),
    "pads and auto_pad": ((1, 2, 4), (3, 2, 3), None, {"pads": [1, 1], "auto_pad": "SAME_UPPER"}),
    "no such auto_pad": ((1, 2, 4), (3, 2, 3), None, {"auto_pad": "ROUND"}),
}
TRANSPOSE: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, dict[str, Any]]] = {
    "plain": ((1, 2, 4), (2, 3, 3), (3,), PLAIN),
    "bias of 1": ((1, 2, 4), (2, 3, 3), (1,), PLAIN),
    "bias of two axes": ((1, 2, 4), (2, 3, 3), (3, 1), PLAIN),
    "bias of one group": ((1, 4, 4), (4, 3, 3), (3,), {"group": 2}),
    "groups that do not divide": ((1, 3, 4), (3, 3, 3), None, {"group": 2}),
    "kernel_shape of another size": ((1, 2, 4), (2, 3, 3), None, {"kernel_shape": [2]}),
    "output_padding of the stride": ((1, 2, 4), (2, 3, 3), None, {"output_padding": [1]}),
    "output_padding below the stride": ((1, 2, 4), (2, 3, 3), None, {"output_padding": [1], "strides": [2]}),
    "negative output_padding": ((1, 2, 4), (2, 3, 3), None, {"output_padding": [-1]}),
    "two output_paddings": ((1, 2, 4), (2, 3, 3), None, {"output_padding": [0, 0]}),
    "output_shape": ((1, 2, 4), (2, 3, 3), None, {"output_shape": [3]}),
    "output_shape with batch": ((1, 2, 4), (2, 3, 3), None, {"output_shape": [1, 3, 3]}),
    "output_shape out of reach": ((1, 2, 4), (2, 3, 3), None, {"output_shape": [30]}),
    "output_shape 0": ((1, 2, 4), (2, 3, 3), None, {"output_shape": [0]}),
    "two output_shapes": ((1, 2, 4), (2, 3, 3), None, {"output_shape": [3, 3]}),
    "pads that leave nothing": ((1, 2, 4), (2, 3, 3), None, {"pads": [3, 3]}),
    "pads that leave less": ((1, 2, 4), (2, 3, 3), None, {"pads": [9, 9]}),
    "other channels": ((1, 5, 4), (2, 3, 3), None, PLAIN),
}
GEMM: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, dict[str, Any]]] = {
    "plain": ((2, 3), (3, 4), (4,), PLAIN),
    "C of a row": ((2, 3), (3, 4), (1, 4), PLAIN),
    "C of a column": ((2, 3), (3, 4), (2, 1), PLAIN),
    "C of all": ((2, 3), (3, 4), (2, 4), PLAIN),
    "C of one": ((2, 3), (3, 4), (), PLAIN),
    "C of the rows": ((2, 3), (3, 4), (2,), PLAIN),
    "C of three axes": ((2, 3), (3, 4), (1, 2, 4), PLAIN),
    "C of more rows": ((1, 3), (3, 4), (2, 4), PLAIN),
    "C of more columns": ((2, 3), (3, 1), (4,), PLAIN),
    "C that beta hides": ((2, 3), (3, 4), (3,), {"beta": 0.0}),
    "transB of another size": ((2, 3), (3, 4), None, {"transB": 1}),
    "input of three axes": ((2, 3, 1), (3, 4), None, PLAIN),
    "weight of one axis": ((2, 3), (3,), None, PLAIN),
    "C turned": ((3, 2), (3, 4), (4, 1), {"transA": 1}),
}


@pytest.mark.parametrize(
    ("op", "case"),
    [(op, case) for op, table in (("Conv", CONV), ("ConvTranspose", TRANSPOSE), ("Gemm", GEMM)) for case in table.items()],
    ids=lambda case: case[0] if isinstance(case, tuple) else case,
)
def test_windows_and_dense_products(op: str, case: tuple[str, Any]) -> None:
    x_shape, w_shape, bias, attributes = case[1]
    x, constants = real(*x_shape), {"w": real(*w_shape)} | ({} if bias is None else {"b": real(*bias)})
    agree(model(op, x, constants, ["x", *constants], **attributes), x)


@pytest.mark.parametrize("bias", [(1,), (2,), (3,), (3, 1)])
def test_a_bias_that_the_model_computes(bias: tuple[int, ...]) -> None:
    """Added digitally, it must not broadcast to what a convolution refuses."""
    proto = model("Conv", x := real(1, 2, 4), {"w": real(3, 2, 3), "c": real(*bias)}, ["x", "w", "b"])
    proto.graph.node.insert(0, helper.make_node("Relu", ["c"], ["b"]))
    proto.graph.node.insert(0, helper.make_node("Identity", ["x"], ["unused"]))
    agree(proto, x)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RECURRENT: dict[str, dict[str, Any]] = {
    # what: shapes where they are not those of hidden size 3, 2 inputs, one direction; attributes
    "plain": {"b": (1, -6), "h": (1, 2, 3)},
    "hidden_size 2": {"hidden_size": 2},
    "hidden_size 6": {"hidden_size": 6},
    "hidden_size 0": {"hidden_size": 0},
    "W of hidden size 2": {"w": (1, -2, 2)},
    "R of hidden size 2": {"r": (1, -3, 2)},
    "W of 3 inputs": {"w": (1, -3, 3)},
    "half a bias": {"b": (1, -3)},
    "bias of 1": {"b": (1, 1)},
    "bias of one axis": {"b": (-6,)},
    "state of one image": {"h": (1, 1, 3)},
    "state of hidden size 1": {"h": (1, 2, 1)},
    "state of two axes": {"h": (2, 3)},
    "lengths": {"lengths": [4, 4]},
    "one length": {"lengths": [4]},
    "lengths beyond the sequence": {"lengths": [5, 5]},
    "three lengths": {"lengths": [4, 4, 4]},
    "two directions": {"w": (2, -3, 2), "r": (2, -3, 3), "direction": "bidirectional"},
    "one of two directions": {"direction": "bidirectional"},
    "two of one direction": {"w": (2, -3, 2), "r": (2, -3, 3)},
    "no such direction": {"direction": "up"},
    "batch first": {"layout": 1},
}


@pytest.mark.parametrize("what", RECURRENT)
@pytest.mark.parametrize("op", GATES)
def test_recurrent_products(op: str, what: str) -> None:
    """Sizes below 0 stand for as many of each gate."""
    attributes: dict[str, Any] = {"hidden_size": 3} | RECURRENT[what]
    shapes = {"w": (1, -3, 2), "r": (1, -3, 3), "b": None, "h": None}
    constants: dict[str, Any] = {}
    for name, usual in shapes.items():
        shape = attributes.pop(name, usual)
        if shape is not None:
            constants[name] = real(*(size if size > 0 else -size * GATES[op] for size in shape))
    if lengths := attributes.pop("lengths", None):
        constants["lengths"] = np.array(lengths, np.int32)
    inputs = ["x", "w", "r", *(name if name in constants else "" for name in ("b", "lengths", "h"))]
    proto = model(op, x := real(4, 2, 2), constants, inputs, outputs=2, **attributes)
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, x.shape, strict=True):
        dim.dim_value = size  # a static length, else all stays digital
    agree(proto, x)


@pytest.mark.parametrize("shape", [(1, 9), (1, 1), (1, 3), (9,)])
def test_peepholes(shape: tuple[int, ...]) -> None:
    constants = {"w": real(1, 12, 2), "r": real(1, 12, 3), "p": real(*shape)}
    proto = model("LSTM", x := real(4, 2, 2), constants, ["x", "w", "r", "", "", "", "", "p"], hidden_size=3)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape))
    agree(proto, x)


SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (3,), (1, 1), (3, 1), (0,))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operand", ["xs", "xz", "ws", "wz", "ys", "yz", "b"])
def test_quantised_convolution(operand: str, shape: tuple[int, ...]) -> None:
    constants: dict[str, Any] = {
        "xs": np.full((), 0.1, np.float32), "xz": np.full((), 3, np.uint8), "w": RNG.integers(0, 99, (3, 2, 2)).astype(np.uint8),
        "ws": np.full((), 0.05, np.float32), "wz": np.full((), 1, np.uint8), "ys": np.full((), 0.2, np.float32),
        "yz": np.full((), 5, np.uint8), "b": np.full(3, 7, np.int32),
    }  # fmt: skip
    constants[operand] = np.full(shape, constants[operand].reshape(-1)[0])
    x = RNG.integers(0, 255, (1, 2, 4)).astype(np.uint8)
    agree(model("QLinearConv", x, constants, ["x", *constants]), x)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (5,), (1, 5), (5, 1), (1, 1), (0,)], ids=str)
@pytest.mark.parametrize("op", ["QLinearMatMul", "MatMulInteger"])
@pytest.mark.parametrize("rank", [2, 3])
def test_quantised_matrices(op: str, shape: tuple[int, ...], rank: int) -> None:
    x, w = RNG.integers(0, 255, (2, 3, 4)[-rank:]).astype(np.uint8), RNG.integers(0, 99, (4, 5)).astype(np.uint8)
    zero, scale = np.full((), 3, np.uint8), np.full((), 0.1, np.float32)
    if op == "MatMulInteger":
        agree(model(op, x, {"w": w, "xz": zero, "wz": np.full(shape, 1, np.uint8)}, ["x", "w", "xz", "wz"]), x)
        return
    constants = {"xs": scale, "xz": zero, "w": w, "ws": np.full(shape, 0.05, np.float32), "wz": np.full(shape, 1, np.uint8)}
    constants |= {"ys": scale, "yz": zero}
    agree(model(op, x, constants, ["x", *constants]), x)


@pytest.mark.parametrize("equation", ["nij,ijk->nk", "nij,jik->nk", "ni,ik->nk", "nij,ijk->nik"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 3), (2, 1, 4)])
def test_einsum_of_sizes_that_differ(equation: str, shape: tuple[int, ...]) -> None:
    """The sizes agree as products, not one by one."""
    w = real(3, 4, 5) if equation.count("i") > 2 or "j" in equation else real(4, 5)
    agree(model("Einsum", x := real(*shape), {"w": w}, ["x", "w"], equation=equation), x)


def _doubles(scale: float) -> tuple[onnx.ModelProto, Any]:
    x = RNG.uniform(0, 1, (2, 4))
    return model("MatMul", x, {"w": RNG.normal(size=(4, 3)) * scale}, ["x", "w"]), x


def test_doubles_beyond_float32_run_digitally_on_an_ideal_chip_and_are_refused_by_others() -> None:
    proto, x = _doubles(1e300)
    agree(proto, x)
    assert cimc.compile(proto, target="ideal").placement()[0]["where"] == "digital"
    with pytest.raises(cimc.ModelError, match="outside the range of float32"):
        cimc.compile(proto, target="bulk-rram", calibration={"x": x})
    proto, x = _doubles(1.0)
    assert cimc.compile(proto, target="ideal").placement()[0]["where"] == "analog"


def test_a_product_of_two_constants_that_is_an_output() -> None:
    proto = model("MatMul", x := real(2, 4), {"v": real(3, 4), "w": real(4, 3)}, ["v", "w"])
    agree(proto, x)


def test_a_small_initializer_that_is_an_output() -> None:
    proto = model("MatMul", x := real(2, 4), {"w": real(4, 3)}, ["x", "w"])
    proto.graph.output.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3]))
    agree(proto, x)


def test_an_input_that_is_left_out_is_refused_before_a_kernel_reads_it() -> None:
    """ONNX Runtime itself reads it without a look."""
    proto = model("Einsum", real(2, 4), {"w": real(4, 3)}, ["x", ""], equation="ij,jk->ik")
    with pytest.raises(cimc.ModelError, match="input 1 is left out"):
        cimc.compile(proto, target="ideal")


@pytest.mark.parametrize("at", [1, 3])
def test_an_attribute_stated_twice_is_refused(at: int) -> None:
    proto = model("Conv", x := real(1, 2, 4), {"w": real(3, 2, 3)}, ["x", "w"], strides=[1])
    proto.graph.node[0].attribute.append(helper.make_attribute("strides", [at]))
    agree(proto, x)
