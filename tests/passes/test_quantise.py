"""Weight scales and their error: closed forms, and the encoding itself as reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from cimc.errors import ModelError
from cimc.ir import encoding
from cimc.passes.base import Compilation
from cimc.passes.manager import PassManager
from cimc.passes.quantise import Quantise, weight_error, weight_max
from cimc.passes.select import Select
from cimc.targets.description import Array, Device, Target, Weights


def _target(levels: int | None = 4, **weights: Any) -> Target:
    return Target(name="test", device=Device(levels=levels, read_sigma_us=0.01), weights=Weights(**weights))


def _state(weight: np.ndarray, target: Target, body: str = "y = MatMul(x, w)") -> Compilation:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,{weight.shape[0]}] x) => (float y) {{ {body} }}'
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return PassManager([Select()]).run(Compilation(ir.from_proto(model), target))


def _quantised(weight: np.ndarray, target: Target) -> dict[str, Any]:
    state = PassManager([Quantise()]).run(_state(weight, target))
    (node,) = (node for node in state.model.graph if node.domain == "cimc")
    return {name: attribute.value for name, attribute in node.attributes.items()}


EXAMPLE = np.array([[0.5, -1.0], [0.2, 0.9]], np.float32)


def test_text() -> None:
    """Three steps to the largest weight: 0.5 -> 2/3 (a half rounds to even), 0.2 -> 1/3, 0.9 -> 1."""
    found = _quantised(EXAMPLE, _target())
    lost = (2 / 3 - 0.5) ** 2 + (1 / 3 - 0.2) ** 2 + 0.1**2
    assert list(found["weight_max"]) == [1.0]
    assert found["weight_error"] == pytest.approx((lost / (0.25 + 1 + 0.04 + 0.81)) ** 0.5, rel=1e-5)


def test_a_scale_for_each_column() -> None:
    found = _quantised(np.array([[0.5, 0.0], [-2.0, 0.0]], np.float32), _target(scale="column"))
    assert list(found["weight_max"]) == [2.0, 0.0]


def test_clipped_at_so_many_rms() -> None:
    weight = np.ones((100, 1), np.float32)
    weight[0] = 10
    rms = float(np.sqrt((weight**2).mean()))
    target = _target(None, clip_sigma=2.0)
    found = _quantised(weight, target)
    assert found["weight_max"][0] == pytest.approx(2 * rms, rel=1e-6)
    assert found["weight_error"] == pytest.approx((10 - 2 * rms) / (rms * 10), rel=1e-5)


def test_zero_weights() -> None:
    found = _quantised(np.zeros((3, 2), np.float32), _target())
    assert (list(found["weight_max"]), found["weight_error"]) == ([0.0], 0.0)


def test_continuous_weights_lose_nothing() -> None:
    assert _quantised(EXAMPLE, _target(rounded=False))["weight_error"] == 0.0


def test_ideal_target_has_the_scale_alone() -> None:
    found = _quantised(EXAMPLE, Target(name="ideal"))
    assert list(found["weight_max"]) == [1.0]
    assert "weight_error" not in found


def test_nodes_of_one_layer_agree() -> None:
    state = _state(np.eye(3, dtype=np.float32), _target(), "a = MatMul(x, w) y = MatMul(a, w)")
    Quantise().call(state)
    one, two = (node.attributes["weight_max"].value for node in state.model.graph if node.domain == "cimc")
    assert list(one) == list(two) == [1.0]


def test_weights_are_untouched() -> None:
    state = _state(EXAMPLE.copy(), _target())
    Quantise().call(state)
    value = state.model.graph.initializers["w"].const_value
    assert value is not None
    assert np.array_equal(value.numpy(), EXAMPLE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_no_conductance_holds(bad: float) -> None:
    state = _state(EXAMPLE.copy(), _target())
    weight = EXAMPLE.copy()
    weight[1, 0] = bad
    state.model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    with pytest.raises(ModelError, match="NaN or Inf"):
        Quantise().call(state)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    transposed=st.booleans(),
    scale=st.sampled_from(["layer", "column"]),
    weights=st.sampled_from(
        [{}, {"bits": 6, "cells": 3}, {"representation": "offset", "bits": 6, "cells": 3}, {"clip_sigma": 1.5}]
    ),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_encoding(shape: Any, transposed: bool, scale: Any, weights: dict[str, Any], seed: int) -> None:
    base = _target(4, scale=scale, **{k: v for k, v in weights.items() if k != "representation"})
    target = base
    if "representation" in weights:
        target = Target(name="test", array=Array(unit_column=True), device=base.device, weights=Weights(scale=scale, **weights))
    matrix = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if transposed:
        matrix = np.ascontiguousarray(matrix.swapaxes(1, 2)).swapaxes(1, 2)
    span = weight_max(matrix, target)
    largest = np.abs(matrix).max(axis=1).reshape(-1) if scale == "column" else np.abs(matrix).max(keepdims=True).reshape(-1)
    limit = weights.get("clip_sigma", np.inf) * np.sqrt((matrix.astype(np.float64) ** 2).mean())
    np.testing.assert_allclose(span, np.minimum(largest, limit), rtol=1e-6)
    step = np.broadcast_to(span.astype(np.float64), (shape[0] * shape[2],)) / encoding.steps_of_full_weight(target)
    back = encoding.quantise(matrix, span, target) * step.reshape(shape[0], 1, shape[2])
    want = np.sqrt(((back - matrix) ** 2).sum() / (matrix.astype(np.float64) ** 2).sum())
    assert weight_error(matrix, span, target) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_a_large_layer_is_estimated_closely() -> None:
    matrix = np.random.default_rng(0).standard_normal((1, 2000, 1500), np.float32)
    target = _target(16)
    span = weight_max(matrix, target)
    back = encoding.quantise(matrix, span, target) * float(span[0]) / encoding.steps_of_full_weight(target)
    want = np.sqrt(((back - matrix) ** 2).mean() / (matrix.astype(np.float64) ** 2).mean())
    assert weight_error(matrix, span, target) == pytest.approx(want, rel=5e-3)
