"""A die that is saved and read again: what its copies hold, what it computes, what it has counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError, CimcError
from cimc.image.faults import FaultMap
from tests.image.models import exact, inputs, network

NOISY = {"device__programming__sigma_us": 1.0, "device__read_sigma_us": 1.0, "device__stuck_low_rate": 0.03, "adc__bits": 12}
OFFSET = {"weights__representation": "offset", "array__unit_column": True}
#: Columns of large weights are stored complemented.
FLIPPED = OFFSET | {"adc__flipped": True, "weights__bits": 4, "adc__bits": 16}
KINDS: list[dict[str, Any]] = [NOISY, NOISY | OFFSET, NOISY | FLIPPED]


def image_of(changes: dict[str, Any], copies: dict[str, int], **options: Any) -> Any:
    return cimc.export_image(cimc.compile(network(), exact(**changes), copies=copies), **options)


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("copies", [{}, {"first": 3, "second": 2}])
def test_what_is_read_again_computes_the_same_bytes(changes: dict[str, Any], copies: dict[str, int], tmp_path: Path) -> None:
    die = image_of(changes, copies).program(seed=4)
    die.save(tmp_path / "die.cim")
    again = cimc.Chip(cimc.load(tmp_path / "die.cim"))
    for name, crossbar in die.crossbars.items():
        assert len(again.crossbars[name].held) == copies.get(name, 1)
        for one, other in zip(crossbar.held, again.crossbars[name].held, strict=True):
            np.testing.assert_array_equal(one.g_us, other.g_us)
            np.testing.assert_array_equal(one.unit_g_us, other.unit_g_us)
    np.testing.assert_array_equal(again.run(inputs(), 7)["y"], die.run(inputs(), 7)["y"])
    again.save(tmp_path / "again.cim")
    assert (tmp_path / "again.cim").read_bytes() == (tmp_path / "die.cim").read_bytes()


@pytest.mark.parametrize("changes", KINDS)
def test_a_read_back_die_is_read_again_as_well(changes: dict[str, Any], tmp_path: Path) -> None:
    """Its weights are what devices held, which no longer tells how a column was stored."""
    chip = image_of(changes, {"first": 2}).program(seed=4)
    die = cimc.export_image(chip, source="readback").program(seed=5)
    die.save(tmp_path / "die.cim")
    again = cimc.Chip(cimc.load(tmp_path / "die.cim"))
    np.testing.assert_array_equal(again.run(inputs(), 0)["y"], die.run(inputs(), 0)["y"])
    cells = [cimc.export_image(c, source="readback").sections["CELL"].tobytes() for c in (die, again)]
    assert cells[0] == cells[1]


def test_a_die_around_faults_is_read_again(tmp_path: Path) -> None:
    faults = FaultMap.of(rows=[[0, 0, 3]], columns=[[0, 0, 5]])
    die = image_of(NOISY, {"first": 2}, fault_map=faults).program(seed=1)
    die.save(tmp_path / "die.cim")
    again = cimc.Chip(cimc.load(tmp_path / "die.cim"))
    np.testing.assert_array_equal(again.run(inputs(), 0)["y"], die.run(inputs(), 0)["y"])


def test_saved_copies_of_another_shape_are_refused() -> None:
    program = image_of(NOISY, {"first": 3}).program().trained_program()
    for name, array in program.tensors.items():
        if name.endswith("copies_g_us"):
            for bad in (array[:, :, 1:], array.astype(np.float64), array[0, 0, 0, 0, 0]):
                broken = program.model_copy(update={"tensors": program.tensors | {name: np.array(bad)}})
                with pytest.raises(ArtifactError, match="saved devices do not suit the layer"):
                    cimc.Chip(broken)


def test_another_scale_keeps_copies_and_counts() -> None:
    die = image_of(NOISY, {"first": 3}).program(seed=2)
    die.run(inputs(), 0)
    before, held = die.stats()["first"], [copy.g_us for copy in die.crossbars["first"].held]
    old = die.crossbars["first"]
    die.remap("first", old.matrix, old.weight_max * 2, die.conductances("first"))
    assert die.stats()["first"] == before
    for one, other in zip(held, die.crossbars["first"].held, strict=True):
        np.testing.assert_array_equal(one, other.g_us)
    np.testing.assert_allclose(die.weights()["first"], 2 * old.weights(), rtol=1e-6)
    die.remap("first", old.matrix, old.weight_max)
    written = die.crossbars["first"].held
    assert len(written) == 3
    goals = image_of(NOISY, {}).goals(0).g_us
    errors = [(copy.g_us - goals).ravel() for copy in written]
    assert abs(np.corrcoef(errors[0], errors[2])[0, 1]) < 5 / np.sqrt(errors[0].size) + 0.1  # a few are stuck in both
    die.run(inputs(), 0)
    assert die.stats()["first"]["positions"] == 2 * before["positions"]


def test_copies_do_not_train() -> None:
    die = image_of(NOISY | {"weights__rounded": False}, {"first": 3}).program(seed=2)
    with pytest.raises(CimcError, match="3 copies") as caught:
        cimc.Trainer(die)
    assert "layer first" in str(caught.value)


def test_another_version_of_the_program_brings_its_ranges() -> None:
    die = image_of(NOISY, {}).program(seed=2)
    program = die.program
    die.calibrate({"x": inputs()["x"] * 0.25})
    narrow = die.run(inputs(), 0)["y"]
    assert die.program.layers != program.layers
    die.adopt(program)
    assert not np.array_equal(die.run(inputs(), 0)["y"], narrow)
    np.testing.assert_array_equal(die.run(inputs(), 0)["y"], image_of(NOISY, {}).program(seed=2).run(inputs(), 0)["y"])


def test_offset_inputs_follow_weights_that_change() -> None:
    """An input of 0 has a code; what it adds is taken off by the weights as they are, not as they were."""
    changes = {"dac__signed": "offset", "adc__bits": 16, "weights__rounded": False}
    x = {"x": inputs()["x"] - np.float32(0.5)}
    program = cimc.compile(network(), exact(**changes), calibration=x)
    chip, other = (cimc.Chip(program, seed) for seed in (0, 1))
    chip.run(x, 0)
    for one, two in zip(chip.crossbars.values(), other.crossbars.values(), strict=True):
        for bar in (one, two):
            bar.matrix = np.ascontiguousarray(-bar.matrix[:, ::-1])
        one.g_us[...] = two.g_us
        one.written()
    np.testing.assert_array_equal(chip.run(x, 0)["y"], other.run(x, 0)["y"])
