"""A claimed interval holds on what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from cimc.ir.onnx_io import session, split
from cimc.passes.intervals import UNKNOWN, Interval, intervals

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def _model(body: str, inputs: str = "float[4,6] x", consts: str = "") -> ir.Model:
    text = f"{_HEAD} g ({inputs}) => (float y) {consts} {{ {body} }}"
    return ir.from_proto(parser.parse_model(text))


def _interval(body: str, low: float = -2.0, high: float = 3.0, **more: str) -> Interval:
    return intervals(_model(body, **more), {"x": Interval(low, high, exact=True)})["y"]


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        "y = Sigmoid(x)",
        "y = Softmax(x)",
        "y = Abs(x)",
        "y = Exp(x)",
        "y = HardSigmoid(x)",
        "a = Relu(x) y = Transpose(a)",
        "a = Relu(x) b = Sigmoid(x) y = Add(a, b)",
        "a = Relu(x) b = Sigmoid(x) y = Mul(a, b)",
        "a = Relu(x) b = Sigmoid(x) y = Concat <axis=1> (a, b)",
        "y = Mul(x, x)",
        "a = Relu(x) y = Dropout(a)",
        "a = Relu(x) y = ReduceMean(a)",
        "y = ReduceSumSquare(x)",
        "c = Constant <value_float = 0.0> () y = Max(x, c)",
    ],
)
def test_nonnegative(body: str) -> None:
    assert _interval(body).nonnegative


@pytest.mark.parametrize("body", ["y = Tanh(x)", "y = Neg(x)", "a = Relu(x) y = Sub(a, x)", "y = LeakyRelu(x)", "y = Erf(x)"])
def test_possibly_negative(body: str) -> None:
    assert not _interval(body).nonnegative


def test_padding_joins_its_value() -> None:
    padded = "p = Constant <value_ints = [0, 1, 0, 1]> () c = Constant <value_float = {}> () y = Pad(x, p, c)"
    assert _interval(padded.format("0.0"), 1.0, 2.0).low == 0
    assert _interval(padded.format("-1.0"), 1.0, 2.0).low == -1


def test_unsigned_bytes() -> None:
    model = _model("a = Cast <to=1> (x) s = Constant <value_float = 255.0> () y = Div(a, s)", inputs="uint8[4] x")
    found = intervals(model, {})["y"]
    assert found.low == 0
    assert found.high == pytest.approx(1, rel=1e-5)


def test_dequantised_bytes() -> None:
    body = "y = DequantizeLinear(x, s, z)"
    consts = "<float s = {0.5}, uint8 z = {128}>"
    found = intervals(_model(body, "uint8[4] x", consts), {})["y"]
    assert (found.low, found.high) == (pytest.approx(-64, rel=1e-5), pytest.approx(63.5, rel=1e-5))
    assert intervals(_model("y = DequantizeLinear(x, s)", "uint8[4] x", "<float s = {0.5}>"), {})["y"].low == 0


def test_normalised_input_keeps_its_ends() -> None:
    body = "m = Constant <value_float = 0.5> () s = Constant <value_float = 0.25> () a = Sub(x, m) y = Div(a, s)"
    found = _interval(body, 0.0, 1.0)
    assert found.exact
    assert (found.low, found.high) == (pytest.approx(-2, rel=1e-4), pytest.approx(2, rel=1e-4))


def test_unknown_operator_and_unstated_input() -> None:
    assert _interval("y = Erf(x)") == UNKNOWN
    assert intervals(_model("y = Identity(x)"), {})["y"] == UNKNOWN


def test_integers_wrap() -> None:
    model = ir.from_proto(parser.parse_model(f"{_HEAD} g (int32[4] x) => (int32[4] y) {{ a = Abs(x) y = Add(a, a) }}"))
    assert not intervals(model, {"x": Interval(0, 2.0**31 - 1)})["y"].nonnegative


_STEPS = [
    "Relu({0})",
    "Sigmoid({0})",
    "Abs({0})",
    "Neg({0})",
    "Exp({0})",
    "Tanh({0})",
    "Clip({0}, c, d)",
    "Clip({0}, d, c)",
    "Add({0}, {1})",
    "Sub({0}, {1})",
    "Mul({0}, {1})",
    "Mul({0}, c)",
    "Div({0}, d)",
    "Div({0}, {1})",
    "Max({0}, {1})",
    "Min({0}, {1}, c)",
    "Sum({0}, {1}, {0})",
    "Where(b, {0}, {1})",
    "Softmax({0})",
    "Pow({0}, two)",
    "Transpose <perm=[0,1]> ({0})",
    "LeakyRelu({0})",
    "Sqrt({0})",
]


@settings(max_examples=120, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6),
    ends=st.tuples(st.floats(-3, 3, width=32), st.floats(0, 3, width=32)),
    seed=st.integers(0, 1000),
)
def test_intervals_hold(steps: list[tuple[str, int, int]], ends: tuple[float, float], seed: int) -> None:
    names, lines = ["x"], []
    for number, (step, first, second) in enumerate(steps):
        lines.append(f"v{number} = {step.format(names[first % len(names)], names[second % len(names)])}")
        names.append(f"v{number}")
    consts = "<float c = {-0.5}, float d = {0.75}, float two = {2.0}, bool[6] b = {1,0,1,0,1,1}>"
    model = _model(" ".join(lines) + f" y = Identity({names[-1]})", consts=consts)
    low, high = ends[0], ends[0] + ends[1]
    claimed = intervals(model, {"x": Interval(low, high, exact=True)})
    x = np.random.default_rng(seed).uniform(low, high, (4, 6)).astype(np.float32).clip(low, high)
    x[0, :2] = low, high
    outputs = session(*split(model), outputs=names[1:]).run(None, {"x": x})
    for name, value in zip(names[1:], outputs, strict=True):
        numbers = value[~np.isnan(value)]
        assert (numbers >= claimed[name].low).all(), (name, claimed[name], numbers.min())
        assert (numbers <= claimed[name].high).all(), (name, claimed[name], numbers.max())
