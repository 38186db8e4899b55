"""The closed form of a layer's error power against simulated dice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.calibration.error_power import error_power
from cimc.calibration.reads import LayerRead
from cimc.ir.program import weight_matrix
from tests.calibration.models import inputs, mean_square_db, product, weights

#: 48 columns on 12 dice are 576 independent errors: their mean square is off by 6 % (0.25 dB), so 0.75 dB are three deviations.
COLUMNS, DICE, TOLERANCE_DB = 48, 12, 0.75

#: Columns in pairs share a reference: of their errors half is common, so a fourth of the errors' squares is.
SHARED = {"weights.representation": "shared_reference", "weights.columns_per_reference": 2, "device.levels": 15}

CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("bulk-rram", {}, False),
    ("bulk-rram", {}, True),
    ("bulk-rram", {"weights.window": "largest", "weights.scale": "layer"}, False),
    ("bulk-rram", {"weights.rounded": True}, False),
    ("bulk-rram", {"dac.bits": 3, "dac.clip_share": 0.02}, False),
    ("bulk-rram", {"adc.saturation_share": 0.05}, False),
    ("bulk-rram", {"weights.representation": "offset", "array.unit_column": True}, False),
    ("bulk-rram", {"weights.representation": "shared_reference", "weights.columns_per_reference": 2}, False),
    ("bulk-rram-256", SHARED, False),
    ("bulk-rram-256", SHARED | {"weights.window": "least_error", "weights.scale": "column"}, True),
    ("bulk-rram-256", SHARED | {"device.stuck_low_rate": 0.03, "device.stuck_high_rate": 0.02}, False),
    ("bulk-rram-256", {}, False),
    ("bulk-rram-256", {"weights.window": "least_error", "dac.full_scale": "least_error", "weights.scale": "column"}, False),
    ("bulk-rram-256", {"adc.pair_read": "subtracted"}, True),
    ("bulk-rram-256", {"dac.signed": "bipolar"}, True),
    ("bulk-rram-256", {"dac.pulse_noise": "fresh", "device.read_sigma_us": 5.0}, False),
    ("bulk-rram-256", {"device.stuck_low_rate": 0.03, "device.stuck_high_rate": 0.02}, False),
    ("bulk-rram-256", {"adc.gain_sigma": 0.03, "adc.offset_sigma_lsb": 2.0, "adc.bow_sigma_lsb": 2.0}, False),
    ("isaac", {}, False),
    ("isaac", {"dac.bits": 6, "weights.bits": 8, "weights.cells": 4}, True),
    ("neurram", {}, True),
    ("hermes-pcm", {}, False),
    ("cmo-hfox", {}, True),
]


@pytest.mark.parametrize(("target", "settings", "signed"), CASES, ids=lambda value: str(value).replace("'", ""))
def test_closed_form_is_the_simulated_error(target: str, settings: dict[str, Any], signed: bool) -> None:
    rng = np.random.default_rng(7)
    weight, x = weights(rng, 90, COLUMNS), inputs(rng, (64, 90), signed=signed)
    program = cimc.compile(product(weight), target, calibration={"x": x}, settings=settings)
    (layer,) = program.layers
    read = LayerRead(x[:, None], layer.coding, layer.row_cuts, layer.adc_range_ua, program.target)
    power = error_power(weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], read)
    expected = 10 * np.log10(power.signal.sum() / power.total.sum())
    dice = [cimc.Chip(program, seed, backend="reference").run({"x": x})["y"] - x @ weight for seed in range(DICE)]
    assert abs(expected - mean_square_db(x @ weight, dice)) < TOLERANCE_DB


def test_causes_follow_their_figures() -> None:
    """Each cause alone, as its closed form for one column of one row slice: a pair of devices at known goals."""
    rng = np.random.default_rng(3)
    weight, x = weights(rng, 40, 6), inputs(rng, (200, 40))
    window_us, square = 60.0, float(np.square(np.rint(x / x.max() * 255) / 255 * x.max()).sum(1).mean())
    for path, value, cause, per_device in (
        ("device.programming.sigma_us", 1.5, "programming error", 2 * 1.5**2),
        ("device.read_sigma_us", 0.7, "read noise", 2 * 0.7**2),
    ):
        quiet = {
            "device.programming.sigma_us": 0.0,
            "device.read_sigma_us": 0.0,
            "adc.sigma_lsb": 0.0,
            "weights.window": "largest",
        }
        settings = {**quiet, path: value, "weights.scale": "column"}
        program = cimc.compile(product(weight), "bulk-rram-256", calibration={"x": x}, settings=settings)
        (layer,) = program.layers
        span = program.tensors[f"weight_max/{layer.name}"]
        read = LayerRead(x[:, None], layer.coding, layer.row_cuts, layer.adc_range_ua, program.target)
        power = error_power(weight_matrix(program, layer), span, read)
        assert power.causes[cause] == pytest.approx((span / window_us)[None] ** 2 * per_device * square, rel=0.02)  # type: ignore[index]
