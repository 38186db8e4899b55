"""The compiled backend."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from cimc.runtime.plan import Plan
from cimc.runtime.read_spec import ReadSpec


class Cpu:
    """Kernels on all threads, see `cimc.runtime.plan`."""

    name = "cpu"

    def prepare(self, spec: ReadSpec, positions: int) -> Plan:
        return Plan.of(spec, positions)

    def prepare_ideal(self, matrix: NDArray[Any]) -> Plan:
        return Plan.ideal(matrix)
