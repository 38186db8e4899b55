"""Blind pulses: non-linear, asymmetric, noisy steps with no read, for updates by pulse count.

Soft bounds, as Nandakumar et al. 2020 (Front. Neurosci. 14:406) and the literature on resistive training devices use them.
With u the conductance from the middle of the window and b half the window::

    up:   du = +up_us   * (b - u) / b * (1 + device_spread * n_d) * (1 + cycle_spread * n_c)
    down: du = -down_us * (b + u) / b * the same factors

with standard normal n_d of the device and n_c of the pulse; a factor of the device below 0 counts as 0. A pulse may step
back where its noise is large. Conductances do not leave the window by a pulse; one that a write put outside is drawn back.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.jit import kernel
from cimc.runtime.programmers.access import F32, I64, U32, DeviceState
from cimc.runtime.programmers.draws import device_key, draw
from cimc.runtime.programmers.report import Writes
from cimc.targets.description import Target

_F1 = np.float32(1)


@njit(inline="always", error_model="numpy")
def moved(
    u: float, rising: bool, own: float, seed: int, device: int, number: int, up: float, down: float, half: float, cycle: float
) -> float:
    """A conductance, from the middle of the window, after one pulse; the arguments are float32."""
    factor = own * (_F1 + cycle * draw(device_key(seed, device, number), 0))
    step = up * (half - u) if rising else -down * (half + u)
    after: float = min(max(u + step / half * factor, -half), half)
    return after


@kernel(error_model="numpy")
def _pulse(
    g_us: F32, writes: U32, stuck: NDArray[np.bool_], devices: I64, pulses: NDArray[np.int32], seed: int, response: F32,
    left: I64, up: float, down: float, middle: float, half: float, cycle: float,
) -> int:  # fmt: skip
    worn = 0
    for i in range(devices.size):
        d, n = devices[i], pulses[i]
        own = response[d] if response.size > 0 else _F1
        u = g_us[d] - middle
        changed = False
        for number in range(abs(n)):
            if number >= left[i]:
                worn += 1
            elif stuck.size == 0 or not stuck[d]:
                u = moved(u, n > 0, own, seed, d, writes[d], up, down, half, cycle)
                changed = True
            writes[d] += np.uint32(1)
        if changed:
            g_us[d] = middle + u
    return worn


class BlindPulse:
    """Blind pulses on a chip, given to any of its devices.

    Raises:
        TargetError: The target does not describe blind pulses.
    """

    def __init__(self, target: Target) -> None:
        up, down = pulse_steps(target)
        device, pulse = target.device, target.device.pulse
        self.up_us, self.down_us = np.float32(up), np.float32(down)
        self.middle_us = np.float32((device.g_max_us + device.g_min_us) / 2)
        self.half_us = np.float32((device.g_max_us - device.g_min_us) / 2)
        self.cycle, self.spread = np.float32(pulse.cycle_spread or 0), pulse.device_spread

    def give(self, cells: DeviceState, devices: I64, pulses: NDArray[np.int32]) -> int:
        """Pulses to devices (flat numbers, each at most once, ``[n]``), up where positive, down where negative (``[n]``).

        Each pulse counts as a write of its device.

        Returns:
            Pulses to worn devices.
        """
        if cells.compiled:
            worn: int = _pulse(
                cells.g_us, cells.writes, cells.stuck, devices, pulses, cells.seed, cells.responses(self.spread),
                cells.left(devices), self.up_us, self.down_us, self.middle_us, self.half_us, self.cycle,
            )  # fmt: skip
        else:
            worn = _pulse_by_model(cells, devices, pulses)
        if cells.pulses is not None:
            cells.pulses[devices] += np.abs(pulses).astype(np.uint32)
        return worn


def _pulse_by_model(cells: DeviceState, devices: I64, pulses: NDArray[np.int32]) -> int:
    """One pulse after the other, each to all devices that get so many; returns pulses to worn devices."""
    worn = 0
    for number in range(int(np.abs(pulses).max(initial=0))):
        some = np.abs(pulses) > number
        given, up = devices[some], pulses[some] > 0
        alive = cells.left(given) > (number if cells.pulses is not None else 0)  # those are counted at the end
        worn += int((~alive).sum())
        able = alive & ~cells.stuck[given] if cells.stuck.size else alive
        where = given[able]
        cells.model.pulse(cells.state, where, up[able], cells.state.time_s, cells.keys_of(where))
        cells.writes[given] += np.uint32(1)
    return worn


class PulseWriter(DeviceState):
    """Gives blind pulses; arguments as of `DeviceState`.

    Raises:
        TargetError: The target does not describe blind pulses.
    """

    def __init__(
        self, target: Target, g_us: F32, writes: U32, seed: int, keys: Keys | None = None, state: State | None = None,
        pulses: U32 | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, g_us, writes, seed, keys, state, pulses)
        self.blind = BlindPulse(target)
        self.up_us, self.down_us = self.blind.up_us, self.blind.down_us
        self.middle_us, self.half_us = self.blind.middle_us, self.blind.half_us

    def pulse(self, devices: I64, pulses: NDArray[np.int32]) -> Writes:
        """Pulses to devices; see `BlindPulse.give`."""
        self.touched = devices
        worn = self.blind.give(self, devices, pulses)
        total, p = int(np.abs(pulses).sum(dtype=np.int64)), self.device.pulse
        return Writes(
            devices=total,
            pulses=total,
            worn=worn,
            time_ns=None if p.pulse_ns is None else total * p.pulse_ns,
            energy_nj=None if p.pulse_energy_nj is None else total * p.pulse_energy_nj,
        )


def pulse_steps(target: Target) -> tuple[float, float]:
    """Mean step (µS) of an up and of a down pulse at the middle of the window.

    Raises:
        TargetError: The target does not give them.
    """
    pulse = target.device.pulse
    if pulse.up_us is None or pulse.down_us is None:
        missing = "up_us" if pulse.up_us is None else "down_us"
        raise TargetError(
            f"blind pulses need device.pulse.{missing}, which this chip does not give",
            where=f"target {target.name}, device.pulse",
            fix=f"--set device.pulse.{missing}=..., or --update threshold",
        )
    return pulse.up_us, pulse.down_us
