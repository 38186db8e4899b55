"""`cimc compile`: an ONNX model to a program."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.cli.common import (
    Bind,
    Json,
    Resize,
    Shape,
    Tie,
    figure,
    log_shown,
    note,
    opened,
    parse_bind,
    parse_copies,
    parse_repeats,
    parse_shapes,
    print_json,
    print_table,
    tell_data,
    tie_option,
    wire_notes,
)
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins
from cimc.errors import CimcError

if TYPE_CHECKING:
    from cimc.ir.program import Preprocessing, Program
    from cimc.passes.base import Compilation


def compile(  # noqa: A001
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False, help="The model.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="A chip's name (see `cimc targets list`) or a YAML file.")
    ] = "bulk-rram",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; default: the model's name with .cim.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Images that set input scales and ADC ranges: an npz, a folder of images, or a data set."
        ),
    ] = None,
    resize: Resize = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the target.")
    ] = None,
    bind: Bind = None,
    shape: Shape = None,
    tie: Tie = None,
    chips: Annotated[int | None, typer.Option(min=1, help="Fail if more chips are needed.")] = None,
    copies: Annotated[list[str] | None, typer.Option(metavar="LAYER=N", help="Copies of a layer that work at once.")] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option(
            metavar="free|none|LAYER:WHAT=N",
            help="free: repeat rows on free word lines where calibration data tell that an output would be poor (default); none; "
            "or the rows, columns or reads of a layer N times: errors average.",
        ),
    ] = None,
    digital: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Keep products digital: of a node, layer or weight, or a pattern."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Stored preprocessing: (x * scale - mean) / std, of x as the data hold it; default: uint8 to 0...1."),
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="M[,M...]", help="Mean, one or one a channel.")] = None,
    std: Annotated[str | None, typer.Option(metavar="S[,S...]", help="Standard deviation, likewise.")] = None,
    emit: Annotated[Literal["onnx", "text", "json"] | None, typer.Option(help="Write this form instead of a .cim.")] = None,
    print_after: Annotated[list[str] | None, typer.Option(metavar="PASS", help="Print graph or program after a pass.")] = None,
    stop_after: Annotated[str | None, typer.Option(metavar="PASS", help="Stop after a pass.")] = None,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="Show the seconds of each pass.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what each pass changes, and why a rewrite does not apply to a node.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check all rules of the program after each pass.")] = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Compile an ONNX model for a chip."""
    from cimc import compiler
    from cimc.pipeline import PASS_NAMES

    for name in print_after or []:
        if name not in PASS_NAMES:
            raise CimcError(f"no pass is called {name}", where="--print-after", fix=f"one of {', '.join(PASS_NAMES)}")
    if emit == "onnx" and output is None:
        raise CimcError("ONNX is binary and needs a file", where="--emit onnx", fix="add -o GRAPH.onnx")
    if stop_after is not None and output is not None and emit is None:
        raise CimcError(
            "a program that stopped half-way cannot be saved", where="--stop-after", fix="add --emit onnx, text or json"
        )
    if output is None and emit is None and stop_after is None:
        output = Path(f"{model.stem}.cim")
    bound = parse_bind(bind or [])
    guard([output], [model, calibration, target, *(value for value in bound.values() if isinstance(value, Path))])
    given = None if calibration is None else opened(calibration, resize)
    passes: list[dict[str, Any]] = []

    def on_pass(name: str, seconds: float, changed: bool, state: Compilation) -> None:
        passes.append({"name": name, "seconds": seconds, "changed": changed})
        if name in (print_after or []):
            typer.echo(f"# after {name}\n{compiler.emit(state, 'text')!s}", err=json, nl=False)

    with log_shown(verbose):
        state = compiler.compile_model(
            model,
            target,
            calibration=given,
            settings=settings,
            bind=bound,
            shapes=parse_shapes(shape or []),
            tie=tie_option(tie),
            chips=chips,
            copies=parse_copies(copies or []),
            repeats=parse_repeats(repeat),
            digital=digital or (),
            preprocessing=preprocessing_of(scale, mean, std),
            verify=verify,
            stop_after=stop_after,
            on_pass=on_pass,
        )
    if told := wire_notes(state.target):
        state.notes += told
        if state.target.adc.bits is not None and state.target.adc.conversion == "integrated":
            state.notes.append("ADC ranges are chosen without the IR drop; `Chip.calibrate` chooses them on the chip")
    about = None if given is None else tell_data(given)
    for text in state.notes:
        note(f"note: {text}")
    result: dict[str, Any] = {"model": str(model), "target": state.target.name, "notes": state.notes}
    result["calibration"] = about
    if time_passes:
        result["passes"] = passes
        if not json:
            print_table("passes", ("pass", "s", "changed"), [(p["name"], p["seconds"], p["changed"]) for p in passes])
    if emit is not None:
        emitted = compiler.emit(state, emit)
        if output is not None:
            _write(output, emitted)
        elif json:
            result["emitted"] = str(emitted)
        else:
            typer.echo(emitted, nl=False)
    elif stop_after is None:
        program = state.need_program()
        program.save(Path(f"{model.stem}.cim") if output is None else output)
        result |= _summary(program)
    result["output"] = None if output is None else str(output)
    if json:
        print_json(result)
    elif "cost" in result:
        for text in result["cost"]["notes"]:
            note(f"note: {text}")
        _tell(result)
        expected = state.need_program().expected
        if expected is not None and expected.outputs:
            typer.echo(f"  expected: {expected.summary()} ({expected.basis}; by layer: cimc inspect)")


def _summary(program: Program) -> dict[str, Any]:
    places = [p.where for p in program.placements]
    return {
        "nodes": {where: places.count(where) for where in ("analog", "digital", "folded")},
        "cost": program.cost().to_dict(),
        "forecast": None if program.expected is None else program.expected.model_dump(mode="json"),
    }


def _tell(result: dict[str, Any]) -> None:
    cost, nodes = result["cost"], result["nodes"]
    typer.echo(f"{result['output']}: {result['model']} for {result['target']}")
    typer.echo(f"  nodes: {nodes['analog']} analog, {nodes['digital']} digital, {nodes['folded']} folded")
    typer.echo(f"  crossbars: {cost['crossbars']} on {cost['tiles']} tiles (chips: {cost['chips']}), {cost['devices']} devices")
    latency, energy = cost["latency_ms"], cost["energy_mj"]
    if not cost["crossbars"]:
        return
    if latency["placed"] is None and energy["analog"] is None:
        typer.echo("  an image: time and energy are not known")
        return
    typer.echo(f"  an image: {figure(latency['placed'])} ms as placed, pipelined; {figure(energy['analog'])} mJ analog")
    copies = "" if latency["copies"] is None else f"{figure(latency['copies'])} ms with copies, "
    ideal = f"{copies}{figure(latency['pipelined'])} ms pipelined, {figure(latency['sequential'])} ms layer by layer"
    typer.echo(f"  idealised, a tile for each crossbar: {ideal}")


def _write(path: Path, content: str | bytes) -> None:
    from cimc.files import write_file

    write_file(path, content.encode() if isinstance(content, str) else content)


def preprocessing_of(scale: float | None, mean: str | None, std: str | None) -> Preprocessing | None:
    if scale is None and mean is None and std is None:
        return None
    from cimc.ir.program import Preprocessing

    if scale is not None and not (isfinite(scale) and scale):
        what, fix = f"{scale} is not a finite number other than 0", "for example 0.00392157, which is 1/255"
        raise CimcError(what, where="--scale", fix=fix)
    deviations = _floats("--std", std or "1")
    if min(deviations) <= 0:
        raise CimcError(f"{std} is not above 0", where="--std", fix="for example 0.229,0.224,0.225")
    return Preprocessing(scale=scale, mean=_floats("--mean", mean or "0"), std=deviations)


def _floats(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(isfinite, numbers)):
        raise CimcError(f"{text!r} is no list of finite numbers", where=option, fix="for example 0.485,0.456,0.406")
    return numbers
