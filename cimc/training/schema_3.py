"""Checkpoints of schema 3, as those of today.

Schema 3 held of the chip what a step changes: conductances, dates and factors against drift of the first copy of each trained
layer, under ``layer/``, the time, and counters of draws. Everything else is that of the chip on which the run is resumed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import FIT_PARTS
from cimc.runtime.saved import is_device_state
from cimc.runtime.state import PREFIX

Arrays = dict[str, NDArray[Any]]

_LAYER, _TIME = "layer/", "chip/time_s"
#: In schema 3 of one copy; without entries where the layer has no unit columns.
_FACTORS = ("drift_factor", "drift_unit_factor")
_DRAWS = ("trained", "evaluations", "calibrations")
#: Tensors of the whole chip that schema 3 told, if only by leaving them out.
_COUNTERS = (f"{PREFIX}images", f"{PREFIX}time_s")
#: Devices that no training step writes, and where they are.
_BESIDE = ("unit_g_us", "unit_device.", "sites", "lines")


def converted(arrays: Mapping[str, NDArray[Any]], record: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and record of schema 3, by their names of today. What schema 3 lacked is still missing.

    Raises:
        KeyError: The record lacks an entry.
        TypeError: An entry is of another type.
        ValueError: An entry has another value than a run writes.
        OverflowError: A counter is out of range.
    """
    made: Arrays = {}
    for name, array in arrays.items():
        if name.startswith(PREFIX):
            raise ValueError(f"schema 3 has no array {name}")
        part = name.rpartition("/")[2]
        if not name.startswith(_LAYER):
            made[f"{PREFIX}time_s" if name == _TIME else name] = array
        elif part not in _FACTORS:
            made[PREFIX + name.removeprefix(_LAYER)] = array
        elif array.size or part == _FACTORS[0]:
            made[PREFIX + name.removeprefix(_LAYER)] = array[None]
    draws = record["draws"]
    made[f"{PREFIX}draws"] = np.array([draws[name] for name in _DRAWS], np.int64)
    if inferred := draws.get("inferred", 0):
        made[f"{PREFIX}images"] = np.array([inferred], np.int64)
    made[f"{PREFIX}seed"] = np.array([record["settings"]["chip seed"]], np.int64)
    return made, {name: value for name, value in record.items() if name != "draws"}


def completed(
    arrays: Mapping[str, NDArray[Any]],
    record: Mapping[str, Any],
    own_arrays: Mapping[str, NDArray[Any]],
    own_record: Mapping[str, Any],
    trained: Collection[str],
) -> tuple[Arrays, dict[str, Any]]:
    """What `converted` gave, with what schema 3 lacked from the run that resumes it, but for the devices of other layers.

    Args:
        arrays: From `converted`.
        record: Likewise.
        own_arrays: Of the run, as they would be written now.
        own_record: Likewise.
        trained: Names of the layers that train.
    """
    made = dict(arrays)
    for name in own_arrays.keys() - arrays.keys():
        if not name.startswith(PREFIX):
            continue
        layer, _, part = name.removeprefix(PREFIX).rpartition("/")
        if is_device_state(part):
            lacked = layer in trained and part.startswith(_BESIDE)
        else:
            lacked = layer not in trained and part not in FIT_PARTS and name not in _COUNTERS
        if lacked:
            made[name] = own_arrays[name]
    return made, {**record, **{name: own_record[name] for name in ("fitted", "input_ranges", "stats")}}
