"""Which weight spans the conductance window when training starts from weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.targets.load import load_target
from cimc.training.window import error_share, least_error

RELU = """h = Gemm <transB = 1> (x, w1, b1)  a = Relu (h)  i = Gemm <transB = 1> (a, w2, b2)  c = Relu (i)
    y = Gemm <transB = 1> (c, w3, b3)"""


def network(deviation: Any, inputs: int = 8, hidden: int = 64, seed: int = 0) -> onnx.ModelProto:
    """Three dense layers, their weights drawn by ``deviation(random, shape)``."""
    random = np.random.default_rng(seed)
    text = f"net (float[N, {inputs}] x) => (float[N, 1] y) {{ {RELU} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    for n, shape in enumerate(((hidden, inputs), (hidden, hidden), (1, hidden)), 1):
        arrays = {f"w{n}": deviation(random, shape), f"b{n}": np.zeros(shape[0])}
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items())
    return proto


def uniform(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """PyTorch's default: within 1 / sqrt(fan-in) either way."""
    return random.uniform(-1, 1, shape) / np.sqrt(shape[1])


def he(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return random.normal(0, np.sqrt(2 / shape[1]), shape)


def near_zero(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return random.normal(0, 1e-4, shape)


def sparse(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return he(random, shape) * (random.uniform(size=shape) < 0.1)


def spans(draw: Any, target: str = "bulk-rram", **changes: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Span and weights of each layer, and the target's ``window_he``."""
    proto = network(draw)
    program = cimc.compile(proto, target, calibration={"x": np.ones((4, 8), np.float32)}, settings=changes or None)
    trainer = cimc.Trainer(cimc.Chip(program), loss="mse", init="weights")
    held = {layer.name: program.tensors[f"initializer/{layer.weight.tensor}"].astype(np.float64) for layer in program.layers}
    factor = program.target.update.window_he
    assert factor is not None
    return trainer.scales(), held, factor


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.003, 0.04, 1.0]),
    count=st.integers(1, 40),
    zeros=st.integers(0, 5),
)
def test_the_span_of_least_error_is_the_minimum(seed: int, share: float, count: int, zeros: int) -> None:
    """Beside a fine search over spans."""
    weights = np.random.default_rng(seed).standard_t(3, count)
    padded = np.concatenate([np.abs(weights), np.zeros(zeros)])
    (span,) = least_error(padded[None], count, share)

    def error(s: Any) -> Any:
        return np.square(np.maximum(np.abs(weights)[:, None] - s, 0)).mean(axis=0) + share * np.square(s)

    grid = np.linspace(0, np.abs(weights).max(), 2001)
    assert error(np.array([span]))[0] <= error(grid).min() * (1 + 1e-9)
    if not share:
        assert span == pytest.approx(np.abs(weights).max())


def test_the_error_of_a_weight_is_what_the_devices_show() -> None:
    """The variance of 5,000 weights that are programmed and read: its own deviation is sqrt(2/5000), 2 %; 5 are allowed."""
    target = load_target("bulk-rram-256", {})
    random = np.random.default_rng(4)
    w = random.uniform(-0.5, 0.5, (100, 50)).astype(np.float32)
    text = "net (float[N, 50] x) => (float[N, 100] y) { y = Gemm <transB = 1> (x, w) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    program = cimc.compile(proto, "bulk-rram-256", calibration={"x": np.ones((4, 50), np.float32)})
    chip = cimc.Chip(program)
    (name,) = chip.crossbars
    wanted = np.array(w.T, np.float64)
    span = float(program.tensors[f"weight_max/{name}"][0])
    device = target.device
    read_us = random.normal(0, np.sqrt(2) * device.read_sigma_us, wanted.shape)
    error = (chip.weights()[name][0] - wanted) / span + read_us / (device.g_max_us - device.g_min_us)
    assert np.mean(np.square(error)) == pytest.approx(error_share(target), rel=0.1)


@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256"])
@pytest.mark.parametrize("draw", [uniform, he])
def test_the_window_follows_the_weights_that_are_programmed(target: str, draw: Any) -> None:
    found, held, factor = spans(draw, target)
    for name, weights in held.items():
        rms = np.sqrt(np.mean(np.square(weights)))
        (least,) = least_error(np.abs(weights).reshape(1, -1), weights.size, error_share(load_target(target, {})))
        np.testing.assert_allclose(found[name], max(factor * rms, least), rtol=1e-5)
        if draw is uniform:
            assert found[name].max() < factor * np.sqrt(2 / weights.shape[1]) / 2


def test_weights_near_zero_have_room_to_grow() -> None:
    found, held, factor = spans(near_zero)
    for name, weights in held.items():
        np.testing.assert_allclose(found[name], factor * np.sqrt(2 / weights.shape[1]) / 4, rtol=1e-5)


def test_the_large_weights_of_a_sparse_layer_are_kept_where_devices_are_good_enough() -> None:
    found, held, factor = spans(sparse, **{"device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0})
    for name, weights in held.items():
        if weights.any():
            np.testing.assert_allclose(found[name], max(np.abs(weights).max(), factor * np.sqrt(np.mean(weights**2))), rtol=1e-5)


def test_a_regression_with_small_weights_trains() -> None:
    """From PyTorch's default initialisation; with He's window, five times the RMS, the error is far larger."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (4096, 8)).astype(np.float32)
    y = np.sin(3 * x[:, :1]) + 2 * x[:, 1:2] * x[:, 2:3]
    y = ((y - y.mean()) / y.std()).astype(np.float32)
    losses = {}
    for window in (None, 2.05 * np.sqrt(6)):  # sqrt(6): He's deviation over that of the initialisation
        program = cimc.compile(network(uniform), "bulk-rram", calibration={"x": x[:64]})
        trainer = cimc.Trainer(cimc.Chip(program), loss="mse", window=window)
        losses[window] = trainer.fit(x, y, epochs=2).last["loss"]
    own, wide = losses.values()
    assert own < 0.75 * wide
