"""Device models: what one memristor does with a write. Chosen by ``device.kind``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime import rng
from cimc.runtime.programming import Gaussian, ProgrammingModel
from cimc.runtime.rng import Scalar
from cimc.targets.description import Device

F32 = NDArray[np.float32]


class DeviceModel(Protocol):
    """Made from the target's ``device`` section."""

    def __init__(self, device: Device) -> None: ...

    def program(self, goal_us: F32, seed: int, first: int) -> None:
        """Replace goals (µS, ``[n]``, contiguous) in place by what the devices hold after a write.

        ``seed`` is the key of the chip, the layer and the write; ``first`` numbers the first of these devices in its layer.
        """


@njit(cache=True, nogil=True)
def _stick(
    g_us: F32, low_below: Scalar, high_below: Scalar, g_min: Scalar, g_max: Scalar, low: Scalar, high: Scalar, first: Scalar
) -> None:
    for i in range(g_us.size):
        bits = np.int64(rng.hash32(low, high, np.uint32(first + np.uint32(i))))
        if bits < low_below:
            g_us[i] = g_min
        elif bits < high_below:
            g_us[i] = g_max


class Memristor:
    """A programmable conductance with faults: a stuck device holds an end of the window, whatever is written."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.programming: ProgrammingModel = _registered("cimc.programming", {"gaussian": Gaussian}, device.programming.kind)(
            device.programming
        )

    def program(self, goal_us: F32, seed: int, first: int) -> None:
        self.programming.write(goal_us, rng.key(seed, "write"), first)
        d = self.device
        if not (d.stuck_low_rate or d.stuck_high_rate):
            return
        low_below = round(d.stuck_low_rate * 2**32)
        high_below = low_below + round(d.stuck_high_rate * 2**32)
        ends = np.float32(d.g_min_us), np.float32(d.g_max_us)
        for low, high, counter, begin, end in rng.spans(rng.key(seed, "fault"), first, goal_us.size):
            _stick(goal_us[begin:end], low_below, high_below, *ends, low, high, counter)


def device_model(device: Device) -> DeviceModel:
    """The model that ``device.kind`` names.

    Raises:
        TargetError: No such model is built in or installed.
    """
    model: DeviceModel = _registered("cimc.devices", {"memristor": Memristor}, device.kind)(device)
    return model


def _registered(group: str, built_in: dict[str, Any], kind: str) -> Any:
    """A built-in class, else the one that an installed package's entry point offers under that name."""
    if kind in built_in:
        return built_in[kind]
    offered = entry_points(group=group)
    if kind in offered.names:
        return offered[kind].load()
    known = ", ".join(sorted({*built_in, *offered.names}))
    raise TargetError(f"no model {kind!r} among the entry points {group}", fix=f"one of: {known}")
