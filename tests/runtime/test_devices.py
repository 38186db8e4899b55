"""Devices: programming errors, faults, and the registry."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.errors import TargetError
from cimc.runtime.devices import Memristor, device_model
from cimc.targets.description import Device, Programming

N = 400_000


def programmed(device: Device, goal_us: float, seed: int = 3) -> np.ndarray:
    g_us = np.full(N, goal_us, np.float32)
    device_model(device).program(g_us, seed, 0)
    return g_us


def test_programming_error_has_the_mean_and_deviation_of_the_target() -> None:
    device = Device(g_min_us=1, g_max_us=50, programming=Programming(mean_us=0.7, sigma_us=2.5))
    error = programmed(device, 30.0).astype(np.float64) - 30
    assert abs(error.mean() - 0.7) < 5 * 2.5 / N**0.5
    assert abs(error.std() - 2.5) < 5 * 2.5 / (2 * N) ** 0.5


def test_conductance_is_never_negative_but_may_leave_the_window() -> None:
    g_us = programmed(Device(g_min_us=1, g_max_us=50, programming=Programming(sigma_us=2)), 1.0)
    assert g_us.min() == 0
    assert 0 < (g_us < 1).mean() < 1
    assert (programmed(Device(g_min_us=1, g_max_us=50, programming=Programming(sigma_us=2)), 50.0) > 50).any()


def test_perfect_programming_changes_nothing() -> None:
    assert (programmed(Device(), 0.3) == np.float32(0.3)).all()


def test_a_device_draws_the_same_error_in_any_block() -> None:
    device = Memristor(Device(g_max_us=9, programming=Programming(sigma_us=1)))
    whole = np.full(1000, 5, np.float32)
    device.program(whole, 7, 100)
    parts = np.full(1000, 5, np.float32)
    device.program(parts[:300], 7, 100)
    device.program(parts[300:], 7, 400)
    assert whole.tobytes() == parts.tobytes()


@pytest.mark.parametrize("device", [Device(kind="flux"), Device(programming=Programming(kind="hammer"))])
def test_an_unknown_model_names_those_there_are(device: Device) -> None:
    with pytest.raises(TargetError, match="entry points cimc") as error:
        device_model(device)
    assert error.value.fix is not None
    assert error.value.fix.startswith("one of: ")
