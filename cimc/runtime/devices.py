"""Device models: what one memristor does with a write. Chosen by ``device.kind``.

Stuck cells are no part of a model: what is written to one is overruled after the write (`cimc.runtime.cells`).
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.errors import TargetError
from cimc.runtime import rng
from cimc.runtime.programming import Gaussian, ProgrammingModel
from cimc.targets.description import Device

F32 = NDArray[np.float32]


class DeviceModel(Protocol):
    """Made from the target's ``device`` section."""

    def __init__(self, device: Device) -> None: ...

    def program(self, goal_us: F32, seed: int, first: int) -> None:
        """Replace goals (µS, ``[n]``, contiguous) in place by what the devices hold after a write.

        ``seed`` is the key of the chip, the layer and the write; ``first`` numbers the first of these devices in its layer.
        """


class Memristor:
    """A programmable conductance: a write lands as the programming model says."""

    def __init__(self, device: Device) -> None:
        self.programming: ProgrammingModel = _registered("cimc.programming", _PROGRAMMING, device.programming.kind)(
            device.programming
        )

    def program(self, goal_us: F32, seed: int, first: int) -> None:
        self.programming.write(goal_us, rng.key(seed, "write"), first)


_DEVICES: dict[str, Any] = {"memristor": Memristor}
_PROGRAMMING: dict[str, Any] = {"gaussian": Gaussian}


def device_model(device: Device) -> DeviceModel:
    """The model that ``device.kind`` names.

    Raises:
        TargetError: No such model is built in or installed.
    """
    model: DeviceModel = _registered("cimc.devices", _DEVICES, device.kind)(device)
    return model


def check_kinds(device: Device) -> None:
    """Raises TargetError where ``device.kind`` or ``device.programming.kind`` names no model."""
    _registered("cimc.devices", _DEVICES, device.kind)
    _registered("cimc.programming", _PROGRAMMING, device.programming.kind)


def _registered(group: str, built_in: dict[str, Any], kind: str) -> Any:
    """A built-in class, else the one that an installed package's entry point offers under that name."""
    if kind in built_in:
        return built_in[kind]
    offered = entry_points(group=group)
    if kind in offered.names:
        return offered[kind].load()
    known = ", ".join(sorted({*built_in, *offered.names}))
    raise TargetError(f"no model {kind!r} among the entry points {group}", fix=f"one of: {known}")
