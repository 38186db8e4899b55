"""The compiler: a checked ONNX model through the pipeline to a program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from cimc.arguments import checked
from cimc.data import bound_value, load_arrays, needed_inputs
from cimc.errors import CimcError
from cimc.frontend.load import Loaded, load
from cimc.ir.bound import without_bound
from cimc.ir.copies import sensible_copies
from cimc.ir.dialect import register_schemas
from cimc.ir.printer import print_program
from cimc.ir.program import Preprocessing, Program, Provenance
from cimc.ir.verify import verify as verify_program
from cimc.passes.base import Compilation, Pass
from cimc.passes.calibrate import Calibrate
from cimc.passes.fold import Fold
from cimc.passes.legalise import Legalise
from cimc.passes.lower import Lower, value_spec
from cimc.passes.map import Map
from cimc.passes.place import Place
from cimc.passes.quantise import Quantise
from cimc.passes.ranges import Ranges
from cimc.passes.schedule import Schedule
from cimc.passes.select import Select
from cimc.passes.specialise import Specialise
from cimc.passes.tile import Tile
from cimc.passes.untie import AUTO, Untie
from cimc.targets.description import Target
from cimc.targets.load import load_target
from cimc.version import __version__

#: The whole way. Up to `quantise` a pass changes the ONNX graph; from `tile` on, the program.
PIPELINE: tuple[type[Pass], ...] = (
    Specialise,
    Legalise,
    Untie,
    Fold,
    Select,
    Calibrate,
    Quantise,
    Lower,
    Tile,
    Map,
    Ranges,
    Place,
    Schedule,
)
PASS_NAMES = tuple(step.name for step in PIPELINE)

Model = str | Path | bytes | onnx.ModelProto | ir.Model
#: A data file, or arrays by input name; lists of arrays for sequences.
Calibration = str | Path | Mapping[str, Any]
#: Sees each pass when it is done: its name, seconds, whether it changed anything, the state.
OnPass = Callable[[str, float, bool, Compilation], None]


@checked()
def compile_model(
    model: Model,
    target: str | Path | Target = "bulk-rram",
    *,
    calibration: Calibration | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    chips: int | None = None,
    copies: Mapping[str, int] | None = None,
    preprocessing: Preprocessing | None = None,
    tie: str | Sequence[str] = AUTO,
    bind: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    verify: bool = False,
    stop_after: str | None = None,
    on_pass: OnPass | None = None,
) -> Compilation:
    """Compile a model and return the whole state, graph stages included.

    Args:
        model: Path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        target: Name of a built-in or installed chip, path of a YAML file, or a description.
        calibration: Input images by input name, as the model takes them, or the path of a data file, whose images are
            preprocessed; None: a synthetic input, which the program states.
        settings: Dotted paths of the target's fields to values.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies of a layer's crossbars that work at once.
        preprocessing: Stored with the program, of a model of one input; applied to data files and training data.
        tie: Which parameters that one initializer holds are one: ``auto``, ``as-written``, ``none``, or patterns of initializers
            that stay tied; see `cimc.passes.untie`.
        bind: Inputs that become constants, by name: a number, nested lists, an array, or the path of an npy or npz file; None:
            the input's own default, where the name may be a pattern. What follows from them is folded, an If on them too.
        shapes: Sizes of inputs by name, None where one stays open.
        verify: Check what each pass promises, and the program after each program pass.
        stop_after: Name of the last pass to run.
        on_pass: Called after each pass.

    Raises:
        CimcError: The model, the target, the data or an option is not usable; the message says where and what to do.
    """
    if stop_after is not None and stop_after not in PASS_NAMES:
        raise CimcError(f"no pass is called {stop_after}", fix=f"the passes are {', '.join(PASS_NAMES)}")
    register_schemas()
    described = load_target(target, settings)
    loaded = load(model)
    state = Compilation(loaded.model, described, chips=chips, copies=copies or {})
    state.assumed_range = _assumed(preprocessing)
    values = {name: bound_value(value, name) for name, value in (bind or {}).items()}
    options: dict[type[Pass], Pass] = {Specialise: Specialise(values, shapes or {}), Untie: Untie(tie)}
    for step in PIPELINE:
        _run(options.get(step) or step(), state, verify, on_pass)
        if step is Specialise:
            state.calibration = _calibration(state, calibration, preprocessing)
        if step is Lower:
            _introduce(state, loaded, preprocessing)
            sensible_copies(state.copies, state.need_program())
        if step.name == stop_after:
            break
    return state


@checked("model", "target")
def compile(model: Model, target: str | Path | Target = "bulk-rram", **options: Any) -> Program:  # noqa: A001
    """Compile a model to a program; the options are those of `compile_model`."""
    return compile_model(model, target, **options).need_program()


def _calibration(state: Compilation, given: Calibration | None, how: Preprocessing | None) -> Mapping[str, Any] | None:
    """Calibration data for the inputs that are left; those of a file are preprocessed as `evaluate` does with its data.

    Raises:
        DataError: They hold another value of a bound input, or a file does not hold what the model takes.
        CimcError: There are several inputs, and preprocessing.
    """
    inputs = needed_inputs([value_spec(value) for value in state.model.graph.inputs])
    if how is not None and len(inputs) != 1:
        raise CimcError(f"preprocessing is for a model of one input, this one has {len(inputs)}", fix="leave it out")
    if isinstance(given, str | Path):
        return load_arrays(given, inputs, how=how, bound=state.bound)
    return None if given is None else without_bound(given, state.bound, "calibration data")


def _assumed(how: Preprocessing | None) -> tuple[float, float]:
    """Where real inputs lie that nothing is known of: images of 0 to 1, or 0 to 255 where a scale is stated, preprocessed."""
    if how is None:
        return 0.0, 1.0
    top = 1.0 if how.scale is None else 255 * how.scale
    pairs = zip(how.mean * len(how.std), how.std * len(how.mean), strict=True)
    ends = [(end - mean) / std for mean, std in pairs for end in (0.0, top)]
    return min(ends), max(ends)


def _run(step: Pass, state: Compilation, verify: bool, on_pass: OnPass | None) -> None:
    begin = time.perf_counter()
    step.requires(state)
    changed = step.call(state)
    if verify:
        step.ensures(state)
        if state.program is not None:
            verify_program(state.program)
    if on_pass is not None:
        on_pass(step.name, time.perf_counter() - begin, changed, state)


def _introduce(state: Compilation, loaded: Loaded, preprocessing: Preprocessing | None) -> None:
    """Put into the new program what only the compiler knows."""
    provenance = Provenance(
        cimc_version=__version__,
        model=loaded.name,
        model_sha256=loaded.sha256,
        calibration=state.calibration_basis,
        notes=tuple(state.notes),
    )
    program = state.need_program()
    update = {"provenance": provenance, "preprocessing": preprocessing, "bound": tuple(state.bound)}
    tensors = {**program.tensors, **{f"bound/{name}": array for name, array in state.bound.items()}}
    state.program = program.model_copy(update={**update, "tensors": tensors})


@checked()
def emit(state: Compilation, form: str) -> str | bytes:
    """What a compilation holds, as the user wants to see it.

    Args:
        state: Stopped after any pass.
        form: ``onnx``: the graph (before and after `lower` alike), serialised; ``text`` and ``json``: the program, or, before
            there is one, the graph in ONNX's text and JSON forms.

    Raises:
        CimcError: Another form.
    """
    if form not in ("onnx", "text", "json"):
        raise CimcError(f"cannot emit {form}", fix="--emit onnx, text or json")
    if state.program is None or form == "onnx":
        return _emit_graph(state.model, form)
    return print_program(state.program) if form == "text" else state.program.model_dump_json(indent=2) + "\n"


def _emit_graph(model: ir.Model, form: str) -> str | bytes:
    if form == "text":
        return ir.to_onnx_text(model, exclude_initializers=True) + "\n"
    proto: onnx.ModelProto = ir.to_proto(model)
    if form == "onnx":
        serialised: bytes = proto.SerializeToString()
        return serialised
    for tensor in proto.graph.initializer:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
    from google.protobuf.json_format import MessageToJson

    return f"{MessageToJson(proto, preserving_proto_field_name=True)}\n"
