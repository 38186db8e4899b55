"""What a device model of one's own is made with; docs/devices.md shows how."""

from cimc.ir.weight_codes.code import WeightCode
from cimc.runtime.devices import DeviceModel, Memristor, State, device_keys, normals, uniforms
from cimc.runtime.programmers.access import DeviceState, DeviceWrite
from cimc.runtime.programmers.interface import Programmer
from cimc.runtime.programmers.report import Report
from cimc.targets.curve import Curve
from cimc.targets.device import Device
from cimc.targets.programmer_sections import ProgrammerSection
from cimc.targets.programming_sections import Programming, ProgrammingSection
from cimc.targets.section import Section
from cimc.targets.time_sections import DriftSection, ReadNoiseSection
from cimc.targets.weight_sections import Weights

__all__ = [
    "Curve",
    "Device",
    "DeviceModel",
    "DeviceState",
    "DeviceWrite",
    "DriftSection",
    "Memristor",
    "Programmer",
    "ProgrammerSection",
    "Programming",
    "ProgrammingSection",
    "ReadNoiseSection",
    "Report",
    "Section",
    "State",
    "WeightCode",
    "Weights",
    "device_keys",
    "normals",
    "uniforms",
]
