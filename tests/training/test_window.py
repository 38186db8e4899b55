"""Which weight spans the conductance window when training starts from weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cimc

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


Found = tuple[dict[str, np.ndarray], dict[str, np.ndarray], float, dict[str, np.ndarray]]


def spans(draw: Any, target: str = "bulk-rram", **changes: Any) -> Found:
    """Span at the start of training and weights of each layer, the target's ``window_he``, and the spans of the program."""
    proto = network(draw)
    program = cimc.compile(proto, target, calibration={"x": np.ones((4, 8), np.float32)}, settings=changes or None)
    trainer = cimc.Trainer(cimc.Chip(program), loss="mse", init="weights")
    held = {layer.name: program.tensors[f"initializer/{layer.weight.tensor}"].astype(np.float64) for layer in program.layers}
    factor = program.target.update.window_he
    assert factor is not None
    found = {name: span.reshape(-1) for name, span in trainer.scales().items()}
    return found, held, factor, {name: np.array(program.tensors[f"weight_max/{name}"]) for name in held}


@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256"])
@pytest.mark.parametrize("draw", [uniform, he])
def test_the_window_follows_the_weights_that_are_programmed(target: str, draw: Any) -> None:
    """Each column's RMS times ``window_he``, or its span of least error where that is larger."""
    found, held, factor, compiled = spans(draw, target)
    for name, weights in held.items():
        rms = np.maximum(np.sqrt(np.mean(np.square(weights), axis=1)), np.sqrt(2 / weights.shape[1]) / 4)
        np.testing.assert_allclose(found[name], np.maximum(factor * rms, compiled[name]), rtol=1e-5)
        if draw is uniform:
            assert np.median(found[name]) < factor * np.sqrt(2 / weights.shape[1]) / 2


@pytest.mark.parametrize("scale", ["layer", "column"])
def test_training_begins_with_the_span_that_the_program_has(scale: str) -> None:
    """Where it is wider than ``window_he`` times the RMS: what a compilation keeps of large weights, training keeps too."""
    found, held, _, compiled = spans(he, "bulk-rram-256", **{"weights.scale": scale, "update.window_he": 0.5})
    for name, span in found.items():
        assert compiled[name].size == (len(held[name]) if scale == "column" else 1)
        np.testing.assert_array_equal(span, np.broadcast_to(compiled[name], span.shape))


def test_weights_near_zero_have_room_to_grow() -> None:
    found, held, factor, _ = spans(near_zero)
    for name, weights in held.items():
        np.testing.assert_allclose(found[name], factor * np.sqrt(2 / weights.shape[1]) / 4, rtol=1e-5)


def test_the_large_weights_of_a_sparse_layer_are_kept_where_the_chip_is_good_enough() -> None:
    exact = {"device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0, "adc.bits": None}
    found, held, factor, _ = spans(sparse, **exact)
    for name, weights in held.items():
        rms = np.maximum(np.sqrt(np.mean(np.square(weights), axis=1)), np.sqrt(2 / weights.shape[1]) / 4)
        np.testing.assert_allclose(found[name], np.maximum(np.abs(weights).max(axis=1), factor * rms), rtol=1e-5)


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
