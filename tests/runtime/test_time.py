"""Time: drift and read noise against closed forms, and time as part of a chip's state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError
from cimc.runtime.cells import numbered_keys
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.devices import Memristor, State, device_keys
from cimc.runtime.transposed import activation_gradient
from cimc.runtime.write import Writer
from cimc.targets.load import load_target
from tests.runtime import pcm
from tests.runtime.crossbars import PAIR, crossbar, dense, target
from tests.training.small import chip, data, trainer

FIVE = (1.25, 5.0, 10.0, 17.5, 25.0)
SEVEN_DECADES = [20 * 10.0**n for n in range(8)]


def devices(settings, g_us, count=20_000, time_s=0.0):
    model = Memristor(load_target("ideal", settings).device)
    held = np.full(count, g_us, np.float32)
    return model, State(held, lambda: numbered_keys(3, count), model.arrays(held, time_s))


@pytest.mark.parametrize("g_us", FIVE)
def test_a_power_law_over_seven_decades(g_us):
    without_spread = pcm.DRIFT | {f"device.drift.nu_sigma.{name}": 0.0 for name in ("log", "low", "high")}
    model, state = devices(without_spread | {"device.drift.nu_sigma.polynomial": [0.0]}, g_us, 3)
    for t in SEVEN_DECADES:
        np.testing.assert_allclose(model.conductance(state, t), g_us * (t / pcm.T0) ** -pcm.nu(g_us)[0], rtol=1e-6)
    assert (model.conductance(state, 7.0) == state.g_us).all()  # nothing was measured before t0


@pytest.mark.parametrize("g_us", FIVE)
def test_the_exponent_has_the_mean_and_deviation_of_its_conductance(g_us):
    """nu = |mu + sigma n| has the moments of a folded normal."""
    model, state = devices(pcm.DRIFT, g_us)
    n, (mu, sigma) = state.g_us.size, pcm.nu(g_us)
    from math import erf, exp, pi, sqrt

    mean = sigma * sqrt(2 / pi) * exp(-(mu**2) / (2 * sigma**2)) + mu * erf(mu / (sigma * sqrt(2)))
    deviation = sqrt(mu**2 + sigma**2 - mean**2)
    of_cell = []
    for t in SEVEN_DECADES[1:]:
        found = -np.log(model.conductance(state, t).astype(np.float64) / g_us) / np.log(t / pcm.T0)
        assert abs(found.mean() - mean) < 5 * deviation / np.sqrt(n) + 1e-5
        assert abs(found.std() / deviation - 1) < 5 / np.sqrt(2 * n) + 1e-3
        of_cell.append(found)
    np.testing.assert_allclose(of_cell[0], of_cell[-1], atol=1e-5)  # a cell keeps its exponent


RELAXATION = {
    "device.drift.kind": "relaxation",
    "device.drift.unit_us": 10.0,
    "device.drift.mean_us": [0.1],
    "device.drift.mean_growth_us": [-0.089],
    "device.drift.sigma_us": [0.41, 0.02],
    "device.drift.sigma_growth_us": [0.042, 0.01],
}


@pytest.mark.parametrize("around", ["written", "goal"])
@pytest.mark.parametrize("g_us", [10.0, 20.0, 35.0, 50.0, 80.0])
def test_relaxation_spreads_with_the_logarithm_of_time(around, g_us):
    model, state = devices(RELAXATION | {"device.drift.around": around, "device.programming.sigma_us": 0.0}, g_us)
    if around == "goal":
        state.g_us += np.float32(1.5)  # the write was off
    n, x = state.g_us.size, g_us / 10
    for t in (10.0, 1e3, 1e7):
        shift = model.conductance(state, t).astype(np.float64) - g_us
        mean, sigma = 0.1 - 0.089 * np.log(t), 0.41 + 0.02 * x + (0.042 + 0.01 * x) * np.log(t)
        assert abs(shift.mean() - mean) < 5 * sigma / np.sqrt(n)
        assert abs(shift.std() / sigma - 1) < 5 / np.sqrt(2 * n)
    assert (model.conductance(state, 0.5) == state.g_us).all()


def test_each_write_relaxes_in_its_own_way():
    model, state = devices(RELAXATION, 40.0)
    first = model.conductance(state, 1e4).copy()
    where = np.arange(state.g_us.size)
    model.write(state, where, np.full(where.size, 40, np.float32), 50.0, device_keys(1, where, np.zeros(where.size, np.uint32)))
    assert abs(np.corrcoef(first, model.conductance(state, 1e4))[0, 1]) < 5 / np.sqrt(where.size)


@pytest.mark.parametrize("g_us", FIVE)
def test_flicker_noise_at_five_conductances(g_us):
    model, state = devices(pcm.NOISE | {"device.read_sigma_us": 0.3}, g_us, 2)
    for t in SEVEN_DECADES:
        expected = pcm.read_sigma(g_us, t) ** 2 + 0.09
        np.testing.assert_allclose(model.read_variance(state, state.g_us, t), expected, rtol=1e-5)
    np.testing.assert_allclose(model.read_variance(state, state.g_us, 0.0), pcm.read_sigma(g_us, 20) ** 2 + 0.09, rtol=1e-5)


def test_noise_that_is_the_same_for_all_devices_is_a_number():
    model, state = devices({"device.read_sigma_us": 0.3}, 5.0, 2)
    assert model.read_variance(state, state.g_us, 1e6) == pytest.approx(0.09)
    assert model.arrays(state.g_us, 0.0) == {}
    assert model.conductance(state, 1e6) is state.g_us


# Chips ----------------------------------------------------------------------------------------------------------------

X, Y = data(32)


def aged(time_s, *steps):
    c = chip(**pcm.CHIP)
    for seconds in steps:
        c.advance(seconds)
    c.advance(time_s - sum(steps))
    return c


def test_time_passes_in_any_steps():
    assert aged(5e4).run({"x": X}, 0)["y"].tobytes() == aged(5e4, 1.0, 3e3, 0.0).run({"x": X}, 0)["y"].tobytes()
    c = chip(**pcm.CHIP)
    fresh, before = c.run({"x": X}, 0)["y"], c.conductances("Conv_0").copy()
    c.advance(5e4)
    assert c.time_s == 5e4
    assert (c.conductances("Conv_0") <= before).all()
    assert not np.array_equal(c.run({"x": X}, 0)["y"], fresh)
    with pytest.raises(CimcError, match="seconds is -1"):
        c.advance(-1)


def test_a_read_sees_what_the_devices_hold_now():
    c = aged(1e6)
    plain = chip(**pcm.CHIP | {"device.drift": None})
    for name, bar in plain.crossbars.items():
        bar.set_conductances(c.conductances(name), c.crossbars[name].present[0].unit_g_us)
    assert c.run({"x": X}, 0)["y"].tobytes() == plain.run({"x": X}, 0)["y"].tobytes()
    for name in c.crossbars:
        assert c.weights()[name].tobytes() == plain.weights()[name].tobytes()


def test_a_chip_is_saved_with_its_time(tmp_path: Path):
    c = aged(1e5)
    c.save(tmp_path / "aged.cim")
    again = cimc.Chip(cimc.load(tmp_path / "aged.cim"))
    assert again.time_s == 1e5
    for chips in (c, again):
        chips.advance(1e6)
    assert again.run({"x": X}, 0)["y"].tobytes() == c.run({"x": X}, 0)["y"].tobytes()


def test_without_drift_nothing_is_kept(tmp_path: Path):
    c = chip()
    c.save(tmp_path / "a.cim")
    program, outputs = cimc.load(tmp_path / "a.cim"), c.run({"x": X}, 0)["y"]
    assert not [name for name in program.tensors if "device." in name or "time" in name]
    held = c.crossbars["Conv_0"].held[0]
    assert c.crossbars["Conv_0"].present[0] is held
    c.advance(1e9)
    assert c.crossbars["Conv_0"].present[0] is held
    assert c.run({"x": X}, 0)["y"].tobytes() == outputs.tobytes()


def test_stuck_cells_do_not_drift():
    c = chip(**pcm.CHIP | {"device.stuck_high_rate": 0.3})
    c.advance(1e7)
    assert 0.2 < (c.conductances("Conv_0") == 25).mean() < 0.4


def test_copies_and_unit_columns_drift():
    settings = pcm.CHIP | {"weights.representation": "offset", "array.unit_column": True, "adc.bits": None}
    program = cimc.compile(chip().program.to_onnx(), target="bulk-rram", settings=settings, calibration={"x": X})
    bar = next(iter(cimc.Chip(program, 0).crossbars.values()))
    two = Crossbar(bar.layer, bar.matrix, bar.weight_max, bar.target, copies=2)
    before = [devices.unit_g_us.copy() for devices in two.present]
    two.advance(1e6)
    after = [devices.unit_g_us for devices in two.present]
    assert all((b > a).all() for b, a in zip(before, after, strict=True))
    assert not np.array_equal(two.present[0].g_us, two.present[1].g_us)


def test_a_transposed_read_sees_the_same_devices():
    matrix = np.random.default_rng(0).normal(size=(1, 6, 4))
    part = {"kind": "power_law", "nu_mean": {"polynomial": [0.1]}}
    bar = crossbar(target(PAIR, device={"drift": part}, adc={"bits": None}, array={"transposed": {}}), matrix, seed=1)
    dy = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    fresh = activation_gradient(dy, bar, (5, 6), dense(matrix), 3)
    bar.advance(1e5)
    # The same exponent for all: every conductance has the same share left, also those of g_min.
    np.testing.assert_allclose(activation_gradient(dy, bar, (5, 6), dense(matrix), 3), fresh * 1e5**-0.1, atol=2e-2)


def test_training_dates_the_devices_that_it_writes():
    c = chip(**pcm.CHIP)
    c.advance(500.0)
    t = trainer(c, init="weights", threshold=0.0)
    assert (c.crossbars["Conv_0"].held[0].arrays["written_s"] == 500).all()  # programmed anew
    c.advance(1000.0)
    t.step(X[:16], Y[:16])
    dates = c.crossbars["Conv_0"].held[0].arrays["written_s"]
    assert set(np.unique(dates)) == {500, 1500}
    now = c.conductances("Conv_0")
    assert (now[dates == 1500] == c.crossbars["Conv_0"].g_us[dates == 1500]).all()
    rebuilt = Crossbar(
        c.crossbars["Conv_0"].layer, c.crossbars["Conv_0"].matrix, c.crossbars["Conv_0"].weight_max, c.program.target, time_s=1500
    )
    rebuilt.hold(c.crossbars["Conv_0"].held)
    rebuilt.cells = c.crossbars["Conv_0"].cells
    assert now.tobytes() == rebuilt.present[0].g_us.tobytes()


def test_a_run_resumes_with_the_age_of_its_devices(tmp_path: Path):
    def begun():
        c = chip(**pcm.CHIP)
        c.advance(900.0)
        return c, trainer(c, init="weights", schedule="constant")

    whole, t = begun()
    t.fit(X, Y, epochs=2, checkpoint=tmp_path / "whole")
    _, t = begun()
    t.fit(X, Y, epochs=1, checkpoint=tmp_path / "run")
    c = chip(**pcm.CHIP)  # at time 0
    t = trainer(c, init="weights", schedule="constant")
    t.fit(X, Y, epochs=2, checkpoint=tmp_path / "run", resume=True)
    assert c.time_s == 900
    assert c.conductances("Conv_0").tobytes() == whole.conductances("Conv_0").tobytes()


def test_verify_leaves_the_age_of_a_device_that_it_does_not_move():
    settings = {"update.programming": "write_verify", "device.drift.kind": "power_law", "device.drift.nu_mean.polynomial": [0.05]}
    chip_target = load_target("bulk-rram", settings | {"device.read_sigma_us": 0.0})
    g_us = np.full(6, 20, np.float32)
    state = State(g_us, lambda: numbered_keys(1, 6), {"written_s": np.zeros(6)}, 100.0)
    writer = Writer(chip_target, g_us, np.zeros(6, np.uint32), 3, state=state)
    drifted = 20 * 100**-0.05
    done = writer.program(np.arange(6), np.float32([drifted] * 3 + [30.0] * 3))
    assert done.success.all()
    assert done.pulses.tolist()[:3] == [0, 0, 0]
    assert (state.arrays["written_s"] == [0, 0, 0, 100, 100, 100]).all()
    assert (g_us[:3] == 20).all()


def test_an_image_holds_what_the_devices_hold_now():
    c = aged(1e6)
    image = cimc.export_image(c, source="readback")
    step = 25 / 2**15
    goals = image.goals([layer.name for layer in image.layers].index("Conv_0")).g_us
    assert np.abs(goals - c.conductances("Conv_0")).max() <= step
