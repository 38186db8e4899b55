"""The interface of programmers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.programmers.access import DeviceState
from cimc.runtime.programmers.report import Report
from cimc.targets.description import Target

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class Programmer(Protocol):
    """Brings cells to their goals. One object serves all devices of a chip; what it keeps of a device stands in no array."""

    def __init__(self, section: Any, target: Target) -> None:
        """Made of its section (for a built-in kind a class of `cimc.targets.programmer_sections`) and the target.

        Raises:
            TargetError: The target lacks figures that it needs.
        """

    def program(self, cells: DeviceState, devices: I64, goal_us: F32, training: bool) -> Report:
        """Bring devices to their goals.

        A programmer of one's own does so by ``write = cells.begin(devices)``, the methods of `DeviceWrite`, and
        ``write.report(...)``: faults, wear and the keys of all draws are taken care of there.

        Args:
            cells: The devices of a layer.
            devices: Flat numbers, each at most once, ``[n]``.
            goal_us: µS, ``[n]``.
            training: Whether this is an update in training, for which a programmer may spend less than for a transfer.
        """
