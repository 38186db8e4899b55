"""The interface of device models, and the arrays that they work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.targets.device import Device

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
#: What a model keeps beside conductances, by name; numbers alone.
Arrays = Mapping[str, NDArray[Any]]


@dataclass
class State:
    """n devices, as their last write left them. Arrays are views of a chip's: a model changes them in place."""

    g_us: F32
    """Conductance that the last write left, µS, ``[n]``."""
    keys: Callable[[], U64]
    """Gives the keys of the cells, any shape of n entries."""
    arrays: Arrays = field(default_factory=dict)
    """What the model keeps beside, each ``[n]``; the names and types of `DeviceModel.arrays`."""
    time_s: float = 0.0
    """Present time of the chip."""

    @cached_property
    def cells(self) -> U64:
        """Keys of the cells, ``[n]``: what a device brings from its birth is drawn from its cell's key."""
        return np.ascontiguousarray(self.keys()).reshape(-1)

    def at(self, where: I64) -> State:
        """Copies of the devices ``where`` (numbers, ``[m]``)."""
        return State(self.g_us[where], lambda: self.cells[where], {n: a[where] for n, a in self.arrays.items()}, self.time_s)


class DeviceModel(Protocol):
    """What devices do. Made from the target's ``device`` section; its methods serve any number of devices at once.

    ``where`` are numbers of devices in a state, ``[n]``, each at most once; ``time_s`` is the present time of the chip, at
    least that of each device's last write; ``keys`` are those of n writes or pulses (see `draws`), none given twice. Faulty
    devices are no part of a model: they are neither written nor pulsed, and what they hold is put in afterwards.
    """

    def __init__(self, device: Device) -> None: ...

    def arrays(self, g_us: F32, time_s: float) -> dict[str, NDArray[Any]]:
        """What the model keeps beside conductances, of devices that hold ``g_us`` (any shape) since a write at ``time_s``.

        Each array has that shape, and a dtype of numbers. {}: nothing.
        """

    def birth(self, cells: U64) -> F32:
        """Conductances of devices that were never written, µS, shaped as the keys of their cells."""

    def write(self, state: State, where: I64, goal_us: F32, time_s: float, keys: U64) -> None:
        """Write devices directly, error included, to their goals (µS, ``[n]``)."""

    def pulse(self, state: State, where: I64, up: NDArray[np.bool_], time_s: float, keys: U64) -> None:
        """Give each device one blind pulse, up or down (``[n]``)."""

    def step(self, state: State, where: I64, up: NDArray[np.bool_], volt: F32, time_s: float, keys: U64) -> None:
        """Give each device one SET (up) or RESET pulse of write-verify, of amplitude ``volt`` (V, ``[n]``)."""

    def conductance(self, state: State, time_s: float) -> F32:
        """What all devices of a state hold at a time, µS, ``[n]``; ``state.g_us`` itself where nothing moves it."""

    def read_variance(self, state: State, g_us: F32, time_s: float) -> float | F32:
        """Variance of one read of each device at a time, µS²: a number for all, or ``[n]``. ``g_us``: what they hold then."""
