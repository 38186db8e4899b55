"""Images for chips with wires: what the self-test expects is what a read through wires shows, wherever a segment lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError
from cimc.image.faults import FaultMap
from cimc.image.image import Image
from tests.image.models import exact, inputs, network
from tests.runtime.nodal import transfer_us

WIRES = {"row_segment_ohm": 60.0, "column_segment_ohm": 80.0, "driver_ohm": 500.0, "sense_ohm": 300.0}


def image(copies: dict[str, int], faults: FaultMap | None = None, **changes: Any) -> Image:
    settings = {"array__columns": 32, "array__wires": {**WIRES, "solver": "exact"}, **changes}
    return cimc.export_image(cimc.compile(network(rows=8), exact(**settings), copies=copies), fault_map=faults)


def test_the_self_test_expects_what_nodal_analysis_gives() -> None:
    """Of a segment that lies around dead cells; a differential pair's lines side by side."""
    dead = FaultMap.of(cells=np.array([[0, 0, 2, 3], [0, 0, 9, 11], [0, 1, 0, 0]]))
    made = image({}, dead)
    ((_, words, bits),) = made.segments(0)
    assert (np.diff(words) != 1).any() or (np.diff(bits) != 1).any()
    whole = np.full((16, 32), made.target.device.g_min_us)
    goals = made.goals(0).g_us[0]
    whole[np.ix_(words, bits)] = goals.transpose(0, 2, 1).reshape(8, 12)
    seen = transfer_us(whole, made.target.array.wires, words, bits).reshape(8, 6, 2).transpose(0, 2, 1).reshape(8, 12)
    head = next(head for head in made.sections["STVE"] if head["layer"] == 0)
    drive = made.sections["STDR"][head["inputs_at"] :][:8]["drive"].astype(float)
    expected_a = drive @ seen * made.target.device.read_voltage_v * 1e-6
    found = made.sections["STRE"][head["reads_at"] :][:12]["current_a"]
    np.testing.assert_allclose(found, expected_a, rtol=1e-5)
    assert found.sum() < 0.95 * (drive @ goals.reshape(8, 12)).sum() * made.target.device.read_voltage_v * 1e-6


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_a_die_without_errors_passes_in_all_copies(solver: str) -> None:
    made = image({"first": 2}, array__wires={**WIRES, "solver": solver}, adc__bits=16)
    die = made.program(error_free=True)
    assert die.programming.selftest_outside == 0
    first, second = (one.g_us for one in die.crossbars["first"].effective)
    assert np.abs(first / second - 1).max() > 0.01  # one test for both would find reads outside of their bands
    x = inputs(rows=8)
    assert np.isfinite(die.run(x, 0)["y"]).all()


def test_what_is_read_back_for_another_chip_is_what_the_devices_hold() -> None:
    """The drop is of the reads of this chip; another has its own."""
    chip = cimc.Chip(cimc.compile(network(rows=8), exact(array__columns=32, array__wires=WIRES, weights__rounded=False)))
    other = exact(array__columns=32, array__rows=24, weights__rounded=False)
    made = cimc.export_image(chip, other, source="readback").program(error_free=True)
    for name, weights in made.weights().items():
        held, seen = chip.crossbars[name].held_weights(), chip.weights()[name]
        assert np.abs(weights - held).max() < 0.1 * np.abs(seen - held).max()


def test_an_image_is_for_dice_of_the_same_wires() -> None:
    made = image({})
    for wires in (None, {**WIRES, "sense_ohm": 0.0}):
        with pytest.raises(ArtifactError, match=r"array\.wires"):
            made.program(target=exact(array__columns=32, array__wires=wires))
    with pytest.raises(ArtifactError, match=r"array\.wires"):
        image({}, array__wires=None).program(target=exact(array__columns=32, array__wires=WIRES))
    made.program(target=exact(array__columns=32, array__wires={**WIRES, "solver": "fast"}), error_free=True)
