"""Files that were saved when no target stated `weights.window` or `dac.full_scale`: they load, and clip nothing.

``tests/data`` holds the network of `tests.image.models` with 6, 4 and 3 columns, calibrated on its inputs times 3: a program
for `bulk-rram`, an image of it for arrays of 16x16 of `bulk-rram-256`, and the program after five steps of training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import cimc
from tests.image.models import inputs, network

DATA = Path(__file__).with_name("data")
NETWORK = network(6, 4, 3)
X = {"x": inputs(6)["x"] * 3}


def _largest() -> dict[str, float]:
    first, second = (onnx.numpy_helper.to_array(tensor) for tensor in NETWORK.graph.initializer[:2])
    return {"first": float(np.abs(first).max()), "second": float(np.abs(second).max())}


def test_a_program_keeps_its_scales() -> None:
    program = cimc.load(DATA / "largest.cim")
    weights, dac = program.target.weights, program.target.dac
    assert (weights.window, weights.scale, dac.full_scale) == ("largest", "layer", "largest")
    image = cimc.export_image(program)
    for name, largest in _largest().items():
        for held in (program, image.compiled):
            np.testing.assert_allclose(held.tensors[f"weight_max/{name}"], [largest])
    assert program.layer("first").coding.full_scale == pytest.approx(X["x"].max(), rel=1e-3)
    assert np.isfinite(cimc.Chip(program).run(X)["y"]).all()


def test_an_image_is_written_into_a_die() -> None:
    image = cimc.load_image(DATA / "largest.cimg")
    assert image.target.weights.window == "largest"
    for layer in image.layers:
        np.testing.assert_allclose(image.compiled.tensors[f"weight_max/{layer.name}"], [_largest()[layer.name]])
    assert np.isfinite(image.program(seed=1).run(X)["y"]).all()


def test_a_training_goes_on() -> None:
    program = cimc.load(DATA / "trained.cim")
    trainer = cimc.Trainer(cimc.Chip(program), loss="mse", batch_size=8)
    before = {name: span.copy() for name, span in trainer.scales().items()}
    trainer.step(X["x"][:8], np.zeros((8, 3), np.float32))
    for name, span in trainer.scales().items():
        np.testing.assert_array_equal(span, before[name])


def test_the_chip_of_today_takes_an_old_program() -> None:
    """An export by name is for the chip as it is described now, with a scale for each column."""
    image = cimc.export_image(cimc.load(DATA / "largest.cim"), "bulk-rram")
    assert image.compiled.tensors["weight_max/first"].shape == (4,)
