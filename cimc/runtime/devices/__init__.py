"""Device models: what the memristors of a chip do, many at a time.

`DeviceModel` is the interface. `Memristor` is the built-in model, made of parts that the target chooses: programming error,
drift, read noise. A model is a struct of arrays: one object serves any number of devices, whose `State` holds the arrays.
docs/devices.md has the equations with their sources, and shows how to write a model of one's own.
"""

from __future__ import annotations

from cimc.runtime.devices.draws import device_keys, normals, uniforms
from cimc.runtime.devices.memristor import Memristor
from cimc.runtime.devices.model import DeviceModel, State
from cimc.runtime.devices.registry import device_model, read_variance

__all__ = ["DeviceModel", "Memristor", "State", "device_keys", "device_model", "normals", "read_variance", "uniforms"]
