"""What a checkpoint must hold to suit a run: checked whole before any of it is restored.

A checkpoint with right checksums may still be that of another run, or made with bad intent. The run's own state, as it would be
written now, says which arrays there are and of which dtype and shape; `Record` says what the counters may be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, NoReturn

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cimc.errors import ArtifactError, VerifyError
from cimc.ir.program import InputCoding
from cimc.ir.verify_tensors import finite
from cimc.runtime.chip import Chip
from cimc.runtime.restored import check_state
from cimc.runtime.state import PREFIX
from cimc.training.checkpoint import SCHEMA_VERSION, Checkpoint
from cimc.training.cost import Count
from cimc.training.progress import Progress

Arrays = Mapping[str, NDArray[Any]]
_Whole = Annotated[int, Field(ge=0, lt=1 << 62)]
_OPTIMIZER = "optimizer/"
#: Counts that were added later, 0 where a checkpoint lacks them.
_YOUNGER = {"transfer_ops", "transfer_tile_ops", "transfer_conversions"}
#: Arrays that say "never" by an infinite value.
_OPEN = ("schedule/plateau",)


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
    calibrated: list[Annotated[str, Field(pattern="^(training|inference)$")]]
    since: dict[str, Annotated[int, Field(gt=-(1 << 62), lt=1 << 62)]]
    count: dict[str, Any]
    ranges: dict[str, _Range]
    input_ranges: dict[str, tuple[float, float] | None]
    fitted: str
    stats: dict[str, dict[str, _Whole]]


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
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        _fail(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    for name in ("progress", "count", "ranges", "input_ranges", "since", "stats"):
        if (record[name].keys() ^ own[name].keys()) - (_YOUNGER if name in ("count", "since") else set()):
            _fail(where, f"its {name} are {', '.join(record[name])}")
    for name, counts in record["stats"].items():
        if counts.keys() - own["stats"][name].keys():
            _fail(where, f"its counts of layer {name} are {', '.join(counts)}")
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
    """See that a checkpoint's arrays beside the state of the chip can be restored.

    Args:
        arrays: Of the checkpoint.
        own: Of the run, as they would be written now.
        sizes: Elements of each parameter by the optimizer's name of it; its state begins with the first gradient.
        slots: What the optimizer keeps of each parameter.
        where: For the message.

    Raises:
        ArtifactError: An array is missing, unknown, of another dtype or shape, or holds what no run makes.
    """
    arrays, own = ({name: a for name, a in some.items() if not name.startswith(PREFIX)} for some in (arrays, own))
    for name in sorted({name for name in (*arrays, *own) if not name.startswith(_OPTIMIZER)}):
        if name not in arrays or name not in own:
            _fail(where, f"array {name} is {'missing' if name in own else 'unknown'}")
        _need(where, name, arrays[name], own[name].dtype.name, own[name].shape)
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
        positive = name == "optimizer/steps" or name.startswith("optimizer/second_moment/")
        if positive and array.size and array.min() < 0:
            _fail(where, f"array {name} holds {array.min()}")
    kept = {name.removeprefix(_OPTIMIZER).partition("/")[2] for name in arrays if name.startswith(_OPTIMIZER)} - {""}
    wanted = {f"{_OPTIMIZER}steps"} | {f"{_OPTIMIZER}{slot}/{name}" for slot in slots for name in kept}
    if other := sorted(wanted ^ {name for name in arrays if name.startswith(_OPTIMIZER)}):
        _fail(where, f"array {other[0]} is {'missing' if other[0] in wanted else 'unknown'}")


def check_chip(found: Checkpoint, chip: Chip, trained: Collection[str], where: str) -> None:
    """See that the chip can take up a checkpoint's state of it.

    Args:
        found: Its record has been checked.
        chip: Stays as it is.
        trained: Layers that train. A checkpoint of an earlier schema may lack the others.
        where: For the message.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        state = found.chip_state(chip.program)
        check_state(state, chip.state(), chip.crossbars, None if found.schema == SCHEMA_VERSION else trained)
    except (VerifyError, ArtifactError) as error:
        _fail(where, f"{error.where}: {error.what}" if error.where else error.what, error)


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
