"""Fits of drift and of pulse responses, against hidden parameters."""

from __future__ import annotations

import numpy as np
import pytest

import cimc
from cimc.errors import DataError
from cimc.targets.load import load_target
from tests.characterisation.measured import csv, programming, pulses, reads, retention


def inside(one, value, times=2.0):
    """Within so many half widths of a 95 % interval."""
    return abs(one.value - value) <= times * (one.high - one.low) / 2


def test_relaxation_is_found_with_its_growth(tmp_path):
    random = np.random.default_rng(1)

    def later(g_us, growth, normal):
        return g_us + np.where(growth > 0, -0.09 * growth + (0.4 + 0.05 * growth) * normal, 0)

    fit = cimc.fit_device(retention(tmp_path / "r.csv", random, later, devices=150))
    drift = fit.section["drift"]
    assert (drift["kind"], drift["around"], drift["t0_s"]) == ("relaxation", "written", 1.0)
    assert len(drift["mean_us"]) == 1
    for path, value in (("mean_us", 0.0), ("mean_growth_us", -0.09), ("sigma_us", 0.4), ("sigma_growth_us", 0.05)):
        assert inside(fit.intervals[f"device.drift.{path}.0"], value)
    assert load_target("ideal", fit.figures).device.drift.kind == "relaxation"


def test_a_power_law_is_found_and_its_intervals_cover(tmp_path):
    random, hits = np.random.default_rng(2), []

    def later(g_us, growth, normal):
        return g_us * np.exp(-(0.06 + 0.02 * normal) * growth)

    for seed in range(10):
        fit = cimc.fit_device(retention(tmp_path / "r.csv", random, later, devices=40), seed=seed)
        drift = fit.section["drift"]
        assert drift["kind"] == "power_law"
        if len(drift["nu_mean"]["polynomial"]) == 1:
            for path, value in (("nu_mean", 0.06), ("nu_sigma", 0.02)):
                one = fit.intervals[f"device.drift.{path}.polynomial.0"]
                hits.append(one.low <= value <= one.high)
    assert len(hits) >= 10
    assert np.mean(hits) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / len(hits))


@pytest.mark.parametrize(("nu_sigma", "read_us", "ages_s"), [(0.005, 0.2, (1, 10, 1e3, 1e5)), (0.02, 0.5, (1, 2, 5, 10, 100))])
def test_residuals_of_a_power_law_with_read_noise_have_deviation_1(tmp_path, nu_sigma, read_us, ages_s):
    """The data follow the form; a read takes its noise relative to what the device still holds."""
    random, devices = np.random.default_rng(9), 300

    def later(g_us, growth, normal):
        return g_us * np.exp(-(0.05 + nu_sigma * normal) * growth)

    files = [
        retention(tmp_path / "r.csv", random, later, devices=devices, ages_s=ages_s, read_us=read_us),
        reads(tmp_path / "n.csv", random, lambda g: np.full(g.shape, read_us)),
    ]
    fit = cimc.fit_device(files)
    assert fit.section["drift"]["kind"] == "power_law"
    assert fit.residuals["drift"].std() == pytest.approx(1, abs=4 / np.sqrt(2 * devices))
    assert abs(fit.residuals["drift"].mean()) < 4 / np.sqrt(devices)
    assert inside(fit.intervals["device.drift.nu_sigma.polynomial.0"], nu_sigma)


def test_devices_that_stay_have_no_drift_and_read_noise_is_taken_off(tmp_path):
    random = np.random.default_rng(3)

    def steady(g_us, growth, normal):
        return g_us + 0 * growth

    fit = cimc.fit_device(retention(tmp_path / "r.csv", random, steady, read_us=0.2))
    assert fit.section["drift"] is None

    def later(g_us, growth, normal):
        return g_us + 0.1 * growth * normal

    noise = reads(tmp_path / "n.csv", random, lambda g: np.full(g.shape, 0.2))
    fit = cimc.fit_device([retention(tmp_path / "r.csv", random, later, devices=200, read_us=0.2), noise])
    at_day = load_target("ideal", fit.figures).device.drift
    sigma = at_day.sigma_us[0] + at_day.sigma_growth_us[0] * np.log(1e5)
    assert sigma == pytest.approx(0.1 * np.log(1e5), rel=5 / np.sqrt(2 * 200))
    assert "noise of two reads" not in " ".join(fit.notes)


def test_soft_bounds_and_both_spreads(tmp_path):
    random, hits = np.random.default_rng(4), []
    hidden = {"up_us": 1.0, "down_us": 0.8, "cycle_spread": 0.3, "device_spread": 0.2}
    for seed in range(4):
        data = [
            pulses(tmp_path / "pulses.csv", random, lambda room: room),
            programming(tmp_path / "p.csv", random, lambda g: np.full(g.shape, 0.5), goals_us=np.linspace(0, 40, 5), devices=20),
        ]
        fit = cimc.fit_device(data, seed=seed)
        assert not any("pulses follow" in text for text in fit.found)
        intervals = [fit.intervals[f"device.pulse.{name}"] for name in hidden]
        hits.append([one.low <= value <= one.high for one, value in zip(intervals, hidden.values(), strict=True)])
        assert all(inside(one, value) for one, value in zip(intervals, hidden.values(), strict=True))
    assert np.mean(hits) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 4)
    pulse = load_target("ideal", fit.figures).device.pulse
    assert pulse.cycle_spread == fit.section["pulse"]["cycle_spread"]


@pytest.mark.parametrize(
    ("shape", "words"),
    [(lambda room: np.full(room.shape, 0.7), "equal steps"), (lambda room: room**2, "a power 2 of")],
)
def test_another_response_than_soft_bounds_is_told(tmp_path, shape, words):
    random = np.random.default_rng(5)
    fit = cimc.fit_device(
        [
            pulses(tmp_path / "pulses.csv", random, shape, count=30, cycle=0.1, spread=0.05),
            programming(tmp_path / "p.csv", random, lambda g: np.full(g.shape, 0.5), goals_us=np.linspace(0, 40, 5), devices=20),
        ]
    )
    assert any(text.startswith(f"up pulses follow {words}") for text in fit.found), fit.found


def test_devices_that_do_not_respond_are_told_and_amplitudes_are_not_mixed(tmp_path):
    random = np.random.default_rng(6)
    fit = cimc.fit_device(pulses(tmp_path / "pulses.csv", random, lambda room: room, dead=5))
    assert "5 of 60 devices do not respond" in " ".join(fit.found)
    assert fit.section["g_max_us"] <= 40
    head, *lines = (tmp_path / "pulses.csv").read_text().splitlines()
    strong = [",".join([*line.split(",")[:4], "39", "2"]) for line in lines[:400]]
    weak = [f"{line},1" for line in lines[400:]]
    (tmp_path / "mixed.csv").write_text("\n".join([f"{head},amplitude_v", *strong, *weak]) + "\n")
    mixed = cimc.fit_device(tmp_path / "mixed.csv")
    assert "up pulses of other amplitudes than 1 V are left out: 400" in mixed.notes
    assert mixed.section["pulse"]["up_us"] < 1.5


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"device": np.arange(20), "age_s": np.ones(20), "g_us": np.ones(20)}, "0 devices with a read at a later age"),
        (
            {name: np.arange(20) % 4 for name in ("device", "pulse", "before_us", "after_us")} | {"polarity": np.ones(20, int)},
            "4 devices are too few",
        ),
    ],
)
def test_too_few_data_are_refused(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        cimc.fit_device(csv(tmp_path / "m.csv", **columns))


def test_growth_with_the_amplitude_is_that_of_write_verify(tmp_path):
    """Steps double every 0.5 V from 1.5 V on: 0.5 µS up and 0.4 µS down at first."""
    random, hits = np.random.default_rng(7), []
    hidden = {"set_us": 0.5, "reset_us": 0.4, "cycle_spread": 0.3, "device_spread": 0.2}
    volts = 1.5 + 0.25 * np.arange(5)
    for seed in range(5):
        device = np.repeat(np.arange(60), 200)
        polarity = np.tile(np.repeat([1, -1], 100), 60)
        volt = np.tile(volts, 60 * 40)
        own = np.maximum(1 + 0.2 * random.standard_normal(60), 0)[device]
        step = np.where(polarity > 0, 0.5, -0.4) * 2 ** ((volt - 1.5) / 0.5) * own * (1 + 0.3 * random.standard_normal(12_000))
        columns = {"device": device, "pulse": np.tile(np.arange(200), 60), "polarity": polarity, "amplitude_v": polarity * volt}
        path = csv(tmp_path / "pulses.csv", **columns, before_us=np.full(12_000, 20.0), after_us=20 + step)
        fit = cimc.fit_device(path, seed=seed)
        hits += [
            one.low <= value <= one.high
            for name, value in hidden.items()
            if (one := fit.intervals[f"device.write_verify.{name}"])
        ]
        growth = fit.intervals["doublings of a pulse's step per volt"]
        hits.append(growth.low <= 2.0 <= growth.high)
    assert np.mean(hits) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 5)
    section = fit.section["write_verify"]
    assert (section["start_v"], section["stop_v"], section["step_v"]) == (1.5, 2.5, 0.25)
    assert section["doubling_v"] == pytest.approx(0.5, rel=0.05)
    assert load_target("ideal", fit.figures).device.write_verify.set_us == section["set_us"]


def test_steps_that_do_not_grow_have_no_doubling(tmp_path):
    random, count = np.random.default_rng(8), 60 * 60
    device, number = np.divmod(np.arange(count), 60)
    polarity = np.where(number < 30, 1, -1)
    step = polarity * (1 + 0.1 * random.standard_normal(count))
    columns = {"device": device, "pulse": number, "polarity": polarity, "amplitude_v": 1 + 0.5 * (number % 3)}
    fit = cimc.fit_device(csv(tmp_path / "p.csv", **columns, before_us=np.full(count, 20.0), after_us=20 + step))
    one = fit.intervals["doublings of a pulse's step per volt"]
    assert abs(one.value) < 0.05
    if one.low <= 0:
        assert fit.section["write_verify"]["doubling_v"] is None
        assert "does not clearly grow" in " ".join(fit.notes)
