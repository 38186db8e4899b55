"""What an update rule of one's own is made with; docs/training.md shows how."""

import warnings
from typing import Any

from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.pulses import PulseWriter
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes, writer
from cimc.targets.update_sections import PulsedUpdate, TransferUpdate, Update
from cimc.training.accumulator import LayerState, WeightDevices
from cimc.training.rules.pulsed import Pulsed
from cimc.training.rules.rule import ChangeRule, VectorRule
from cimc.training.rules.transfer import Transfer

__all__ = [
    "ChangeRule",
    "LayerState",
    "PulseWriter",
    "Pulsed",
    "PulsedUpdate",
    "RowReader",
    "TrainWriter",
    "Transfer",
    "TransferUpdate",
    "Update",
    "VectorRule",
    "Vectors",
    "WeightDevices",
    "Writes",
    "writer",
]


def __getattr__(name: str) -> Any:
    if name == "WeightCode":
        warnings.warn("cimc.rules.WeightCode is now called WeightDevices", DeprecationWarning, stacklevel=2)
        return WeightDevices
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
