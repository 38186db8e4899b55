"""Read noise that depends on conductance and age, in every read of a chip."""

import numpy as np
import pytest

import cimc
from cimc.runtime.cells import numbered_keys
from cimc.runtime.transposed import activation_gradient
from cimc.runtime.write import Writer
from cimc.targets.load import load_target
from tests.image.models import exact
from tests.runtime import pcm
from tests.runtime.crossbars import crossbar, dense, target
from tests.training.small import chip, data, model, trainer

FIVE = np.float32([1.25, 5.0, 10.0, 17.5, 25.0])
FLICKER = {
    "kind": "flicker", "unit_us": pcm.G_MAX, "t0_s": pcm.T0, "t_read_s": pcm.T_READ,
    "relative": {"factor": 0.0088, "power": -0.65, "high": 0.2},
}  # fmt: skip
X, Y = data(32)


def noisy(adc_bits=None, **device):
    """A layer of three rows whose columns hold five conductances, each against nothing."""
    parts = {"g_min_us": 0.0, "g_max_us": 25.0, "read_noise": FLICKER, **device}
    base = {"device": parts, "dac": {"bits": 8}, "adc": {"bits": adc_bits}, "array": {"transposed": {}}}
    bar = crossbar(target(base), np.ones((1, 3, 5)), gain=255.0, seed=2)
    g_us = np.zeros((1, 3, 2, 5), np.float32)
    g_us[:, :, 0] = FIVE
    bar.set_conductances(g_us)
    return bar


@pytest.mark.parametrize("age_s", [0.0, 1e4, 1e8])
def test_noise_of_a_read_is_that_of_its_conductances_and_age(age_s):
    bar, n = noisy(), 4000
    bar.advance(age_s)
    y = bar.multiply(np.ones((n, 3), np.float32), dense(bar.matrix), 5).astype(np.float64)
    relative = y.std(axis=0) / y.mean(axis=0)
    expected = [pcm.read_sigma(g, max(age_s, pcm.T0)) / (g * np.sqrt(3)) for g in FIVE]
    np.testing.assert_allclose(relative / expected, 1, atol=5 / np.sqrt(2 * n))


def test_noise_of_a_transposed_read_too():
    bar, n = noisy(), 4000
    bar.advance(1e4)
    delta = np.zeros((n, 5), np.float32)
    delta[np.arange(n), np.arange(n) % 5] = 1
    dx = activation_gradient(delta, bar, (n, 3), dense(bar.matrix), 7).astype(np.float64)
    for c, g in enumerate(FIVE):
        own = dx[c::5].reshape(-1)
        assert abs(own.std() / own.mean() / (pcm.read_sigma(g, 1e4) / g) - 1) < 5 / np.sqrt(2 * own.size)


def test_after_writes_a_read_is_that_of_the_saved_chip(tmp_path):
    c = chip(**pcm.CHIP | pcm.NOISE)
    t = trainer(c, init="weights", threshold=0.0)
    t.step(X[:16], Y[:16])
    c.advance(1e5)
    c.run({"x": X}, 0)
    t.step(X[:16], Y[:16])
    t.program()
    outputs = c.run({"x": X}, 0)["y"]
    c.save(tmp_path / "c.cim")
    assert cimc.Chip(cimc.load(tmp_path / "c.cim")).run({"x": X}, 0)["y"].tobytes() == outputs.tobytes()


def test_a_writers_read_of_a_device_has_its_noise():
    chip_target = load_target("bulk-rram", pcm.CHIP | pcm.NOISE)
    g_us = FIVE.copy()
    writer = Writer(chip_target, g_us, np.zeros(5, np.uint32), 3)
    writer.state.time_s = 1e4
    expected = [np.hypot(pcm.read_sigma(g, 1e4), 0.1) for g in FIVE]
    np.testing.assert_allclose(writer.read_sigma_us(g_us), expected, rtol=1e-5)
    plain = Writer(load_target("bulk-rram"), g_us, np.zeros(5, np.uint32), 3, lambda: numbered_keys(1, 5))
    assert plain.read_sigma_us(g_us).tolist() == [np.float32(1.6)]


def test_a_die_reads_back_and_tests_itself_with_it():
    settings = {
        "device.read_noise.kind": "flicker",
        "device.read_noise.unit_us": 32.9,
        "device.read_noise.relative.polynomial": [0.02],
    }
    aging = exact(**{name.replace(".", "__"): value for name, value in settings.items()})
    image = cimc.export_image(cimc.Chip(cimc.compile(model(), target=aging, calibration={"x": X}), 0))
    die = image.program(seed=3, programming="gaussian")
    report = die.programming
    assert report.selftest_outside == 0
    error, sigma = [], []
    for number, (name, layer) in enumerate(report.layers.items()):
        goals = image.goals(number).g_us
        error.append((layer.readback_us - die.crossbars[name].g_us).reshape(-1))
        sigma.append((0.02 * goals * np.sqrt(np.log((1 + 1e-6) / 2e-6))).reshape(-1))
    ratio = np.concatenate(error) / np.concatenate(sigma)
    assert abs(ratio.std() - 1) < 5 / np.sqrt(2 * ratio.size) + 0.01
