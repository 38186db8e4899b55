"""The VGG-8 example: its cost by the chip's counting rule, and that it trains where the window is the same in every layer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cimc

EXAMPLE = Path(__file__).parents[2] / "examples" / "vgg8"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vgg8_model", EXAMPLE / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cost_is_that_of_the_counting_rule(example: ModuleType) -> None:
    """28 channels of 3x3 a slice of 256 rows, 32 pairs a tile of 64 columns, all tiles of a layer at once: counted by hand."""
    program = cimc.compile(
        example.vgg8(3, 32), target="bulk-rram-256", calibration={"input": np.ones((4, 3, 32, 32), np.float32)}
    )
    positions = [1024, 1024, 256, 256, 64, 64, 1, 1]
    tiles = [1, 2 * 1, 2 * 2, 3 * 2, 3 * 4, 5 * 4, 8 * 4, 1]
    cost = program.cost()
    assert [layer.crossbars for layer in cost.layers] == tiles
    assert cost.ops == sum(positions)
    assert cost.tile_ops == sum(p * t for p, t in zip(positions, tiles, strict=True))
    assert cost.to_dict()["energy_mj"]["analog"] == pytest.approx(cost.tile_ops * 2.93e-6)
    assert cost.to_dict()["latency_ms"]["sequential"] == pytest.approx(cost.ops * 720e-6)


def test_it_learns_two_classes_of_small_images(example: ModuleType) -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 256)
    x = random.uniform(0, 0.7, (256, 1, 8, 8)).astype(np.float32)
    x[y == 1, :, :4] += 0.3
    program = cimc.compile(example.vgg8(1, 8, 2), target="bulk-rram-256", calibration={"input": x[:64]})
    trainer = cimc.Trainer(cimc.Chip(program), lr=3e-3, batch_size=32, init="devices", w_max=0.25, calibration_images=128)
    history = trainer.fit(x[:192], y[:192], epochs=8)
    # By chance half of the 64 images: 53 are five deviations above.
    assert trainer.evaluate(x[192:], y[192:])["accuracy"] > 53 / 64
    # A floating-point training changes every weight at every step.
    assert history.last["updates_per_weight"] < 0.02 * history.last["step"]
