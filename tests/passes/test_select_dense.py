"""MatMul and Gemm against ONNX Runtime, for every shape that numpy's broadcasting knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .vmm_reference import build, products, same

RNG = np.random.default_rng(0)


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


@given(
    shapes=st.sampled_from(
        [
            ((4, 3), (3, 5)),
            ((3,), (3, 5)),
            ((4, 3), (3,)),
            ((3,), (3,)),
            ((2, 4, 3), (3, 5)),
            ((2, 4, 3), (2, 3, 5)),
            ((1, 4, 3), (2, 3, 5)),
            ((4, 3), (2, 3, 5)),
            ((3,), (2, 3, 5)),
            ((2, 4, 3), (1, 3, 5)),
            ((6, 2, 4, 3), (2, 3, 5)),
            ((6, 1, 4, 3), (2, 3, 5)),
            ((6, 1, 4, 3), (1, 2, 3, 5)),
            ((1, 2, 4, 3), (6, 1, 3, 5)),
            ((2, 4, 3), (6, 2, 3, 5)),
            ((2, 4, 3), (3,)),
            ((1, 1), (1, 1)),
        ]
    ),
    left=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]], left: bool) -> None:
    x, w = real(*shapes[0]), real(*shapes[1])
    if left:
        x, w = np.ascontiguousarray(w), np.ascontiguousarray(x)
    model = build("MatMul", {"x": x}, {"w": w}, order=["w", "x"] if left else ["x", "w"])
    assert len(products(same(model, {"x": x}))) == 1


@given(
    trans=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    left=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, 0.25, 0.0]),
    c=st.sampled_from([None, (), (1,), (5,), (1, 5), (4, 1), (4, 5), (1, 1)]),
    c_constant=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_gemm(trans: tuple[int, int], left: bool, alpha: float, beta: float, c: Any, c_constant: bool) -> None:
    a, b = real(*((3, 4) if trans[0] else (4, 3))), real(*((5, 3) if trans[1] else (3, 5)))
    inputs, constants = ({"b": b}, {"a": a}) if left else ({"a": a}, {"b": b})
    order = ["a", "b"]
    if c is not None:
        order.append("c")
        (constants if c_constant else inputs)["c"] = real(*c) if c else np.array(0.7, np.float32)
    model = build("Gemm", inputs, constants, order=order, transA=trans[0], transB=trans[1], alpha=alpha, beta=beta)
    state = same(model, inputs)
    assert len(products(state)) == 1
    assert state.placements["gemm"].where == "analog"


def test_gemm_keeps_a_constant_bias_as_the_bias() -> None:
    x, w, c = real(2, 3), real(3, 5), real(5)
    (vmm,) = products(same(build("Gemm", {"x": x}, {"w": w, "c": c}, beta=0.5), {"x": x}))
    assert [v.name for v in vmm.inputs if v is not None] == ["x", "w", "c"]
    assert vmm.attributes.get_float("beta") == 0.5


def test_a_transposed_weight_keeps_its_name() -> None:
    model = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,3] x) => (float[N,2] y)
    <float[2,3] w = {1, 2, 3, 4, 5, 6}> { t = Transpose <perm = [1, 0]> (w)  y = MatMul (x, t) }"""
    state = same(model, {"x": real(7, 3)})
    (vmm,) = products(state)
    assert vmm.inputs[1] is not None
    assert vmm.inputs[1].name == "w"
    assert [p.where for p in state.placements.values()] == ["folded", "analog"]


def test_run_time_weights_stay_digital() -> None:
    x, w = real(2, 3), real(3, 5)
    state = same(build("MatMul", {"x": x, "w": w}, {}), {"x": x, "w": w})
    assert not products(state)
    assert "'w' is an input of the model" in state.placements["matmul"].why


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_real_types(dtype: Any) -> None:
    x, w = real(2, 3).astype(dtype), real(3, 5).astype(dtype)
    assert products(same(build("MatMul", {"x": x}, {"w": w}), {"x": x}, rtol=1e-2))
