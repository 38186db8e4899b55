"""Blind pulses against the closed form of soft bounds."""

import numpy as np
import pytest

from cimc.errors import TargetError
from cimc.runtime.pulses import PulseWriter
from cimc.runtime.write import device_seed
from cimc.targets.load import load_target

MIDDLE, HALF = (32.9 + 8.2) / 2, (32.9 - 8.2) / 2


def made(start_us, **changes):
    start = np.array(start_us, np.float32)
    target = load_target(
        "bulk-rram", {f"device.pulse.{k}": v for k, v in changes.items() if k != "endurance"}
        | {"device.endurance_writes": changes.get("endurance")},
    )  # fmt: skip
    return PulseWriter(target, start, np.zeros(start.size, np.uint32), device_seed(3, "fc"))


NOISELESS = {"cycle_spread": 0.0, "device_spread": 0.0}


@pytest.mark.parametrize("n", [1, 10, 200])
def test_pulses_approach_the_bounds_geometrically(n):
    w = made([12.0, 12.0], up_us=0.5, down_us=0.2, **NOISELESS)
    w.pulse(np.array([0, 1]), np.array([n, -n], np.int32))
    u = 12.0 - MIDDLE
    up = HALF - (HALF - u) * (1 - 0.5 / HALF) ** n
    down = (HALF + u) * (1 - 0.2 / HALF) ** n - HALF
    np.testing.assert_allclose(w.g_us - MIDDLE, [up, down], rtol=1e-5, atol=1e-4)
    assert w.writes.tolist() == [n, n]


def test_nothing_moves_at_the_bound_it_would_leave():
    w = made([32.9, 8.2], up_us=0.5, down_us=0.2)
    w.pulse(np.array([0, 1]), np.array([50, -50], np.int32))
    np.testing.assert_allclose(w.g_us, [32.9, 8.2], rtol=1e-6)


def test_a_pulse_varies_from_cycle_to_cycle_as_stated():
    n = 20_000
    w = made(np.full(n, MIDDLE), up_us=0.25, cycle_spread=0.3, device_spread=0.0)
    w.pulse(np.arange(n), np.ones(n, np.int32))
    step = (w.g_us - np.float32(MIDDLE)) / 0.25
    assert abs(step.mean() - 1) < 5 * 0.3 / np.sqrt(n)
    assert abs(step.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * n) + 1e-3


def test_a_device_keeps_its_own_step():
    n = 5000
    w = made(np.full(n, MIDDLE), up_us=0.01, down_us=0.01, cycle_spread=0.0, device_spread=0.3)
    steps = []
    for sign in (1, -1):
        before = w.g_us.copy()
        w.pulse(np.arange(n), np.full(n, 20 * sign, np.int32))
        steps.append(np.abs(w.g_us - before))
    assert np.corrcoef(steps)[0, 1] > 0.99
    assert abs(steps[0].mean() / 0.2 - 1) < 5 * 0.3 / np.sqrt(n) + 0.02  # the bound takes 1 %
    assert abs(steps[0].std() / 0.2 - 0.3) < 5 * 0.3 / np.sqrt(2 * n) + 0.02


def test_each_pulse_wears():
    w = made([12.0, 12.0], up_us=0.5, endurance=7, **NOISELESS)
    done = w.pulse(np.array([0, 1]), np.array([7, 10], np.int32))
    assert w.g_us[0] == w.g_us[1]
    assert (done.devices, done.pulses, done.worn) == (17, 17, 3)


def test_costs():
    done = made([12.0], pulse_ns=10.0).pulse(np.array([0]), np.array([-4], np.int32))
    assert (done.time_ns, done.energy_nj) == (40.0, None)


def test_a_chip_without_blind_pulses_is_refused():
    with pytest.raises(TargetError, match=r"device\.pulse\.up_us"):
        PulseWriter(load_target("isaac"), np.zeros(1, np.float32), np.zeros(1, np.uint32), 0)
