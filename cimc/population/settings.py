"""Which fields of a target a compiled program does not depend on, and a program for other values of them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from cimc.errors import CimcError
from cimc.ir.program import Program
from cimc.targets.load import load_target

#: Fields of the die and of its reads: goals, codes, ranges and places are the same whatever they say.
FREE = (
    "device.programming", "device.programming.*", "device.read_sigma_us", "device.read_noise", "device.read_noise.*",
    "device.slow_noise", "device.slow_noise.*", "device.drift", "device.drift.*", "device.stuck_*_rate", "device.write_verify",
    "device.write_verify.*", "adc.sigma_lsb", "adc.gain_sigma", "adc.offset_sigma_lsb", "adc.bow_sigma_lsb",
    "adc.calibration_reads", "array.wires", "array.wires.*", "programmer", "programmer.*",
)  # fmt: skip


def is_free(path: str) -> bool:
    """Whether a field may change without a compilation."""
    return any(fnmatchcase(path, pattern) for pattern in FREE)


def with_settings(program: Program, settings: Mapping[str, Any]) -> Program:
    """The program for a chip with these fields changed; what it was compiled with stays: scales, codes, ranges, places.

    Raises:
        CimcError: A field that the program depends on.
        TargetError: A field or a value that no target has.
    """
    if not settings:
        return program
    target = load_target(program.target, settings)
    bound = [path for path in settings if not is_free(path)]
    if bound:
        fix = "give the ONNX model to `cimc.sweep`: it is then compiled for each value"
        raise CimcError(f"{bound[0]} changes the program itself", where="settings", fix=fix)
    return program.model_copy(update={"target": target, "expected": None})
