"""What a chip has learnt goes into the image: W, or what its devices hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.ir.encoding import encode
from cimc.ir.program import weight_matrix
from tests.image.models import network

trainer = pytest.importorskip("cimc.training.trainer")


@pytest.fixture(scope="module")
def chip() -> cimc.Chip:
    random = np.random.default_rng(0)
    x, y = random.random((64, 20), np.float32), random.integers(0, 4, 64)
    made = cimc.Chip(cimc.compile(network(), "bulk-rram-256", calibration={"x": x}), seed=3)
    learner = trainer.Trainer(made, lr=0.05, batch_size=16, seed=0)
    for step in range(12):
        learner.step(x[step % 4 * 16 :][:16], y[step % 4 * 16 :][:16])
    return made


def test_the_weights_are_those_that_training_left(chip: cimc.Chip) -> None:
    image = cimc.export_image(chip)
    program = chip.trained_program()
    for number, layer in enumerate(program.layers):
        weights = weight_matrix(program, layer)
        assert not np.array_equal(weights, weight_matrix(cimc.compile(network(), "bulk-rram-256"), layer))
        goals = encode(weights, program.tensors[f"weight_max/{layer.name}"], layer.row_cuts, program.target).g_us
        np.testing.assert_allclose(image.goals(number).g_us, goals, atol=1e-4)
    assert any("not written yet are dropped" in note for note in image.meta["notes"])
    assert not any(name.startswith("state/") for name in image.compiled.tensors)


def test_read_back_is_the_same_from_the_chip_and_from_its_file(chip: cimc.Chip, tmp_path: Path) -> None:
    chip.save(tmp_path / "trained.cim")
    again = cimc.Chip(cimc.load(tmp_path / "trained.cim"))
    for source in ("target", "readback"):
        one, two = (cimc.export_image(c, source=source) for c in (chip, again))
        assert one.sections["CELL"].tobytes() == two.sections["CELL"].tobytes()
    image = cimc.export_image(chip, source="readback")
    for number, layer in enumerate(image.layers):
        np.testing.assert_allclose(image.goals(number).g_us, chip.conductances(layer.name), atol=1e-4)


def test_single_steps_leave_their_settings_too(chip: cimc.Chip) -> None:
    training = chip.trained_program().provenance.training
    assert training is not None
    assert (training["learning_rate"], training["batch_size"], training["init"]) == (0.05, 16, "weights")
    assert cimc.export_image(chip, "isaac").meta["training"] == training
    assert cimc.export_image(chip, training={"lr": 1}).meta["training"] == {"lr": 1}


def test_another_chip_takes_the_trained_weights(chip: cimc.Chip) -> None:
    image = cimc.export_image(chip, "isaac")
    program = chip.trained_program()
    for name in ("w1", "w2"):
        weights = program.tensors[f"initializer/{name}"]
        np.testing.assert_allclose(image.compiled.tensors[f"initializer/{name}"], weights, atol=np.abs(weights).max() / 32767)
