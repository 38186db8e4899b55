"""The first programming of a layer, a block of new devices at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.cells import Keys, born_on, may_be_stuck, stick
from cimc.runtime.devices import State, device_model
from cimc.runtime.devices.model import Arrays
from cimc.runtime.programmers.access import DeviceState
from cimc.runtime.programmers.direct import Direct
from cimc.runtime.programmers.registry import programmer
from cimc.targets.description import Target

F32 = NDArray[np.float32]


class NewDevices:
    """New devices of a chip, and the programmer that writes them first.

    Args:
        target: The chip.
        time_s: When they are written.

    Raises:
        TargetError: There is no such device model or programmer, or the target lacks figures that it needs.
    """

    def __init__(self, target: Target, time_s: float) -> None:
        self.target, self.time_s = target, time_s
        self._model, self._programmer = device_model(target.device), programmer(target)

    def arrays(self, g_us: F32) -> Arrays:
        """What the device model keeps beside conductances, each shaped as ``g_us``."""
        return self._model.arrays(g_us, self.time_s)

    def program(self, g_us: F32, arrays: Arrays, seed: int, first: int, keys: Keys) -> None:
        """Bring devices to the goals that ``g_us`` holds (contiguous), in place.

        Args:
            g_us: Goals, then conductances, µS.
            arrays: From `arrays`, or views of them, shaped as ``g_us``.
            seed: Key of the chip and the layer.
            first: Number of the first of these devices in its layer.
            keys: Gives the keys of the cells, shaped as ``g_us``.
        """
        flat, write, device = g_us.reshape(-1), rng.key(seed, "write"), self.target.device
        state = State(flat, keys, {name: array.reshape(-1) for name, array in arrays.items()}, self.time_s)
        if type(self._programmer) is Direct:
            self._programmer.program_new(self._model, state, write, first)
        else:
            goals = flat.copy()
            flat[:] = born_on(device, state.cells)
            cells = DeviceState(self.target, flat, np.zeros(flat.size, np.uint32), rng.key(write, first), state=state)
            self._programmer.program(cells, np.arange(flat.size), goals, training=False)
        if may_be_stuck(device):
            stick(device, flat, state.cells)
