"""Writing single devices of a crossbar that is in use, as training does."""

from __future__ import annotations

from cimc.runtime import rng
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.programmers.access import F32, I64, U32, DeviceState
from cimc.runtime.programmers.registry import programmer
from cimc.runtime.programmers.report import Report, Writes
from cimc.targets.description import Target

__all__ = ["F32", "I64", "U32", "DeviceState", "Writer", "Writes", "device_seed", "writer"]


class Writer(DeviceState):
    """Devices in use, and the programmer that writes them.

    Args:
        target: As of `DeviceState`, like those that follow.
        g_us: Likewise.
        writes: Likewise.
        seed: Likewise.
        keys: Likewise.
        state: Likewise.
        pulses: Likewise.
        training: Whether writes are updates in training, for which a programmer may spend less than for a transfer.
        kind: Of the programmer; None: that of the target.

    Attributes:
        touched: Devices that the last call wrote, by flat numbers.

    Raises:
        TargetError: There is no such programmer, or the target lacks figures that it needs.
    """

    def __init__(
        self, target: Target, g_us: F32, writes: U32, seed: int, keys: Keys | None = None, state: State | None = None,
        pulses: U32 | None = None, *, training: bool = True, kind: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(target, g_us, writes, seed, keys, state, pulses)
        self.training, self.programmer = training, programmer(self.target, kind)

    def program(self, devices: I64, goal_us: F32) -> Report:
        """Bring devices (flat numbers, each at most once, ``[n]``) to their goals (µS, ``[n]``)."""
        self.touched = devices
        return self.programmer.program(self, devices, goal_us, self.training)

    def write(self, devices: I64, goal_us: F32) -> Writes:
        """The same; returns totals."""
        return self.program(devices, goal_us).totals()


def device_seed(chip_seed: int, layer: str) -> int:
    """The key of what a layer's writes draw on this chip; writers take it."""
    return rng.key("devices", chip_seed, layer)


def writer(
    target: Target, g_us: F32, writes: U32, seed: int, training: bool = True, keys: Keys | None = None,
    state: State | None = None, pulses: U32 | None = None,
) -> Writer:  # fmt: skip
    """A writer with the programmer of the target; see `Writer`."""
    return Writer(target, g_us, writes, seed, keys, state, pulses, training=training)
