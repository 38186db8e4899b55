"""Legalise keeps the result of ONNX Runtime, to the bit where it is an integer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.base import Compilation
from cimc.passes.legalise import Legalise
from cimc.passes.manager import PassManager
from tests.passes.graph_text import new_nodes

from .vmm_reference import IDEAL, Array, build, oracle, parse, products, run, select

RNG = np.random.default_rng(3)


def codes(dtype: Any, *shape: int) -> Any:
    """8-bit codes; int8 ones of 7 bits, as ONNX Runtime's AVX2 kernels saturate pairs of larger products with uint8."""
    low, high = (-64, 63) if dtype is np.int8 else (0, 255)
    return RNG.integers(low, high + 1, shape).astype(dtype)


def legalised(model: onnx.ModelProto) -> Compilation:
    return PassManager([Legalise()]).run(Compilation(ir.from_proto(model), IDEAL))


def exact(model: onnx.ModelProto, inputs: dict[str, Array]) -> Compilation:
    """The legalised model in ONNX Runtime, and the selected one, equal the original."""
    want = oracle(model, inputs)
    for got in (oracle(ir.to_proto(legalised(model).model), inputs), run(select(model), inputs)):
        for a, b in zip(got, want, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    return select(model)


@given(
    types=st.sampled_from([(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]),  # what ONNX Runtime has
    per_channel=st.booleans(),
    bias=st.booleans(),
    groups=st.integers(1, 2),
)
@settings(max_examples=30, deadline=None)
def test_qlinear_conv(types: tuple[Any, Any], per_channel: bool, bias: bool, groups: int) -> None:
    x_type, w_type = types
    x = codes(x_type, 2, 2 * groups, 6, 5)
    channels = (4,) if per_channel else ()
    constants: dict[str, Any] = {
        "xs": np.float32(0.02), "xz": codes(x_type), "w": codes(w_type, 4, 2, 3, 3),
        "ws": RNG.uniform(0.01, 0.02, channels).astype(np.float32),
        "wz": np.zeros(channels, w_type) if w_type is np.int8 else np.full(channels, 120, w_type),
        "ys": np.float32(0.4), "yz": np.array(x_type(3)),
    }  # fmt: skip
    if bias:
        constants["b"] = RNG.integers(-2000, 2000, 4).astype(np.int32)
    constants = {name: np.asarray(a) for name, a in constants.items()}
    model = build("QLinearConv", {"x": x}, constants, pads=[1, 1, 0, 0], group=groups)
    state = exact(model, {"x": x})
    assert len(products(state)) == 1
    placement = state.placements["qlinearconv"]
    assert (placement.op_type, placement.where) == ("QLinearConv", "analog")
    assert list(state.placements) == ["qlinearconv"]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(left: bool, per_column: bool) -> None:
    a, b = codes(np.uint8, 4, 6), codes(np.int8, 6, 3)
    columns = (3,) if per_column and not left else ()
    rest: dict[str, Any] = {
        "as": np.float32(0.02), "az": np.uint8(113), "bs": np.full(columns, 0.03, np.float32), "bz": np.zeros(columns, np.int8),
        "ys": np.float32(0.5), "yz": np.uint8(118),
    }  # fmt: skip
    rest = {name: np.asarray(v) for name, v in rest.items()}
    inputs, constants = ({"b": b}, {"a": a}) if left else ({"a": a}, {"b": b})
    model = build("QLinearMatMul", inputs, constants | rest, order=["a", "as", "az", "b", "bs", "bz", "ys", "yz"])
    assert len(products(exact(model, inputs))) == 1


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_matmul_integer(zeros: int) -> None:
    a, b = codes(np.uint8, 4, 6), codes(np.int8, 6, 3)
    constants = dict(list({"b": b, "az": np.array(7, np.uint8), "bz": codes(np.int8, 3)}.items())[: zeros + 1])
    assert len(products(exact(build("MatMulInteger", {"a": a}, constants), {"a": a}))) == 1


def test_matmul_integer_takes_a_zero_point_known_only_at_run_time() -> None:
    model = parse(
        """g (float[4,6] x) => (int32[4,3] y) { q, s, z = DynamicQuantizeLinear (x)  [m] y = MatMulInteger (q, w, z) }""",
        w=codes(np.int8, 6, 3),
    )
    assert len(products(exact(model, {"x": RNG.standard_normal((4, 6)).astype(np.float32)}))) == 1


def test_conv_integer() -> None:
    x = codes(np.uint8, 1, 2, 5, 5)
    constants = {"w": codes(np.uint8, 3, 2, 3, 3), "xz": np.array(9, np.uint8)}
    assert len(products(exact(build("ConvInteger", {"x": x}, constants, pads=[1, 1, 1, 1]), {"x": x}))) == 1


def test_sums_beyond_the_integers_of_float32_stay_digital() -> None:
    a, w = codes(np.uint8, 1, 1100), np.full((1100, 1), -64, np.int8)
    state = exact(build("MatMulInteger", {"a": a}, {"w": w}), {"a": a})
    assert not products(state)
    assert "2**24" in state.placements["matmulinteger"].why


def test_qdq_weights_reach_the_crossbars() -> None:
    model = parse(
        """g (float[2,6] x) => (float[2,3] y) {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  dw = DequantizeLinear <axis = 1> (w, ws)
        [m] y = MatMul (d, dw) }""",
        s=np.array(0.05, np.float32), z=np.array(3, np.uint8), w=codes(np.int8, 6, 3), ws=np.array([0.1, 0.2, 0.3], np.float32),
    )  # fmt: skip
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    state = select(model)
    np.testing.assert_allclose(run(state, {"x": x})[0], oracle(model, {"x": x})[0], rtol=1e-5, atol=1e-5)
    assert [p.where for p in state.placements.values()] == ["digital", "digital", "folded", "analog"]


def test_run_time_quantised_weights_stay_digital_with_the_reason() -> None:
    a, b = codes(np.uint8, 4, 6), codes(np.uint8, 6, 3)
    state = exact(build("MatMulInteger", {"a": a, "b": b}, {}), {"a": a, "b": b})
    assert "known only at run time" in state.placements["matmulinteger"].why


def test_initializers_cease_to_be_inputs_of_old_models() -> None:
    model = build("MatMul", {"x": np.ones((2, 3), np.float32), "w": np.ones((3, 4), np.float32)}, {})
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w"))
    model.ir_version = 3
    assert len(products(select(model))) == 1
    model.ir_version = 8
    state = select(model)
    assert not products(state)
    assert "only its default" in state.placements["matmul"].why


def test_every_node_gets_a_name_of_its_own() -> None:
    model = parse("g (float[2] x) => (float[2] z) { [n] a = Relu (x)  [n] b = Relu (a)  c = Relu (b)  z = Relu (c) }")
    assert list(legalised(model).placements) == ["n", "n_2", "Relu", "Relu_2"]


def test_text() -> None:
    """A quantised product of constant weights: its zero point is taken off the input, and it is real from there on."""
    model = parse(
        "g (uint8[2,4] x) => (int32[2,3] y) { [q] y = MatMulInteger (x, w, a) }",
        w=np.ones((4, 3), np.int8),
        a=np.array(1, np.uint8),
    )
    assert new_nodes(model, Legalise(), before=()) == [
        '["q/dequantize"] "q/dequantize" = DequantizeLinear (x, "q/one", a)',
        '[q] q = MatMul ("q/dequantize", "q/weight")',
        '["q/int32"] y = Cast <to: int = 6> (q)',
    ]
