"""Devices: what their parts do, against closed forms and the statistics that they state."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.errors import TargetError
from cimc.runtime.devices import Memristor, State, device_keys
from cimc.runtime.programmers.whole import NewDevices
from cimc.targets.description import Device, Programming, Target
from cimc.targets.programming_sections import PolynomialProgramming, SaturatingProgramming

N = 400_000


def written(device: Device, goal_us: float, seed: int = 3, first: int = 0, count: int = N) -> np.ndarray:
    """Devices written once, as a layer is."""
    g_us = np.full(count, goal_us, np.float32)
    new = NewDevices(Target(name="test", device=device), 0.0)
    new.program(g_us, new.arrays(g_us), seed, first, lambda: np.arange(count, dtype=np.uint64))
    return g_us


def test_programming_error_has_the_mean_and_deviation_of_the_target() -> None:
    device = Device(g_min_us=1, g_max_us=50, programming=Programming(mean_us=0.7, sigma_us=2.5))
    error = written(device, 30.0).astype(np.float64) - 30
    assert abs(error.mean() - 0.7) < 5 * 2.5 / N**0.5
    assert abs(error.std() - 2.5) < 5 * 2.5 / (2 * N) ** 0.5


def test_conductance_is_never_negative_but_may_leave_the_window() -> None:
    g_us = written(Device(g_min_us=1, g_max_us=50, programming=Programming(sigma_us=2)), 1.0)
    assert g_us.min() == 0
    assert 0 < (g_us < 1).mean() < 1
    assert (written(Device(g_min_us=1, g_max_us=50, programming=Programming(sigma_us=2)), 50.0) > 50).any()


def test_perfect_programming_changes_nothing() -> None:
    assert (written(Device(), 0.3) == np.float32(0.3)).all()


#: Deviation over x of published devices, in closed form: Joshi et al. 2020, HERMES, NeuRRAM at 1 s, CMO/HfOx, SONOS at day 0.
PUBLISHED = {
    "joshi": (
        PolynomialProgramming(unit_us=25, sigma_coefficients_us=(0.26348, 1.9650, -1.1731)),
        25.0,
        lambda x: 0.26348 + 1.9650 * x - 1.1731 * x**2,
    ),
    "hermes": (
        PolynomialProgramming(unit_us=20.7, sigma_coefficients_us=(0.16603, 4.71807, -8.48101, 4.68961)),
        20.7,
        lambda x: 0.16603 + 4.71807 * x - 8.48101 * x**2 + 4.68961 * x**3,
    ),
    "neurram": (
        PolynomialProgramming(unit_us=40, sigma_coefficients_us=(0.348, 16.030, -43.853, 45.393, -16.815)),
        40.0,
        lambda x: 0.348 + 16.030 * x - 43.853 * x**2 + 45.393 * x**3 - 16.815 * x**4,
    ),
    "cmo": (
        PolynomialProgramming(sigma_coefficients_us=(0.0112185, 0.0112903)),
        88.2,
        lambda x: 0.0112185 + 0.0112903 * 88.2 * x,
    ),
    "sonos": (
        SaturatingProgramming(limit_us=19.88665, knee=176.3115),
        3200.0,
        lambda x: 19.88665 * (1 - np.exp(-3200 * x / 176.3115)),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_programming_error_of_published_devices_at_five_conductances(name: str) -> None:
    section, g_max, closed_form = PUBLISHED[name]
    device, n = Device(g_max_us=g_max, programming=section), 40_000
    for x in (0.2, 0.35, 0.5, 0.75, 1.0):  # at the low end a few would be cut at 0
        goal = np.float32(g_max * x)
        error = written(device, goal, count=n).astype(np.float64) - goal
        sigma = float(closed_form(x))
        assert abs(error.mean()) < 5 * sigma / n**0.5
        assert abs(error.std() / sigma - 1) < 5 / (2 * n) ** 0.5


@pytest.mark.parametrize("programming", [Programming(sigma_us=1), PolynomialProgramming(sigma_coefficients_us=(1.0, 0.1))])
def test_a_device_draws_the_same_error_in_any_block(programming) -> None:
    device = Device(g_max_us=9, programming=programming)
    whole = written(device, 5, 7, 100, 1000)
    parts = written(device, 5, 7, 100, 300), written(device, 5, 7, 400, 700)
    assert whole.tobytes() == np.concatenate(parts).tobytes()


def test_writes_of_a_state_touch_nothing_else() -> None:
    model = Memristor(Device(g_max_us=50, programming=PolynomialProgramming(sigma_coefficients_us=(1.0,))))
    g_us = np.full(100, 7, np.float32)
    where = np.array([3, 50, 99])
    state = State(g_us, lambda: np.arange(100, dtype=np.uint64))
    model.write(state, where, np.float32([10, 20, 30]), 0.0, device_keys(5, where, np.zeros(3, np.uint32)))
    assert set(np.flatnonzero(g_us != 7)) == {3, 50, 99}


@pytest.mark.parametrize(
    "settings",
    [{"kind": "flux"}, {"programming": {"kind": "hammer"}}, {"drift": {"kind": "sand"}}, {"read_noise": {"kind": "hum"}}],
)
def test_an_unknown_kind_names_those_there_are(settings) -> None:
    with pytest.raises(TargetError, match="entry points cimc") as error:
        Target.model_validate({"name": "test", "device": settings})
    assert error.value.fix is not None
    assert error.value.fix.startswith("one of: ")
    assert "--plugin" in error.value.fix
