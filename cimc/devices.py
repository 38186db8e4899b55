"""What a device model of one's own is made with; docs/devices.md shows how."""

from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys, normals, uniforms
from cimc.targets.curve import Curve
from cimc.targets.device import Device
from cimc.targets.programming_sections import Programming, ProgrammingSection
from cimc.targets.section import Section
from cimc.targets.time_sections import DriftSection, ReadNoiseSection

__all__ = [
    "Curve",
    "Device",
    "DeviceModel",
    "DriftSection",
    "Memristor",
    "Programming",
    "ProgrammingSection",
    "ReadNoiseSection",
    "Section",
    "State",
    "device_keys",
    "normals",
    "uniforms",
]
