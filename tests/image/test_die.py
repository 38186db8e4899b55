"""Writing an image into a die: order, report, errors of the right size, and refusals by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError, RunError, TargetError
from cimc.image.container import pack
from cimc.image.faults import FaultMap
from cimc.image.goals import platform_sha256, target_sha256
from cimc.image.reader import read_image
from cimc.targets.description import Target
from tests.image.models import exact, inputs, network

#: Pulses whose response is known well enough for any goal to be reached, with all figures given.
PULSES = {
    "device__write_verify__tolerance_us": 1.0,
    "device__write_verify__set_us": 1.0,
    "device__write_verify__reset_us": 1.0,
    "device__write_verify__trials": 20,
    "device__write_verify__pulse_ns": 100,
    "device__write_verify__verify_ns": 50,
    "device__write_verify__pulse_energy_nj": 0.25,
    "device__write_verify__verify_energy_nj": 0.5,
}


def large(**changes: Any) -> Any:
    """An image of 64 x 64 weights."""
    return cimc.export_image(cimc.compile(network(64, 64, 2), exact(array__rows=64, array__columns=64, **changes)))


def test_write_verify_reports_every_cell() -> None:
    image = large(**PULSES)
    die = image.program(seed=3, programming="write_verify")
    report, goals = die.programming, image.goals(0)
    layer = report.layers["first"]
    assert report.method == "write_verify"
    assert layer.success.shape == layer.readback_us.shape == layer.pulses.shape == goals.g_us.shape
    held = die.conductances("first")
    assert (np.abs(held - goals.g_us)[layer.success] <= 1.0 + 1e-4).all()  # verify reads are free of noise here
    assert layer.success.mean() > 0.9
    np.testing.assert_array_equal(layer.readback_us, held)
    writes = report.writes
    assert writes.devices == sum(r.success.size for r in report.layers.values())
    assert writes.pulses == sum(int(r.pulses.sum()) for r in report.layers.values())
    assert writes.failed == sum(int((~r.success).sum()) for r in report.layers.values())
    assert writes.time_ns == pytest.approx(100 * writes.pulses + 50 * writes.reads)
    assert writes.energy_nj == pytest.approx(0.25 * writes.pulses + 0.5 * writes.reads)


def test_writing_tells_how_far_it_is() -> None:
    program = cimc.compile(network(64, 64, 2), exact(array__rows=64, array__columns=64))
    image, told = cimc.export_image(program, copies={"first": 3}), []
    die = image.program(advance=told.append)
    assert len(told) == sum(len(report.all) for report in die.programming.layers.values())
    assert sum(told) == image.devices == sum(copy.success.size for r in die.programming.layers.values() for copy in r.all)


def test_what_the_target_does_not_give_is_null() -> None:
    pulses = large().program(programming="write_verify").programming.to_dict()["totals"]
    assert pulses["pulses"] > 0
    assert pulses["time_ns"] is None
    assert pulses["energy_nj"] is None
    drawn = large().program(programming="gaussian").programming.to_dict()["totals"]
    assert drawn["pulses"] is None
    assert drawn["devices"] > 0


def test_drawn_errors_have_the_targets_mean_and_deviation() -> None:
    image = large(device__programming__sigma_us=2.0, device__programming__mean_us=0.7, device__g_min_us=20, device__g_max_us=80)
    die = image.program(seed=1, programming="gaussian")
    error = (die.conductances("first") - image.goals(0).g_us).ravel().astype(float)
    n = error.size
    assert error.mean() == pytest.approx(0.7, abs=5 * 2.0 / np.sqrt(n))
    assert error.std() == pytest.approx(2.0, rel=5 / np.sqrt(2 * n))
    other = image.program(seed=2, programming="gaussian")
    assert abs(np.corrcoef(error, (other.conductances("first") - image.goals(0).g_us).ravel())[0, 1]) < 5 / np.sqrt(n)
    again = image.program(seed=1, programming="gaussian")
    np.testing.assert_array_equal(again.conductances("first"), die.conductances("first"))


def test_a_die_has_faults_of_its_own() -> None:
    image = large(device__stuck_low_rate=0.02, device__stuck_high_rate=0.02, **PULSES)
    layer = image.program(seed=3).programming.layers["first"]
    stuck = ~layer.success
    assert 0 < stuck.mean() < 0.1
    assert np.isin(image.program(seed=3).conductances("first")[stuck], np.array([8.2, 32.9], np.float32)).mean() > 0.5


def test_readback_onto_an_error_free_die_gives_the_chips_outputs_up_to_read_noise() -> None:
    program = cimc.compile(network(), "bulk-rram")
    chip = cimc.Chip(program, seed=5)
    x = inputs(images=400)
    one, two = chip.run(x, 0)["y"], chip.run(x, 10_000)["y"]
    die = cimc.export_image(chip, source="readback").program(seed=99, error_free=True)
    there = die.run(x, 0)["y"]
    noise, off = np.std(one - two), np.std(there - one)
    assert noise > 0
    assert off < 1.1 * noise
    assert abs((there - one).mean()) < 5 * noise / np.sqrt(one.size)
    assert np.std(cimc.export_image(chip).program(seed=99).run(x, 0)["y"] - one) > 1.1 * noise  # another die is another die


def test_readback_without_read_noise_gives_the_same_outputs() -> None:
    several: list[dict[str, Any]] = [{}, {"weights__representation": "offset", "array__unit_column": True}]
    for changes in several:
        target = exact(device__programming__sigma_us=1.5, **changes)
        chip = cimc.Chip(cimc.compile(network(), target), seed=5)
        die = cimc.export_image(chip, source="readback").program(error_free=True)
        found, expected = die.run(inputs(), 0)["y"], chip.run(inputs(), 0)["y"]
        # Codes of a millionth of the window may round to a neighbouring step of the simulated grid.
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_another_platform_is_refused_and_named() -> None:
    image = cimc.export_image(cimc.compile(network(), exact()))
    with pytest.raises(ArtifactError, match=r"not bulk-rram-256: .*array\.rows 256 instead of 16"):
        image.program(target="bulk-rram-256")
    with pytest.raises(ArtifactError, match=r"device\.g_max_us 40\.0 instead of 32\.9"):
        image.program(target=exact(device__g_max_us=40))
    with pytest.raises(ArtifactError, match=r"adc\.pair_read subtracted instead of separate"):
        image.program(target=exact(adc__pair_read="subtracted"))
    noisier = exact(device__read_sigma_us=0.5, device__programming__sigma_us=0.3)
    assert image.program(target=noisier).program.target == noisier


def test_hashes_of_a_target_are_those_that_images_have_had_since_the_first_version() -> None:
    """Fields that were added since then are not hashed where a target does not use them."""
    target = Target(name="old")
    assert target_sha256(target).hex() == "14da99555d885af174a2b0c65b6b4b1bf5bca3140891541121af7968f54b01a0"
    assert platform_sha256(target).hex() == "ac6241661537ed30da863c1c036923ab5f297ef4ceb15f228687f8d7090c8aeb"
    for changes in (
        {"adc": {"bits": 8, "pair_read": "subtracted"}},
        {"device": {"slow_noise": {}}},
        {"dac": {"pulse_noise": "fresh", "bits": 4}},
    ):
        changed = Target.model_validate({"name": "old", **changes})
        assert target_sha256(changed) != target_sha256(target)


def test_another_fault_map_is_refused_and_named() -> None:
    program = cimc.compile(network(), exact())
    faults = FaultMap.of(cells=[[0, 0, 1, 1]], die="a")
    image = cimc.export_image(program, fault_map=faults)
    assert image.program(fault_map=FaultMap.of(cells=[[0, 0, 1, 1]], die="a")).run(inputs())
    with pytest.raises(ArtifactError, match=rf"made for the fault map {faults.sha256.hex()[:12]} of die a, this is .* of die b"):
        image.program(fault_map=FaultMap.of(cells=[[0, 0, 1, 1]], die="b"))
    with pytest.raises(ArtifactError, match="made for any die"):
        cimc.export_image(program).program(fault_map=faults)


def test_other_registers_are_refused() -> None:
    image = cimc.export_image(cimc.compile(network(), exact()))
    sections = {tag: records.copy() for tag, records in image.sections.items()}
    sections["REGI"]["value"][0] = 3
    with pytest.raises(ArtifactError, match="registers are not those of its program"):
        read_image(pack(sections)).program()


def test_write_verify_without_its_figures_is_refused() -> None:
    image = cimc.export_image(cimc.compile(network(), exact(device__write_verify__set_us=None)))
    assert image.program().programming.method == "gaussian"
    with pytest.raises(TargetError, match="set_us"):
        image.program(programming="write_verify")


def test_the_self_test_finds_what_is_badly_wrong_and_says_where() -> None:
    image = large()
    die = image.program(seed=1)
    assert die.programming.selftest_reads > 0
    assert die.programming.selftest_outside == 0
    with pytest.raises(RunError, match="self-test finds") as caught:
        image.program(target=exact(array__rows=64, array__columns=64, device__stuck_high_rate=0.5))
    assert "layer first" in str(caught.value)


def test_self_test_codes_are_what_a_converter_gives() -> None:
    image = cimc.export_image(cimc.compile(network(), exact()))
    head, goals, layer = image.sections["STVE"][0], image.goals(0), image.layers[0]
    drive = image.sections["STDR"][: int(head["inputs"])]
    read = image.sections["STRE"][: int(head["reads"])].reshape(len(layer.row_cuts) - 1, -1)
    np.testing.assert_allclose(drive["drive"], drive["code"] / 256)
    for s, (r0, r1) in enumerate(zip(layer.row_cuts, layer.row_cuts[1:], strict=False)):
        current_ua = 0.1 * drive["drive"][r0:r1].astype(float) @ goals.g_us[0, r0:r1].reshape(r1 - r0, -1)
        np.testing.assert_allclose(read["current_a"][s], current_ua * 1e-6, rtol=1e-5)
        np.testing.assert_array_equal(read["code"][s], np.clip(np.rint(current_ua / (layer.adc_range_ua or 0) * 255), 0, 255))


def test_calibration_on_the_die_changes_its_ranges() -> None:
    image = cimc.export_image(cimc.compile(network(), exact(device__programming__sigma_us=1.0)))
    die = image.program(seed=1, calibration={"x": inputs()["x"] * 0.5})
    assert die.programming.calibration == "data"
    before, after = image.layers[0].adc_range_ua, die.program.layers[0].adc_range_ua
    assert before is not None
    assert after is not None
    assert after < before
    assert image.program(seed=1).programming.calibration == "image"
