"""Programming by blind pulses: a reset by down pulses, then a counted number of up pulses; no read.

The count follows from the mean steps of ``device.pulse`` under soft bounds (see `cimc.runtime.pulses`). With u the conductance
from the middle of the window and b half the window, n up pulses bring u = -b to ``u_n = b - 2 b (1 - up / b)**n``, so a goal u
takes ``n = log((b - u) / 2 b) / log(1 - up / b)`` pulses, rounded. A device is off by what its own response and its pulses add:
the reason why write-verify exists.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime.programmers.access import F32, I64, DeviceState
from cimc.runtime.programmers.report import Report
from cimc.runtime.pulses import BlindPulse
from cimc.targets.description import Target
from cimc.targets.programmer_sections import BlindWrites

#: Most pulses of one write of a device, one way.
_MOST = 10_000


class BlindPulses:
    """See `Programmer`."""

    def __init__(self, section: BlindWrites, target: Target) -> None:
        self.pulses, self.figures, device = BlindPulse(target), target.device.pulse, target.device
        self.window_us, self.low_us, self.end_share = device.g_max_us - device.g_min_us, device.g_min_us, section.end_share
        self._resets = self._count(np.zeros(1), self.pulses.down_us)
        most = max(int(self._resets[0]), int(self._count(np.zeros(1), self.pulses.up_us)[0]))
        if most > _MOST:
            raise TargetError(
                f"a write by blind pulses takes up to {most} pulses one way; at most {_MOST} are simulated",
                where=f"target {target.name}, device.pulse",
                fix="larger device.pulse.up_us and down_us, a larger programmer.end_share, or another programmer.kind",
            )

    def program(self, cells: DeviceState, devices: I64, goal_us: F32, training: bool) -> Report:
        """See `Programmer`."""
        pulses = self._count(1 - (goal_us.astype(np.float64) - self.low_us) / self.window_us, self.pulses.up_us)
        total, left, p = pulses + self._resets, cells.left(devices), self.figures
        for each in (np.broadcast_to(-self._resets, pulses.shape), pulses):
            self.pulses.give(cells, devices, np.ascontiguousarray(each))
        given = int(total.sum(dtype=np.int64))
        return Report(
            devices.size,
            pulses=total,
            worn=int((left < total).sum()),
            time_ns=None if p.pulse_ns is None else given * p.pulse_ns,
            energy_nj=None if p.pulse_energy_nj is None else given * p.pulse_energy_nj,
        )

    def _count(self, share: NDArray[np.float64], step_us: np.float32) -> NDArray[np.int32]:
        """Pulses from one end of the window to where ``share`` of it is left to the other end, ``[n]``."""
        step = min(float(step_us) / (self.window_us / 2), 1 - 1e-6)
        count: NDArray[np.int32] = np.rint(np.log(np.clip(share, self.end_share, 1)) / np.log1p(-step)).astype(np.int32)
        return count
