"""The parts of the built-in device, by the kind of their section."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.devices.draws import U64
from cimc.runtime.devices.drift import DriftModel, PowerLaw, Relaxation
from cimc.runtime.devices.programming import DrawnQuantile, GaussianProgramming, NormalProgramming, ProgrammingModel
from cimc.targets.kinds import model_class
from cimc.targets.programming_sections import ProgrammingSection
from cimc.targets.time_sections import DriftSection

_PROGRAMMING: dict[str, Any] = {
    "gaussian": GaussianProgramming, "polynomial": NormalProgramming, "saturating": NormalProgramming, "table": DrawnQuantile,
}  # fmt: skip
_DRIFT: dict[str, Any] = {"power_law": PowerLaw, "relaxation": Relaxation}


def programming_model(section: ProgrammingSection) -> ProgrammingModel:
    """The model of a ``device.programming`` section.

    Raises:
        TargetError: No such model is built in, registered or installed.
    """
    model: ProgrammingModel = (_PROGRAMMING.get(section.kind) or model_class("programming", section.kind))(section)
    return model


def drift_model(section: DriftSection) -> DriftModel:
    """The model of a ``device.drift`` section.

    Raises:
        TargetError: No such model is built in, registered or installed.
    """
    model: DriftModel = (_DRIFT.get(section.kind) or model_class("drift", section.kind))(section)
    return model


def write_keys(cells: U64, written_s: NDArray[np.float64]) -> U64:
    """Keys of the last write of each cell, ``[n]``: writes of a cell at different times have different keys."""
    seed = np.uint64(rng.key("last write"))
    z = cells ^ (written_s + 0.0).view(np.uint64) ^ seed  # -0.0 is 0.0
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = z ^ (z >> np.uint64(31))
    return mixed
