"""The device model that a target names."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.runtime.devices.memristor import Memristor
from cimc.runtime.devices.model import F32, DeviceModel, State
from cimc.targets.device import Device
from cimc.targets.kinds import model_class

_DEVICES: dict[str, Any] = {"memristor": Memristor}


def device_model(device: Device) -> DeviceModel:
    """The model of a ``device`` section, by its ``kind``.

    Raises:
        TargetError: No such model is built in, registered or installed.
    """
    model: DeviceModel = (_DEVICES.get(device.kind) or model_class("device", device.kind))(device)
    return model


def read_variance(model: DeviceModel, device: Device, state: State, g_us: F32, time_s: float) -> F32 | None:
    """Variance of one read of devices that hold ``g_us`` at a time, µS², ``[n]``; None: that of ``read_sigma_us`` for all."""
    variance = model.read_variance(state, g_us, time_s)
    if isinstance(variance, np.ndarray):
        return variance.astype(np.float32, copy=False)
    return None if variance == device.read_sigma_us**2 else np.full(g_us.size, variance, np.float32)
