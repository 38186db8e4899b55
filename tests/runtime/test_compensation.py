"""Drift compensation: factors of a reference read, what they mend, and what they cost."""

from pathlib import Path

import numpy as np
import pytest

import cimc
from tests.runtime import pcm
from tests.runtime.crossbars import PAIR, crossbar, dense, target
from tests.training.small import chip, data, trainer

X, Y = data(32)


def drifting(compensation, matrix, nu=(0.1,), noise=0.0, **device):
    """A crossbar without converters whose exponent is a polynomial of g in units of 70 µS."""
    drift = {"kind": "power_law", "compensation": compensation, "unit_us": 70.0, "nu_mean": {"polynomial": list(nu)}}
    parts = {"drift": drift, "read_sigma_us": noise, **device}
    return crossbar(target(PAIR, device=parts, adc={"bits": None}, dac={"bits": None}), matrix, seed=1)


def product(bar, x):
    return bar.multiply(x, dense(bar.matrix), 3)


MATRIX = np.random.default_rng(0).normal(size=(1, 30, 6))
INPUT = np.random.default_rng(1).uniform(size=(4, 30)).astype(np.float32)


@pytest.mark.parametrize("kind", ["global", "column"])
def test_a_drift_that_all_devices_share_is_taken_off(kind):
    bar = drifting(kind, MATRIX)
    fresh = product(bar, INPUT)
    bar.advance(1e6)
    np.testing.assert_allclose(bar.present[0].g_us, bar.held[0].g_us * 1e6**-0.1, rtol=1e-5)
    np.testing.assert_allclose(product(bar, INPUT), fresh, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(bar.factors[0].columns, 1e6**0.1, rtol=1e-5)


def test_without_compensation_the_product_shrinks():
    bar = drifting("none", MATRIX)
    fresh = product(bar, INPUT)
    bar.advance(1e6)
    np.testing.assert_allclose(product(bar, INPUT), fresh * 1e6**-0.1, rtol=1e-4, atol=1e-4)
    assert not bar.factors
    assert bar.stats.reference_reads == 0


def test_factors_are_ratios_of_summed_currents():
    """An exponent that depends on the conductance, so that columns differ."""
    one, each = drifting("global", MATRIX, (0.2, -0.1)), drifting("column", MATRIX, (0.2, -0.1))
    for bar in (one, each):
        bar.advance(1e5)
    before, now = one.held[0].g_us.astype(np.float64), one.present[0].g_us.astype(np.float64)
    np.testing.assert_allclose(one.factors[0].columns, before.sum() / now.sum(), rtol=1e-6)
    np.testing.assert_allclose(each.factors[0].columns[:, 0], before.sum(axis=1) / now.sum(axis=1), rtol=1e-6)
    assert np.ptp(each.factors[0].columns) > 0.01


def test_the_noise_of_the_reference_read_is_in_the_factor():
    factors = []
    for seed in range(400):
        bar = drifting("column", MATRIX, noise=5.0)
        bar.chip_seed = seed
        bar.advance(1.0)  # nothing has moved yet
        factors.append(bar.factors[0].columns.reshape(-1))
    sums = bar.held[0].g_us.astype(np.float64).sum(axis=1).reshape(-1)
    found = np.array(factors)
    bound = 6 / np.sqrt(2 * found.shape[0])
    np.testing.assert_allclose(found.std(axis=0) / (5 * np.sqrt(30) / sums), 1, atol=bound + 0.03)


def test_a_layer_of_a_chip_does_better_with_compensation():
    errors = {}
    for kind in ("none", "global", "column"):
        c = chip(**pcm.CHIP | {"device.drift.compensation": kind, "device.read_sigma_us": 0.0, "adc.bits": None})
        before = c.weights()["Gemm_0"]
        c.advance(1e7)
        errors[kind] = float(np.square(c.weights()["Gemm_0"] - before).mean())
    assert errors["global"] < 0.5 * errors["none"]
    assert errors["column"] < 0.5 * errors["none"]


def test_reference_reads_are_counted():
    c = chip(**pcm.CHIP | {"device.drift.compensation": "global"})
    c.advance(10.0)
    c.advance(10.0)
    bar = c.crossbars["Conv_0"]
    assert bar.stats.reference_reads == 2 * bar.tiles
    assert bar.stats.reference_conversions == 2 * 8  # one slice of four pairs
    assert bar.stats.tile_reads == 0


def test_factors_are_part_of_the_state(tmp_path: Path):
    settings = pcm.CHIP | {"device.drift.compensation": "column"}
    c = chip(**settings)
    c.advance(1e5)
    t = trainer(c, init="weights")
    c.advance(1e5)
    t.step(X[:16], Y[:16])  # changes devices, not the factors
    outputs = c.run({"x": X}, 0)["y"]
    c.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert again.run({"x": X}, 0)["y"].tobytes() == outputs.tobytes()


def test_a_run_resumes_with_its_factors(tmp_path: Path):
    def begun():
        c = chip(**pcm.CHIP | {"device.drift.compensation": "global"})
        t = trainer(c, init="weights", schedule="constant")
        c.advance(1e5)
        return c, t

    whole, t = begun()
    t.fit(X, Y, epochs=2, checkpoint=tmp_path / "whole")
    _, t = begun()
    t.fit(X, Y, epochs=1, checkpoint=tmp_path / "run")
    c = chip(**pcm.CHIP | {"device.drift.compensation": "global"})
    t = trainer(c, init="weights", schedule="constant")
    t.fit(X, Y, epochs=2, checkpoint=tmp_path / "run", resume=True)
    assert c.conductances("Conv_0").tobytes() == whole.conductances("Conv_0").tobytes()
    assert c.crossbars["Conv_0"].factors[0].columns.tobytes() == whole.crossbars["Conv_0"].factors[0].columns.tobytes()
