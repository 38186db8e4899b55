"""What a checkpoint must hold to suit a run: checked whole before any of it is restored.

A checkpoint with right checksums may still be that of another run, or made with bad intent. The run's own state, as it would be
written now, says which arrays there are and of which dtype and shape; `Record` says what the counters may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cimc.errors import ArtifactError
from cimc.ir.program import InputCoding
from cimc.ir.verify_tensors import finite
from cimc.runtime.draws import Draws
from cimc.training.cost import Count
from cimc.training.progress import Progress

Arrays = Mapping[str, NDArray[Any]]
_Whole = Annotated[int, Field(ge=0, lt=1 << 62)]
_OPTIMIZER, _LAYER = "optimizer/", "layer/"
#: Present time of the chip, in the checkpoints of one whose time is not 0.
_TIME = "chip/time_s"
#: Factors of a layer against drift, once time has passed; `Learner.check_factors` knows their shapes.
_FACTORS = ("/drift_factor", "/drift_unit_factor")
#: Counts that were added later, 0 where a checkpoint lacks them.
_YOUNGER = {"transfer_ops", "transfer_tile_ops", "transfer_conversions", "inferred"}
#: Arrays that say "never" by NaN or infinity.
_OPEN = ("/written_us", "schedule/plateau")


class _Range(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    coding: InputCoding
    adc_range_ua: float | None = Field(gt=0)


class _Row(BaseModel):
    """What is read again of an epoch's row."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    epoch: _Whole
    total: dict[str, _Whole]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    settings: dict[str, Any]
    progress: dict[str, Any]
    drawn: str
    steps: _Whole
    draws: dict[str, _Whole]
    calibrated: list[Annotated[str, Field(pattern="^(training|inference)$")]]
    since: dict[str, Annotated[int, Field(gt=-(1 << 62), lt=1 << 62)]]
    count: dict[str, Any]
    ranges: dict[str, _Range]


def check_record(record: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """See that a checkpoint's record can be restored.

    Args:
        record: Of the checkpoint.
        own: Of the run, as it would be written now.
        where: For the message.

    Raises:
        ArtifactError: A field is missing, unknown, or of another type or range.
    """
    try:
        found = _Record.model_validate(record)
        TypeAdapter(Progress).validate_python(found.progress)
        TypeAdapter(Count).validate_python(found.count)
        rows = TypeAdapter(list[_Row]).validate_python(found.progress.get("rows"))
        Draws.of(np.array([found.draws[name] for name in ("trained", "evaluations", "calibrations")], np.int64))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        _fail(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (KeyError, ArtifactError) as error:
        _fail(where, f"the counters of its noise are {found.draws}", error)
    for name in ("progress", "count", "ranges", "draws", "since"):
        if (record[name].keys() ^ own[name].keys()) - (_YOUNGER if name in ("count", "since", "draws") else set()):
            _fail(where, f"its {name} are {', '.join(record[name])}")
    if any(not 0 <= value < 1 << 62 for value in _numbers(record["count"])):
        _fail(where, "its count holds a number out of range")
    if record["count"]["writes"].keys() != own["count"]["writes"].keys():
        _fail(where, f"its count of writes has {', '.join(record['count']['writes'])}")
    if len(rows) != found.progress["epoch"] or [row.epoch for row in rows] != list(range(1, len(rows) + 1)):
        _fail(where, f"it has rows of epochs {[row.epoch for row in rows][:8]}, but {found.progress['epoch']} are done")
    whole = [value for value in record["progress"].values() if isinstance(value, int)]
    if any(not 0 <= value < 1 << 62 for value in whole):
        _fail(where, "its progress holds a number out of range")


def check_arrays(arrays: Arrays, own: Arrays, sizes: Mapping[str, int], slots: tuple[str, ...], where: str) -> None:
    """See that a checkpoint's arrays can be restored.

    Args:
        arrays: Of the checkpoint.
        own: Of the run, as they would be written now.
        sizes: Elements of each parameter by the optimizer's name of it; its state begins with the first gradient.
        slots: What the optimizer keeps of each parameter.
        where: For the message.

    Raises:
        ArtifactError: An array is missing, unknown, of another dtype or shape, or holds what no run makes.
    """
    factors = {f"{name}{end}" for name in sizes if name.startswith(_LAYER) for end in _FACTORS}
    some = {name for name in (*arrays, *own) if not name.startswith(_OPTIMIZER)}
    for name in sorted(some - factors - {_TIME}):
        if name not in arrays or name not in own:
            _fail(where, f"array {name} is {'missing' if name in own else 'unknown'}")
        _need(where, name, arrays[name], own[name].dtype.name, own[name].shape)
    if _TIME in arrays:
        _need(where, _TIME, arrays[_TIME], "float64", (1,))
        if not arrays[_TIME][0] >= 0:
            _fail(where, f"array {_TIME} is {arrays[_TIME][0]}")
    for name, array in arrays.items():
        if not name.endswith(_OPEN) and not finite(array):
            _fail(where, f"array {name} holds NaN or an infinite value")
        if name.startswith(_OPTIMIZER):
            slot, _, parameter = name.removeprefix(_OPTIMIZER).partition("/")
            if slot == "steps" and not parameter:
                _need(where, name, array, "int64", (1,))
            elif parameter in sizes:
                _need(where, name, array, "float32", (sizes[parameter],))
            else:
                _fail(where, f"array {name} is unknown")
        positive = name.endswith(("/g_us", "/w_max", "/factor", "optimizer/steps")) or name.startswith("optimizer/second_moment/")
        if positive and array.size and array.min() < 0:
            _fail(where, f"array {name} holds {array.min()}")
    kept = {name.removeprefix(_OPTIMIZER).partition("/")[2] for name in arrays if name.startswith(_OPTIMIZER)} - {""}
    wanted = {f"{_OPTIMIZER}steps"} | {f"{_OPTIMIZER}{slot}/{name}" for slot in slots for name in kept}
    if other := sorted(wanted ^ {name for name in arrays if name.startswith(_OPTIMIZER)}):
        _fail(where, f"array {other[0]} is {'missing' if other[0] in wanted else 'unknown'}")


def _numbers(tree: Any) -> Iterator[float]:
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield value


def _need(where: str, name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name != dtype or array.shape != shape:
        _fail(where, f"array {name} is {array.dtype.name}{list(array.shape)}, not {dtype}{list(shape)}")


def _fail(where: str, what: str, cause: Exception | None = None) -> NoReturn:
    raise ArtifactError(
        f"the checkpoint does not suit this run: {what}", where=where, fix="resume with the same model and options, or start anew"
    ) from cause
