"""`cimc export`: a program or a trained chip to an image for an inference chip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cimc.cli.common import Compiled, Json, Resize, note, opened, parse_copies, print_json, tell_data
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins


def export(
    program_file: Compiled,
    chip: Annotated[
        str | None, typer.Option("--chip", "-c", metavar="T", help="The chip: a name or a YAML file; default: the program's own.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; default: the name with .cimg.")] = None,
    source: Annotated[
        Literal["target", "readback"], typer.Option(help="The weights W, or what the devices of the chip hold.")
    ] = "target",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the chip that is read back; of a trained one its own.", show_default=False)
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Images that set input scales and ADC ranges anew: an npz, a folder of images, or a data set."
        ),
    ] = None,
    resize: Resize = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the target.")
    ] = None,
    chips: Annotated[int | None, typer.Option(min=1, help="Fail if more chips are needed.")] = None,
    copies: Annotated[
        list[str] | None, typer.Option(metavar="LAYER=N", help="Copies of a layer that work at once; default: the program's.")
    ] = None,
    fault_map: Annotated[Path | None, typer.Option(metavar="F.npz", help="Dead rows, columns and cells to step around.")] = None,
    die: Annotated[str | None, typer.Option(help="Name of the die it is for.")] = None,
    flash: Annotated[
        list[str] | None, typer.Option(metavar="bin|hex|c", help="Also write this form beside the image; may be repeated.")
    ] = None,
    sign: Annotated[Path | None, typer.Option(metavar="KEY.pem", help="Sign with this Ed25519 private key.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check all rules of the program after each pass.")] = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Export a program, or a trained chip, as an image for another chip."""
    from cimc.files import write_file
    from cimc.image.export import export_image
    from cimc.image.flash import FORMS, check_form
    from cimc.image.flash import flash as flashed
    from cimc.image.info import describe
    from cimc.ir.artifact import load
    from cimc.runtime.chip import Chip

    for form in flash or []:
        check_form(form)
    output = output or program_file.parent / f"{program_file.stem}.cimg"
    forms = {form: output.parent / f"{output.stem}{FORMS[form]}" for form in flash or []}
    guard([output, *forms.values()], [program_file, chip, calibration, fault_map, sign])
    program = load(program_file)
    given = None if calibration is None else opened(calibration, resize)
    trained = any(name.startswith("state/") for name in program.tensors)
    image = export_image(
        Chip(program, seed) if source == "readback" or trained else program,
        chip,
        source,
        fault_map,
        settings=settings,
        calibration=given,
        chips=chips,
        copies=parse_copies(copies) if copies else None,
        die=die,
        key=sign,
        path=output,
        verify=verify,
    )
    for form, path in forms.items():
        write_file(path, flashed(image.data, form))
    report = describe(image)
    about = None if given is None else tell_data(given)
    for text in report["notes"]:
        note(f"note: {text}")
    if json:
        print_json({"output": str(output), "flash": {form: str(path) for form, path in forms.items()}, **report, "data": about})
        return
    cells = report["cells"]
    typer.echo(f"{output}: {report['model'] or program_file.name} for {report['target']}, {report['bytes']} bytes")
    typer.echo(f"  {report['tiles']} tiles (chips: {report['chips']}), {cells['use']} cells in use, {cells['faulty']} faulty")
    typer.echo(f"  sha256 {report['sha256']}")
    for path in forms.values():
        typer.echo(f"  {path}")
