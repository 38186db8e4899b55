"""`cimc image`: look at an image, check it, compare two, map a die's faults, write an image into it, run it there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cimc.cli.common import (
    Json,
    Resize,
    Seed,
    figure,
    note,
    opened,
    opened_calibration,
    print_json,
    print_run,
    print_table,
    progress,
    tell_data,
    training_rows,
)
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins

if TYPE_CHECKING:
    from cimc.image.die import Die
    from cimc.image.image import Image
    from cimc.sources import Source

app = typer.Typer(name="image", help="Inference-chip images: show, check, compare, program, run.", no_args_is_help=True)

ImageFile = Annotated[Path, typer.Argument(metavar="M.cimg", help="An image.", show_default=False)]
Chip = Annotated[
    str | None, typer.Option("--chip", "-c", metavar="T", help="The die's own description; default: the image's target.")
]
FaultFile = Annotated[Path | None, typer.Option("--fault-map", metavar="F.npz", help="The die's fault map.")]
Calibration = Annotated[
    Path | None, typer.Option(metavar="DATA", help="Images to calibrate the die with: an npz, a folder of images, or a data set.")
]
Method = Annotated[
    str,
    typer.Option(
        "--programming",
        metavar="KIND",
        help="Programmer: write_verify (pulse by pulse), gaussian (errors by distribution), another kind; auto: the target's.",
    ),
]
Signed = Annotated[
    bool, typer.Option("--require-signature", help="Refuse an image whose signature is missing or cannot be checked.")
]


@app.command()
def info(
    image_file: ImageFile,
    cell: Annotated[str | None, typer.Option(metavar="CHIP,TILE,ROW,COLUMN", help="Show one cell.")] = None,
    require_signature: Signed = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Show what is in an image."""
    from cimc.errors import CimcError
    from cimc.image.info import describe

    image = _load(image_file, require_signature)
    if cell is not None:
        try:
            chip, tile, row, column = (int(part) for part in cell.split(","))
        except ValueError:
            raise CimcError(f"{cell} is not four numbers", where="--cell", fix="for example --cell 0,0,5,12") from None
        found = image.cell(chip, tile, row, column)
        if json:
            print_json(found)
        else:
            print_table(f"cell {cell}", ("", "value"), list(found.items()))
        return
    report = describe(image)
    if json:
        print_json(report)
        return
    shown = (
        "target",
        "die",
        "source",
        "seed",
        "model",
        "compiler",
        "calibration",
        "tiles",
        "chips",
        "bytes",
        "sha256",
        "signature",
        "signed_by",
    )
    print_table(str(image_file), ("", "value"), [(key, _plain(report[key])) for key in shown])
    columns = ("layer", "rows", "columns", "copies", "segments", "ADC µA", "places")
    keys = ("name", "rows", "columns", "copies", "segments", "adc_range_ua")
    print_table("layers", columns, [(*(row[key] for key in keys), " ".join(row["places"][:4])) for row in report["layers"]])
    print_table("cells", ("use", "cells"), list(report["cells"].items()))
    if report["training"]:
        print_table("training", ("", "value"), training_rows(report["training"]))
    for text in report["notes"]:
        typer.echo(f"note: {text}")


@app.command()
def verify(
    image_file: ImageFile,
    chip: Chip = None,
    fault_map: FaultFile = None,
    key: Annotated[Path | None, typer.Option(metavar="PUBLIC.pem", help="Refuse it unless this Ed25519 key signed it.")] = None,
    require_signature: Signed = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Check hash, structure and tiles; and platform, fault map and signer where they are given."""
    from cimc.image.check import verify_image

    image = _load(image_file, require_signature)
    checked = verify_image(image, chip, fault_map, key)
    if json:
        print_json(
            {"image": str(image_file), "ok": True, "sha256": image.sha256, "signature": image.signature, "checked": checked}
        )
    else:
        typer.echo(f"{image_file}: sound ({', '.join(checked)})")


@app.command()
def diff(one: ImageFile, other: ImageFile, plugins: Plugins = None, json: Json = False) -> None:
    """Show what differs between two images."""
    from cimc.image.diff import diff as compare

    found = compare(_load(one), _load(other))
    if json:
        print_json(found)
        return
    if found["same"]:
        typer.echo("the images are the same")
        return
    for kind in ("identity", "target"):
        if found[kind]:
            print_table(kind, ("", str(one), str(other)), [(k, _plain(a), _plain(b)) for k, (a, b) in found[kind].items()])
    rows = [
        (row["name"], row.get("only_in", ""), row.get("moved", ""), row.get("cells_changed"), row.get("largest_us"))
        for row in found["layers"]
    ]
    if rows:
        print_table("layers", ("layer", "only in", "moved", "cells changed", "largest µS"), rows)
    for name in found["digital"]:
        typer.echo(f"digital: {name}")


@app.command()
def program(
    image_file: ImageFile,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="R.npz", help="Write masks, read-back and pulses of every cell.")
    ] = None,
    seed: Seed = 0,
    chip: Chip = None,
    fault_map: FaultFile = None,
    calibration: Calibration = None,
    programming: Method = "auto",
    error_free: Annotated[bool, typer.Option("--error-free", help="Every device takes its goal exactly.")] = False,
    require_signature: Signed = False,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Write an image into a simulated die, and report what came of it."""
    from cimc.data import save_npz

    guard([output], [image_file, chip, fault_map, calibration])
    image = _load(image_file, require_signature)
    die = _die(image, seed, chip, fault_map, opened_calibration(calibration, resize), programming, error_free, json)
    report = die.programming.to_dict()
    if output is not None:
        save_npz(output, die.programming.arrays())
    if json:
        print_json({"image": str(image_file), "seed": seed, "output": None if output is None else str(output), **report})
        return
    columns = ("layer", "copies", "devices", "success", "pulses", "reads", "time ns", "energy nJ")
    keys = ("copies", "devices", "success", "pulses", "reads", "time_ns", "energy_nj")
    print_table(
        f"{image_file}, die {seed}, {report['method']}",
        columns,
        [(name, *(row[key] for key in keys)) for name, row in report["layers"].items()],
    )
    test = report["selftest"]
    typer.echo(f"self-test: {test['outside']} of {test['reads']} reads outside their bands; calibration: {report['calibration']}")


@app.command()
def faults(
    source: Annotated[
        str,
        typer.Argument(metavar="T|M.cim|M.cimg", help="A target, or a program or image made for one.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="F.npz", help="Where the fault map goes.")],
    seed: Seed = 0,
    chips: Annotated[int | None, typer.Option(min=1, help="Chips to test; default: those in use.", show_default=False)] = None,
    tiles: Annotated[
        int | None,
        typer.Option(min=1, help="Arrays of a chip to test; default: all, or some spare ones.", show_default=False),
    ] = None,
    die: Annotated[str | None, typer.Option(help="Name of the die; default: target and seed.", show_default=False)] = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Find the stuck cells of a simulated die, for `cimc export --fault-map`."""
    from cimc.image.mapped import fault_map
    from cimc.ir.artifact import load

    kind, path = Path(source).suffix, Path(source)
    made = load(path) if kind == ".cim" else _load(path) if kind == ".cimg" else source
    found = fault_map(made, seed, chips=chips, tiles=tiles, die=die)
    found.save(output)
    if json:
        print_json({"output": str(output), "seed": seed, "die": found.die, "cells": len(found.cells)})
    else:
        typer.echo(f"{output}: {len(found.cells)} stuck cells of die {found.die}")


@app.command()
def run(
    image_file: ImageFile,
    inputs_file: Annotated[Path, typer.Option("--input", metavar="X.npz", help="x, or an array for each input by name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="Y.npz", help="Where the outputs go, by name.")],
    seed: Seed = 0,
    chip: Chip = None,
    fault_map: FaultFile = None,
    calibration: Calibration = None,
    programming: Method = "auto",
    error_free: Annotated[bool, typer.Option("--error-free", help="Every device takes its goal exactly.")] = False,
    require_signature: Signed = False,
    check: Annotated[Path | None, typer.Option(metavar="MODEL.onnx", help="Compare with ONNX Runtime on this model.")] = None,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Write an image into a simulated die and run a batch on it."""
    from cimc.data import load_arrays, save_npz

    guard([output], [image_file, inputs_file, chip, fault_map, calibration, check])
    image = _load(image_file, require_signature)
    die = _die(image, seed, chip, fault_map, opened_calibration(calibration, resize), programming, error_free, json)
    compiled = die.program
    bound = compiled.bound_values()
    source = opened(inputs_file, resize)
    inputs = load_arrays(source, compiled.inputs, "test", compiled.preprocessing, bound)
    outputs = die.run(inputs, 0)
    save_npz(output, outputs)
    result: dict[str, Any] = {
        "seed": seed,
        "programming": die.programming.to_dict(),
        "stats": die.stats(),
        "data": tell_data(source),
    }
    print_run(output, outputs, inputs, result, check, compiled, json)


def _load(image_file: Path, require_signature: bool = False) -> Image:
    """The image; a signature that was not checked is said."""
    from warnings import catch_warnings

    from cimc.image.reader import load_image

    with catch_warnings(record=True) as told:
        image = load_image(image_file, require_signature=require_signature)
    for warning in told:
        note(f"note: {warning.message}")
    return image


def _die(
    image: Image,
    seed: int,
    chip: str | None,
    fault_map: Path | None,
    calibration: Source | None,
    programming: str,
    error_free: bool,
    quiet: bool,
) -> Die:
    """The image in a die, written while a bar shows how far it is."""
    from cimc.data import load_arrays, needed_inputs

    data = (
        None
        if calibration is None
        else load_arrays(calibration, needed_inputs(image.compiled.inputs), how=image.compiled.preprocessing)
    )
    if calibration is not None:
        tell_data(calibration)
    with progress("devices", image.devices, quiet) as advance:
        return image.program(
            seed,
            target=chip,
            fault_map=fault_map,
            calibration=data,
            programming=programming,
            error_free=error_free,
            advance=advance,
        )


def _plain(value: object) -> object:
    """A figure, or the first and last of a long text."""
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:28]}…{value[-28:]}"
    return value if isinstance(value, int | str) else figure(value)
