"""Figures of phase-change memory after Joshi et al. 2020, as settings, and its equations in plain float64 numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

G_MAX, T0, T_READ = 25.0, 20.0, 250e-9
DRIFT: dict[str, Any] = {
    "device.drift.kind": "power_law",
    "device.drift.unit_us": G_MAX,
    "device.drift.t0_s": T0,
    "device.drift.nu_mean.polynomial": [0.0244],
    "device.drift.nu_mean.log": -0.0155,
    "device.drift.nu_mean.low": 0.049,
    "device.drift.nu_mean.high": 0.1,
    "device.drift.nu_sigma.polynomial": [-0.0059],
    "device.drift.nu_sigma.log": -0.0125,
    "device.drift.nu_sigma.low": 0.008,
    "device.drift.nu_sigma.high": 0.045,
}
NOISE: dict[str, Any] = {
    "device.read_noise.kind": "flicker",
    "device.read_noise.unit_us": G_MAX,
    "device.read_noise.t0_s": T0,
    "device.read_noise.t_read_s": T_READ,
    "device.read_noise.relative.factor": 0.0088,
    "device.read_noise.relative.power": -0.65,
    "device.read_noise.relative.high": 0.2,
}
PROGRAMMING: dict[str, Any] = {
    "device.programming.kind": "polynomial",
    "device.programming.unit_us": G_MAX,
    "device.programming.sigma_coefficients_us": [0.26348, 1.9650, -1.1731],
}
#: Of a chip that extends bulk-rram.
CHIP: dict[str, Any] = {
    "device.g_min_us": 0.0,
    "device.g_max_us": G_MAX,
    "device.levels": None,
    "device.read_sigma_us": 0.1,
    "device.born_us": None,
    **PROGRAMMING,
    **DRIFT,
}


def nu(g_us: float) -> tuple[float, float]:
    """Mean and deviation of the drift exponent before its sign is taken off."""
    x = g_us / G_MAX
    return min(max(-0.0155 * np.log(x) + 0.0244, 0.049), 0.1), min(max(-0.0125 * np.log(x) - 0.0059, 0.008), 0.045)


def read_sigma(g_us: float, age_s: float) -> float:
    """Deviation of a read of a device that was written to ``g_us`` and still holds it."""
    q = min(0.0088 / max((g_us / G_MAX) ** 0.65, 1e-3), 0.2)
    return g_us * q * np.sqrt(np.log((age_s + T_READ) / (2 * T_READ)))
