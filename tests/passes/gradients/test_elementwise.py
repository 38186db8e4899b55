"""Elementwise rules against central differences, with broadcasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.gradients.activations import DERIVATIVES, FLAT

from .harness import Array, check, distinct, forward_model, normal, run_gradients

#: Where a function is not defined, or kinks, on all of the default range: inputs that keep off.
POSITIVE = {"Log", "Sqrt", "Reciprocal"}
UNIT = {"Acos", "Asin", "Atanh"}


def suited(op: str) -> Array:
    x = normal(2, 7, seed=len(op))
    if op in POSITIVE:
        return np.abs(x) + 0.3
    if op in UNIT:
        return np.tanh(x) * 0.8
    if op == "Acosh":
        return np.abs(x) + 1.3
    if op in ("HardSwish", "HardSigmoid"):
        return np.array([[-4.0, -3.2, -2.7, -1.1, 0.3, 2.2, 2.8], [3.3, 4.1, 0.7, -0.2, 1.5, -2.9, -5.0]])
    return np.tan(x * 0.3) if op == "Tan" else x


@pytest.mark.parametrize("op", sorted(DERIVATIVES))
def test_elementwise(op: str) -> None:
    check(op, suited(op))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Celu", {"alpha": 0.7}),
        ("Elu", {"alpha": 1.7}),
        ("Selu", {"alpha": 1.3, "gamma": 0.9}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("Gelu", {"approximate": "tanh", "single": False}),
        ("Relu", {}),
        ("ThresholdedRelu", {"alpha": 0.33}),
        ("Shrink", {"lambd": 0.3, "bias": 0.1}),
    ],
)
def test_attributes(op: str, attributes: dict[str, Any]) -> None:
    x = np.array([-2.1, -1.6, -1.0, -0.6, -0.25, 0.21, 0.42, 0.7, 1.4, 2.3])
    check(op, x, **attributes)


@pytest.mark.parametrize("op", [op for op in FLAT if op in ("Floor", "Ceil", "Round", "Sign")])
def test_steps_have_zero_gradient(op: str) -> None:
    check(op, np.array([-1.7, -0.3, 0.2, 1.2, 3.9]))


SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1, 3), (4, 1)), ((), (2, 2)), ((1, 3), (2, 1)), ((1,), (1, 1))]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Pow"])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_broadcasting(op: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = distinct(*left, seed=1), distinct(*right, seed=2) + 0.033
    if op == "Pow":
        a = np.abs(a) + 0.5
    if op == "Div":
        b = np.where(b < 0, b - 0.5, b + 0.5)
    check(op, a, b)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_broadcasting_of_any_shapes(data: st.DataObject) -> None:
    full = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))

    def part() -> list[int]:
        tail = full[data.draw(st.integers(0, len(full))) :]
        return [1 if data.draw(st.booleans()) else d for d in tail]

    check("Mul", normal(*part(), seed=3), normal(*part(), seed=4))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 3])
def test_variadic(op: str, count: int) -> None:
    check(op, *[distinct(2, 3, seed=i) + 0.017 * i for i in range(count)])


def test_power_of_negative_base_and_integer_exponents() -> None:
    check("Pow", normal(6), np.array([0, 1, 2, 3, -1, -2], np.int64))
    check("Pow", np.array([-1.5, 0.0, 2.0]), np.array(2.0), skip=[1])
    check("Pow", np.array([0.0, -1.0]), np.array([0.0, 0.0]), skip=[1])


def test_power_by_a_real_exponent_is_flat_where_the_base_is_not_positive() -> None:
    feeds = {"x0": np.array([-1.5, 0.0, 2.0]), "x1": np.array([2.0, 2.0, 2.0]), "r": np.ones(3)}
    model = forward_model("Pow", feeds, ["x0", "x1"], set(), 1, 0, {}, False, set())
    (grad,) = run_gradients(model, feeds, ["x1"])
    np.testing.assert_allclose(grad, [0, 0, 4 * np.log(2)])


@pytest.mark.parametrize("op", ["Min", "Max"])
def test_equal_inputs_share_the_gradient(op: str) -> None:
    feeds = {"x0": np.array([1.0, 2.0]), "x1": np.array([1.0, 2.0]), "r": np.array([3.0, 5.0])}
    model = forward_model(op, feeds, ["x0", "x1"], set(), 1, 0, {}, False, set())
    for grad in run_gradients(model, feeds, ["x0", "x1"]):
        np.testing.assert_allclose(grad, [1.5, 2.5])


LOW, HIGH = np.array(-0.5), np.array(0.6)


@pytest.mark.parametrize("limits", [(), (LOW,), (None, HIGH), (LOW, HIGH)])
def test_clip(limits: tuple[Array | None, ...]) -> None:
    check("Clip", distinct(3, 6), *limits)


@pytest.mark.parametrize("slope", [(1,), (5,), (3, 1), (3, 5)])
def test_prelu(slope: tuple[int, ...]) -> None:
    check("PRelu", normal(2, 3, 5), normal(*slope, seed=2))


def test_where() -> None:
    check("Where", np.array([[True], [False]]), normal(3), normal(2, 3, seed=1))
    check("Where", np.array([True, False, True]), normal(1, 1), normal(2, 1, seed=1))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(op: str, axis: int) -> None:
    check(op, normal(2, 3, 4), axis=axis)


def test_identity_and_casts() -> None:
    check("Identity", normal(2, 3))
    check("Cast", normal(2, 3), to=11)
    check("CastLike", normal(2, 3), np.zeros(1), skip=[1])


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumsum(reverse: int, exclusive: int) -> None:
    check("CumSum", normal(2, 4), np.array(1), reverse=reverse, exclusive=exclusive)
