"""The built-in device: a conductance with the programming error, drift and read noise that the target's parts describe.

Pulses follow the equations of `cimc.runtime.programmers.write_verify` and `cimc.runtime.pulses`. Where this very model is chosen,
compiled kernels do the same work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.devices import parts
from cimc.runtime.devices.draws import normals, uniforms
from cimc.runtime.devices.model import F32, I64, U64, State
from cimc.targets.device import Device

#: Draws of a cell, by the counter of its key; 0 is its fault, 3 its drift.
BORN, RESPONSE = 1, 2
_F0, _F1 = np.float32(0), np.float32(1)


class Memristor:
    """See `DeviceModel` for its methods."""

    Section = Device

    def __init__(self, device: Device) -> None:
        self.device = device
        self.programming = parts.programming_model(device.programming)
        self.drift = None if device.drift is None else parts.drift_model(device.drift)
        self.read_noise = device.read_noise
        self._needs_goal = self.drift is not None and self.drift.needs_goal

    def arrays(self, g_us: F32, time_s: float) -> dict[str, NDArray[Any]]:
        """Time of the last write (s) where the age decides anything; its goal (µS) where drift needs it."""
        if self.drift is None and self.read_noise is None:
            return {}
        kept: dict[str, NDArray[Any]] = {"written_s": np.full(g_us.shape, time_s, np.float64)}
        return kept | ({"goal_us": np.array(g_us, np.float32)} if self._needs_goal else {})

    def birth(self, cells: U64) -> F32:
        """Uniform over ``device.born_us``; g_min where it is null."""
        low, high = self.device.born_us or (self.device.g_min_us, self.device.g_min_us)
        return uniforms(cells, BORN) * np.float32(high - low) + np.float32(low)

    def write(self, state: State, where: I64, goal_us: F32, time_s: float, keys: U64) -> None:
        """As the programming model says."""
        self._left(state, where, self.programming.write(goal_us, keys), goal_us, time_s)

    def pulse(self, state: State, where: I64, up: NDArray[np.bool_], time_s: float, keys: U64) -> None:
        """Soft bounds."""
        d, p = self.device, self.device.pulse
        if p.up_us is None or p.down_us is None:
            fix = "--set device.pulse.up_us=... (and down_us)"
            raise TargetError("blind pulses need their mean steps", where="device.pulse", fix=fix)
        middle, half = np.float32((d.g_max_us + d.g_min_us) / 2), np.float32((d.g_max_us - d.g_min_us) / 2)
        u = self.conductance(state.at(where), time_s) - middle
        factor = self._response(state, where, p.device_spread) * (_F1 + np.float32(p.cycle_spread or 0) * normals(keys))
        step = np.where(up, np.float32(p.up_us) * (half - u), np.float32(-p.down_us) * (half + u))
        held: F32 = (middle + np.clip(u + step / half * factor, -half, half)).astype(np.float32)
        self._left(state, where, held, held, time_s)

    def step(self, state: State, where: I64, up: NDArray[np.bool_], volt: F32, time_s: float, keys: U64) -> None:
        """A step that grows with the amplitude."""
        v = self.device.write_verify
        if v.set_us is None or v.reset_us is None or v.start_v is None:
            fix = "--set device.write_verify.set_us=... (and reset_us, start_v)"
            raise TargetError("write-verify needs the steps of its pulses", where="device.write_verify", fix=fix)
        growth = 2 ** ((volt.astype(np.float64) - v.start_v) / v.doubling_v) if v.doubling_v else np.ones(volt.size)
        mean = (np.where(up, v.set_us, -v.reset_us) * growth).astype(np.float32) * self._response(state, where, v.device_spread)
        factor = np.maximum(_F1 + np.float32(v.cycle_spread or 0) * normals(keys), _F0)
        held = np.maximum(self.conductance(state.at(where), time_s) + mean * factor, _F0)
        self._left(state, where, held, held, time_s)

    def conductance(self, state: State, time_s: float) -> F32:
        """As written where there is no drift."""
        if self.drift is None:
            return state.g_us
        written_s = state.arrays["written_s"]
        writes = parts.write_keys(state.cells, written_s)
        goal_us = state.arrays["goal_us"] if self._needs_goal else state.g_us
        return self.drift.conductance(state.g_us, goal_us, np.maximum(time_s - written_s, 0), state.cells, writes)

    def read_variance(self, state: State, g_us: F32, time_s: float) -> float | F32:
        """The constant one, and what the read noise part adds."""
        constant = self.device.read_sigma_us**2
        if self.read_noise is None:
            return constant
        age_s = np.maximum(time_s - state.arrays["written_s"], 0)
        variance: F32 = (self.read_noise.variance_us2(g_us, state.g_us, age_s) + constant).astype(np.float32)
        return variance

    def _response(self, state: State, where: I64, spread: float | None) -> F32 | np.float32:
        """Factor of each device's answer to pulses."""
        if not spread:
            return _F1
        factor: F32 = np.maximum(_F1 + np.float32(spread) * normals(state.cells[where], RESPONSE), _F0)
        return factor

    def _left(self, state: State, where: I64, held: F32, goal_us: F32, time_s: float) -> None:
        """Devices hold something new from now on."""
        state.g_us[where] = held
        if "written_s" in state.arrays:
            state.arrays["written_s"][where] = time_s
        if self._needs_goal:
            state.arrays["goal_us"][where] = goal_us
