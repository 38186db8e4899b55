"""The device model that a target names."""

from __future__ import annotations

from typing import Any

from cimc.runtime.devices.memristor import Memristor
from cimc.runtime.devices.model import DeviceModel
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
