"""The compiler: a checked ONNX model through the pipeline to a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from cimc.arguments import checked
from cimc.errors import CimcError
from cimc.frontend.load import load
from cimc.ir.dialect import register_schemas
from cimc.ir.printer import print_program
from cimc.ir.program import Preprocessing, Program, Provenance
from cimc.passes.base import Compilation
from cimc.passes.manager import OnPass, PassManager
from cimc.passes.untie import AUTO
from cimc.pipeline import PASS_NAMES, Calibration, RepeatsOption, pipeline
from cimc.targets.description import Target
from cimc.targets.load import load_target
from cimc.version import __version__

Model = str | Path | bytes | onnx.ModelProto | ir.Model


@checked()
def compile_model(
    model: Model,
    target: str | Path | Target = "bulk-rram",
    *,
    calibration: Calibration | None = None,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    chips: int | None = None,
    copies: Mapping[str, int] | None = None,
    repeats: RepeatsOption | None = None,
    digital: str | Sequence[str] = (),
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
        calibration: Input images by input name, as the model takes them; or what `open_data` takes (an npz file, a folder of
            images, a data set), whose images are preprocessed; None: a synthetic input, which the program states.
        settings: Dotted paths of the target's fields to values.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies of a layer's crossbars that work at once.
        repeats: How often a layer's rows and columns lie on its crossbars, and how often an input is read, so that errors
            average; by layer name or pattern, as ``{"rows": 2, "columns": 1, "reads": 4}``. See `cimc.passes.repeat`. ``free``:
            rows of narrow layers, where calibration data are given, an output would be poor, and an image costs no more; see
            `cimc.passes.free_repeat`. ``none`` and None: each once.
        digital: Names, or patterns of names, of nodes, layers or weights whose products stay digital.
        preprocessing: Stored with the program, of a model of one input; applied to data files and training data.
        tie: Which parameters that one initializer holds are one: ``auto``, ``as-written``, ``none``, or patterns of initializers
            that stay tied; see `cimc.passes.untie`, and `cimc.passes.tie` for two that are transposes of each other.
        bind: Inputs that become constants, by name: a number, nested lists, an array, or the path of an npy or npz file; None:
            the input's own default, where the name may be a pattern. What follows from them is folded, an If on them too.
        shapes: Sizes of inputs by name, None where one stays open.
        verify: Check all rules of the program after each program pass, beside what each pass promises.
        stop_after: Name of the last pass to run.
        on_pass: Called after each pass.

    Raises:
        CimcError: The model, the target, the data or an option is not usable; the message says where and what to do.
    """
    if stop_after is not None and stop_after not in PASS_NAMES:
        raise CimcError(f"no pass is called {stop_after}", fix=f"the passes are {', '.join(PASS_NAMES)}")
    register_schemas()
    described = load_target(target, settings)
    state, provenance = open_model(model, described)
    passes = pipeline(
        calibration=calibration,
        chips=chips,
        copies=copies,
        repeats=repeats,
        digital=digital,
        preprocessing=preprocessing,
        tie=tie,
        bind=bind,
        shapes=shapes,
        provenance=provenance,
    )
    return PassManager(passes, verify).run(state, stop_after=stop_after, on_pass=on_pass)


def open_model(model: Model, target: Target) -> tuple[Compilation, Provenance]:
    """A checked model at the start of its compilation, and what it is.

    Raises:
        CimcError: The model is not usable.
    """
    loaded = load(model)
    provenance = Provenance(cimc_version=__version__, model=loaded.name, model_sha256=loaded.sha256)
    return Compilation(loaded.model, target), provenance


@checked("model", "target")
def compile(model: Model, target: str | Path | Target = "bulk-rram", **options: Any) -> Program:  # noqa: A001
    """Compile a model to a program; the options are those of `compile_model`, with ``repeats="free"`` where none are given."""
    return compile_model(model, target, **{"repeats": "free", **options}).need_program()


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
