"""Direct writes: each lands at once where the device model says, as ``device.programming`` describes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys
from cimc.runtime.devices.programming import GaussianProgramming
from cimc.runtime.jit import kernel
from cimc.runtime.programmers.access import F32, I64, U32, DeviceState
from cimc.runtime.programmers.draws import device_key, draw
from cimc.runtime.programmers.report import Report
from cimc.targets.description import Target


@kernel()
def _write_gaussian(
    g_us: F32, writes: U32, stuck: NDArray[np.bool_], devices: I64, goal_us: F32, seed: int, mean: float, sigma: float,
    left: I64,
) -> int:  # fmt: skip
    worn = 0
    for i in range(devices.size):
        d = devices[i]
        if left[i] <= 0:
            worn += 1
        elif stuck.size == 0 or not stuck[d]:
            error = mean + sigma * draw(device_key(seed, d, writes[d]), 0)
            g_us[d] = max(goal_us[i] + error, np.float32(0))
        writes[d] += np.uint32(1)
    return worn


class Direct:
    """See `Programmer`."""

    def __init__(self, section: Any, target: Target) -> None:
        self.timing = target.timing

    def program(self, cells: DeviceState, devices: I64, goal_us: F32, training: bool) -> Report:
        """See `Programmer`."""
        gaussian = _gaussian(cells.model)
        if gaussian is not None and cells.compiled:
            left, errors = cells.left(devices), (gaussian.mean_us, gaussian.sigma_us)
            worn = _write_gaussian(cells.g_us, cells.writes, cells.stuck, devices, goal_us, cells.seed, *errors, left)
            report = Report(devices.size, worn=worn)
        else:
            write = cells.begin(devices)
            write.write(write.every, goal_us)
            report = replace(write.report(), pulses=None, reads=None)
        ns, nj = self.timing.programming_ns, self.timing.programming_energy_nj
        return replace(
            report,
            time_ns=None if ns is None else devices.size * ns,
            energy_nj=None if nj is None else devices.size * nj,
        )

    def program_new(self, model: DeviceModel, state: State, seed: int, first: int) -> None:
        """Write all devices of a state, which are new and stand side by side in their layer, to the goals that they hold.

        Args:
            model: The device model.
            state: Its conductances are goals, then what the writes left; the faults of cells are left out.
            seed: Key of the layer's first writes.
            first: Number of the first of these devices in the layer.
        """
        gaussian = _gaussian(model)
        if gaussian is not None:
            if "goal_us" in state.arrays:
                state.arrays["goal_us"][...] = state.g_us
            gaussian.write_all(state.g_us, seed, first)  # whatever else is kept is that of `arrays`
            return
        goals, where = state.g_us.copy(), np.arange(state.g_us.size)
        state.g_us[...] = model.birth(state.cells)
        model.write(state, where, goals, state.time_s, device_keys(seed, first + where, np.zeros(where.size, np.uint32)))


def _gaussian(model: DeviceModel) -> GaussianProgramming | None:
    """The programming part of the built-in model where kernels know it."""
    known = type(model) is Memristor and isinstance(model.programming, GaussianProgramming)
    return model.programming if known else None  # type: ignore[attr-defined]
