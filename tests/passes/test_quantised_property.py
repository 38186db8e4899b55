"""Quantised products on the crossbars of `ideal`, for any shape, scale and zero point, against ONNX Runtime as written.

Products of integers give the same codes. Between DequantizeLinear and QuantizeLinear the model states real arithmetic, which
float32 rounds: there a code may differ by one, but only where the exact value lies halfway between two codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

import cimc
from tests.passes.test_quantised_exact import LARGEST, as_written, model

node = helper.make_node
#: Parts of a code: what float32 may add up to over 2**10 products of 8 bits.
NEAR = 1e-3

SCALES = st.floats(2**-10, 1, width=32) | st.sampled_from([0.1, 0.5, 0.02, 0.25])
CASES = st.fixed_dictionaries(
    {
        "operator": st.sampled_from(["conv", "matmul"]),
        "columns": st.integers(1, 6),
        "depth": st.integers(1, 12),
        "positions": st.integers(1, 5),
        "unsigned": st.booleans(),
        "per_column": st.booleans(),
        "bias": st.booleans(),
        "xs": SCALES,
        "ws": SCALES,
        "ys": SCALES,
        "xz": st.integers(0, 255),
        "yz": st.integers(0, 255),
        "seed": st.integers(0, 1 << 30),
    }
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def arrays_of(case: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Initializers and the input, real numbers that are codes."""
    random, columns, depth = np.random.default_rng(case["seed"]), case["columns"], case["depth"]
    conv = case["operator"] == "conv"
    shape = (columns, depth, 3) if conv else (depth, columns)
    kind = np.uint8 if case["unsigned"] else np.int8
    weight = random.integers(0, 2 * LARGEST, shape) if case["unsigned"] else random.integers(-LARGEST, LARGEST + 1, shape)
    count = columns if case["per_column"] else 1
    scales = np.float32(case["ws"]) * random.uniform(0.5, 1, count).astype(np.float32)
    arrays = {
        "one": np.float32(1),
        "none": np.uint8(0),
        "xs": np.float32(case["xs"]),
        "xz": np.uint8(case["xz"]),
        "w": weight.astype(kind),
        "ws": scales if case["per_column"] else scales[0],
        "wz": np.full(count, 64 if case["unsigned"] else 0, kind)[slice(None) if case["per_column"] else 0],
        "ys": np.float32(case["ys"]),
        "yz": np.uint8(case["yz"]),
    }
    positions = (case["positions"], depth, 5) if conv else (case["positions"], depth)
    return arrays, random.integers(0, 256, positions).astype(np.float32)


def compiled(made: Any, x: np.ndarray) -> np.ndarray:
    program = cimc.compile(made, "ideal")
    assert program.layers
    return cimc.Chip(program).run({"x": x})["y"]


@given(case=CASES)
@QUICK
def test_products_of_integers_give_the_same_codes(case: dict[str, Any]) -> None:
    arrays, x = arrays_of(case)
    inputs = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    if case["operator"] == "conv":
        if case["bias"]:
            arrays["b"] = np.random.default_rng(case["seed"]).integers(-3000, 3000, case["columns"]).astype(np.int32)
        product = node("QLinearConv", [*inputs, *(["b"] if case["bias"] else [])], ["y"])
    else:
        product = node("QLinearMatMul", inputs, ["y"])
    made = model([node("QuantizeLinear", ["x", "one", "none"], ["q"]), product], ["n", *x.shape[1:]], arrays)
    np.testing.assert_array_equal(compiled(made, x), as_written(made, x))


@given(case=CASES)
@QUICK
def test_between_dequantize_and_quantize_only_ties_differ(case: dict[str, Any]) -> None:
    arrays, x = arrays_of(case)
    conv = case["operator"] == "conv"
    axis = {"axis": 0 if conv else 1} if case["per_column"] else {}
    nodes = [
        node("QuantizeLinear", ["x", "one", "none"], ["q"]),
        node("DequantizeLinear", ["q", "xs", "xz"], ["f"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], **axis),
        node("Conv" if conv else "MatMul", ["f", "wf"], ["p"]),
        node("QuantizeLinear", ["p", "ys", "yz"], ["y"]),
    ]
    made = model(nodes, ["n", *x.shape[1:]], arrays)
    got, wanted = compiled(made, x), as_written(made, x)
    value = exact(arrays, x, conv)
    halfway = np.abs(value - np.floor(value) - 0.5) < NEAR
    np.testing.assert_array_equal(got[~halfway], wanted[~halfway])
    off = np.abs(got - np.clip(value, 0, 255))
    assert off.max() <= 0.5 + NEAR


def exact(arrays: dict[str, np.ndarray], x: np.ndarray, conv: bool) -> np.ndarray:
    """The real value of each code, in float64 from integers."""
    w = arrays["w"].astype(np.int64)
    zero, scale = arrays["wz"].astype(np.int64), arrays["ws"].astype(np.float64)
    q = x.astype(np.int64) - int(arrays["xz"])
    if conv:
        w = w - zero.reshape(-1, 1, 1)
        total = np.stack([np.einsum("ncw,kcw->nk", q[:, :, p : p + 3], w) for p in range(3)], 2)
        scale = scale.reshape(-1, 1) if scale.ndim else scale
    else:
        total = q @ (w - zero)
    return total * scale * float(arrays["xs"]) / float(arrays["ys"]) + int(arrays["yz"])
