"""What is exactly zero carries no error: a layer of zeros, and columns of zeros where each column has a scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

import cimc

TARGETS = ("bulk-rram", "bulk-rram-256", "isaac")
X = np.random.default_rng(0).random((32, 16)).astype(np.float32)


def model(body: str, **arrays: NDArray[np.float32]) -> ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,16] x) => (float[n,8] y) {{ {body} }}'
    made = parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


def weights(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.2, (rows, columns)).astype(np.float32)


def run(made: ModelProto, target: str, **settings: Any) -> cimc.Chip:
    return cimc.Chip(cimc.compile(made, target, calibration={"x": X}, settings=settings), seed=3)


@pytest.mark.parametrize("scale", ["layer", "column"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_branch_of_zeros_adds_nothing(target: str, scale: str) -> None:
    body = "h = MatMul(x, w) r = Relu(h) z = Gemm(r, zeros, b) y = Add(h, z)"
    bias = np.linspace(-1, 1, 8).astype(np.float32)
    made = model(body, w=weights(16, 8, 1), zeros=np.zeros((8, 8), np.float32), b=bias)
    chip = run(made, target, **{"weights.scale": scale})
    first = chip.run({"x": X}, 0, keep=("h",))
    np.testing.assert_array_equal(first["y"], first["h"] + bias)
    layer = next(layer.name for layer in chip.program.layers if layer.weight.tensor == "zeros")
    np.testing.assert_array_equal(chip.weights()[layer], 0)


@pytest.mark.parametrize("target", TARGETS)
def test_pruned_columns_are_exact_where_each_column_has_a_scale(target: str) -> None:
    w = weights(16, 8, 2)
    w[:, ::2] = 0
    y = run(model("y = MatMul(x, w)", w=w), target, **{"weights.scale": "column"}).run({"x": X})["y"]
    np.testing.assert_array_equal(y[:, ::2], 0)
    assert (y[:, 1::2] != 0).any()


def test_an_image_and_a_saved_program_keep_them(tmp_path) -> None:
    chip = run(model("y = MatMul(x, w)", w=np.zeros((16, 8), np.float32)), "bulk-rram-256")
    chip.save(tmp_path / "m.cim")
    cimc.export_image(chip, source="target").save(tmp_path / "m.cimg")
    for other in (cimc.Chip(cimc.load(tmp_path / "m.cim")), cimc.load_image(tmp_path / "m.cimg").program(seed=1)):
        np.testing.assert_array_equal(other.run({"x": X})["y"], 0)


@pytest.mark.parametrize("settings", [{}, {"update.window_he": None}, {"update.window_he": None, "weights.scale": "column"}])
def test_a_layer_that_starts_at_zero_trains(settings: dict[str, Any]) -> None:
    made = model("h = MatMul(x, w) y = Gemm(h, zeros)", w=weights(16, 8, 4), zeros=np.zeros((8, 8), np.float32))
    chip = run(made, "bulk-rram-256", **settings)
    trainer = cimc.Trainer(chip, batch_size=16, lr=0.05, init="weights")
    for _ in range(20):
        trainer.step(X[:16], np.arange(16) % 8)
    assert np.abs(trainer.weights()["zeros"]).max() > 0
    assert np.isfinite(chip.run({"x": X})["y"]).all()


@pytest.mark.parametrize("converters", [{}, {"adc.gain_sigma": 0.03, "adc.offset_sigma_lsb": 2.0, "adc.calibration_reads": 64}])
def test_copies_of_a_layer_of_zeros_give_zeros(converters: dict[str, float]) -> None:
    made = model("y = MatMul(x, w)", w=np.zeros((16, 8), np.float32))
    settings = {**converters, "weights.scale": "column"}
    program = cimc.compile(made, "bulk-rram-256", calibration={"x": X}, settings=settings, copies={"MatMul_0": 2})
    (layer,) = program.layers
    chip = cimc.export_image(program).program(seed=3)
    assert len(chip.crossbars[layer.name].held) == 2
    np.testing.assert_array_equal(chip.run({"x": X})["y"], 0)
