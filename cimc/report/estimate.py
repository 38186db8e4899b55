"""What a run will cost the host, told before it starts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cimc.ir.program import Layer, Program, position_firings

#: A run that the estimate puts above this is announced.
LONG_RUN_S = 20.0

_BYTES_PER_DEVICE = 8  # conductance and kernel grid, float32 each
_PROGRAMMED_DEVICES_PER_S = 1e8
_CONVERSIONS_PER_S = 4e8
_PROBE = 512


@dataclass(frozen=True)
class Estimate:
    """Host time and memory of a run; a guide, not a promise. ``seconds`` is None where positions are unknown."""

    seconds: float | None
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(program: Program, images: int) -> Estimate:
    """Host time and memory to fabricate a chip and run ``images`` images through its crossbars.

    The matrix product's speed is probed on this machine; digital work is left out.
    """
    devices = sum(_devices(program, layer) for layer in program.layers)
    memory = devices * _BYTES_PER_DEVICE + sum(array.nbytes for array in program.tensors.values())
    layers = {layer.name: layer for layer in program.layers}
    macs = conversions = 0.0
    for step in program.vmm_steps:
        if step.positions is None:
            return Estimate(None, memory)
        layer = layers[step.layer]
        reads = images * step.positions * _reads_per_position(program, layer)
        macs += reads * _devices(program, layer)
        conversions += reads * _devices(program, layer) / max(1, layer.rows) * max(1, len(layer.row_cuts) - 1)
    seconds = devices / _PROGRAMMED_DEVICES_PER_S + macs / _macs_per_s() + conversions / _CONVERSIONS_PER_S
    return Estimate(seconds, memory)


def _devices(program: Program, layer: Layer) -> int:
    return layer.groups * layer.rows * layer.columns * program.target.planes


def _reads_per_position(program: Program, layer: Layer) -> int:
    """Passes of the simulated array for one position: signed phases, and input bits where each is converted."""
    target = program.target
    return position_firings(layer, target) * (target.dac.bits or 1 if target.adc.conversion == "per_bit" else 1)


def _macs_per_s() -> float:
    a = np.ones((_PROBE, _PROBE), np.float32)
    a @ a
    begin = time.perf_counter()
    a @ a
    return _PROBE**3 / max(time.perf_counter() - begin, 1e-9)
