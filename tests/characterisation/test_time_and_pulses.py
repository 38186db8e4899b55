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
