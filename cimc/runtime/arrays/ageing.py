"""What devices hold at the present time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.arrays.devices import Devices
from cimc.runtime.cells import may_be_stuck, stick
from cimc.runtime.devices import DeviceModel, State, read_variance
from cimc.targets.description import Device

F32 = NDArray[np.float32]


class Ageing:
    """Ages the devices of a chip.

    Args:
        device: Their section of the target.
        model: Their model.
    """

    def __init__(self, device: Device, model: DeviceModel) -> None:
        self.device, self.model = device, model

    def now(self, state: State) -> tuple[F32, F32 | None]:
        """What devices hold at ``state.time_s``, and how a read of them varies.

        Returns:
            Conductances (µS, ``[n]``), ``state.g_us`` itself where nothing moves it (stuck cells do not move), and the variance
            of a read of each device (µS², ``[n]``), or None where it is that of ``device.read_sigma_us``.
        """
        g_us = self.model.conductance(state, state.time_s)
        if g_us is not state.g_us and may_be_stuck(self.device):
            stick(self.device, g_us, state.cells)
        return g_us, read_variance(self.model, self.device, state, g_us, state.time_s)

    def aged(self, held: Devices, state: State, units: State) -> Devices:
        """The devices of a copy at the present time; ``held`` itself where nothing moves them.

        Args:
            held: What the last writes left.
            state: Of its devices.
            units: Of its unit columns.
        """
        (g_us, variance), (unit_g_us, unit_variance) = self.now(state), self.now(units)
        if g_us is state.g_us and unit_g_us is units.g_us and variance is None:
            return held
        shape, unit_shape = held.g_us.shape, held.unit_g_us.shape
        return replace(
            held,
            g_us=g_us.reshape(shape),
            unit_g_us=unit_g_us.reshape(unit_shape),
            variance_us2=None if variance is None else variance.reshape(shape),
            unit_variance_us2=None if unit_variance is None else unit_variance.reshape(unit_shape),
        )

    def update(self, now: Devices, state: State, devices: NDArray[np.int64]) -> None:
        """Bring ``now`` up to date, in place, where only some devices (flat numbers, of those in ``state``) were written."""
        g_us, variance = self.now(state.at(devices))
        now.g_us.reshape(-1)[devices] = g_us
        if now.variance_us2 is not None:
            now.variance_us2.reshape(-1)[devices] = variance
