"""From an ONNX model to compute-in-memory crossbar hardware: compile, simulate, cost.

The names below are imported when they are first used, so that ``import cimc`` is quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cimc.errors import ArtifactError, CimcError, DataError, FitError, ModelError, RunError, TargetError, VerifyError
from cimc.version import __version__

# From 1.29 on, ONNX Runtime keeps an identifier of the machine and sends reports about sessions and models to its makers,
# unless this is set before it is imported. Nothing about a user's model leaves the machine; a value of the user's own is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from cimc import backend, datasets
    from cimc import torch as torch
    from cimc.budget.explain import explain
    from cimc.characterisation.fit import fit_device
    from cimc.compiler import compile  # noqa: A004
    from cimc.image.export import export_image
    from cimc.image.mapped import fault_map
    from cimc.image.reader import load_image
    from cimc.ir.artifact import load
    from cimc.ir.program import Program
    from cimc.population.study import evaluate, sweep
    from cimc.runtime.chip import Chip
    from cimc.sources import open_data
    from cimc.targets.description import Target
    from cimc.targets.kinds import register, register_device
    from cimc.training.trainer import Trainer
    from cimc.tuning.tune import tune

#: Name -> module that holds it; a name that is a module itself has its own.
_LAZY = {
    "Chip": "cimc.runtime.chip",
    "Program": "cimc.ir.program",
    "Target": "cimc.targets.description",
    "Trainer": "cimc.training.trainer",
    "compile": "cimc.compiler",
    "explain": "cimc.budget.explain",
    "evaluate": "cimc.population.study",
    "export_image": "cimc.image.export",
    "fault_map": "cimc.image.mapped",
    "fit_device": "cimc.characterisation.fit",
    "load": "cimc.ir.artifact",
    "load_image": "cimc.image.reader",
    "open_data": "cimc.sources",
    "register": "cimc.targets.kinds",
    "register_device": "cimc.targets.kinds",
    "sweep": "cimc.population.study",
    "tune": "cimc.tuning.tune",
}
_MODULES = ("backend", "datasets", "torch")

__all__ = [
    "ArtifactError",
    "Chip",
    "CimcError",
    "DataError",
    "FitError",
    "ModelError",
    "Program",
    "RunError",
    "Target",
    "TargetError",
    "Trainer",
    "VerifyError",
    "__version__",
    "backend",
    "compile",
    "datasets",
    "evaluate",
    "explain",
    "export_image",
    "fault_map",
    "fit_device",
    "load",
    "load_image",
    "open_data",
    "register",
    "register_device",
    "sweep",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"cimc.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'cimc' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
