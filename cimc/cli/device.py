"""`cimc device`: from measurements of devices to a target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cimc.cli.common import Json, note, print_json, print_table
from cimc.cli.plugins import Plugins
from cimc.cli.targets import Settings
from cimc.errors import CimcError

if TYPE_CHECKING:
    from cimc.characterisation.result import DeviceFit

app = typer.Typer(name="device", help="From measurements of devices to a target.", no_args_is_help=True)


@app.command()
def template(
    folder: Annotated[Path, typer.Argument(help="Folder for the files.", show_default="the present one")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    json: Json = False,
) -> None:
    """Write an empty CSV file for each kind of measurement."""
    from cimc.characterisation.template import write_templates
    from cimc.characterisation.vocabulary import TABLES
    from cimc.errors import OutputError

    there = [path for name in TABLES if os.path.exists(path := folder / f"{name}.csv")]
    if there and not force:
        raise OutputError("the file exists, and may hold measurements", where=str(there[0]), fix="another folder, or --force")
    files = write_templates(folder)
    if json:
        print_json({"files": [str(path) for path in files]})
        return
    for path, table in zip(files, TABLES.values(), strict=True):
        typer.echo(f"{path}: {table.meaning}")


@app.command()
def fit(
    files: Annotated[list[Path], typer.Argument(metavar="MEASUREMENTS.csv...", help="CSV files.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MINE.yaml", help="The target file.")],
    extends: Annotated[
        str, typer.Option(metavar="TARGET", help="Target that gives the arrays, converters and what was not measured.")
    ] = "ideal",
    plot: Annotated[Path | None, typer.Option(metavar="FIT.html", help="Draw the fit and the device as a page.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Fit a device to measurements and write it as a target."""
    from cimc.characterisation.fit import fit_device
    from cimc.cli.outputs import guard

    if output.suffix not in (".yaml", ".yml"):
        raise CimcError(f"{output} would not be found as a target", where="--output", fix=f"{output.with_suffix('.yaml')}")
    guard([output, plot], [*files, extends if extends.endswith((".yaml", ".yml")) else None])
    if plot is not None:
        from cimc.report.page import need_plots

        need_plots()
    result = fit_device(files, seed=seed)
    result.to_yaml(output, extends=extends)
    if plot is not None:
        _draw_fit(result, output, extends, plot)
    inherited = result.inherited(extends)
    if json:
        print_json({"output": str(output), **result.to_dict(), "inherited": inherited})
        return
    rows: list[tuple[object, ...]] = [
        (name, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", one.devices, one.more_devices)
        for name, one in result.intervals.items()
    ]
    print_table(f"{output}, extends {extends}", ("figure", "fit", "95 % interval", "devices", "more to halve it"), rows)
    print_table("forms", ("effect", "form", "held-out log-likelihood of a record", "deviation of residuals"), [
        (name, one.form, f"{one.likelihoods[one.form]:.4g}" if one.form in one.likelihoods else "",
         f"{one.residuals.std():.3g}" if one.residuals.size else "")
        for name, one in result.effects.items()
    ])  # fmt: skip
    for text in result.notes:
        note(f"note: {text}")
    for text in result.found:
        note(f"found, not modelled: {text}")
    sections = dict.fromkeys(".".join(path.split(".")[:2]) for path in inherited)
    note(f"not measured, as in {extends}: {', '.join(sections)}")


def _draw_fit(result: DeviceFit, output: Path, extends: str, page: Path) -> None:
    from cimc.files import write_file
    from cimc.report.device_pictures import pictures_of_device
    from cimc.report.fit_pictures import pictures_of_fit
    from cimc.report.page import html_page
    from cimc.targets.load import load_target

    pictures = [*pictures_of_fit(result), *pictures_of_device(load_target(output))]
    notes = [*result.notes, *(f"Found, not modelled: {text}" for text in result.found)]
    columns = ("figure", "fit", "95 % interval", "source")
    rows = [
        (name, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", result.source_of(name))
        for name, one in result.intervals.items()
    ]
    write_file(page, html_page(f"{output.stem}: fit of a device, on {extends}", pictures, notes, (columns, rows)).encode())


@app.command()
def show(
    target: Annotated[str, typer.Argument(help="Name of a target, or path of its YAML file.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="PAGE.html", help="Draw pictures as a page.")] = None,
    settings: Settings = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Show a target's device: what writes leave at some goals, now and after a day; with -o as pictures."""
    from dataclasses import asdict

    from cimc.cli.outputs import guard
    from cimc.files import write_file
    from cimc.report.device_pictures import Simulated, pictures_of_device
    from cimc.report.page import html_page, need_plots
    from cimc.targets.load import load_target

    guard([output], [target if target.endswith((".yaml", ".yml")) else None])
    if output is not None:
        need_plots()
    chip = load_target(target, settings)
    simulated = Simulated(chip)
    levels = [simulated.level(float(goal)) for goal in simulated.goals_us]
    if output is not None:
        write_file(output, html_page(f"{chip.name}: the device", pictures_of_device(chip), [chip.description]).encode())
    if json:
        print_json(
            {"name": chip.name, "output": None if output is None else str(output), "levels": [asdict(one) for one in levels]}
        )
        return
    columns = ("goal µS", "held", "deviation", "read noise", "held after a day", "deviation then")
    print_table(f"{chip.name}, simulated devices, µS", columns, [tuple(asdict(one).values()) for one in levels])
    if chip.chosen_programmer.kind != "direct":
        note(f"note: these are direct writes; this chip writes by {chip.chosen_programmer.kind}")
    if output is not None:
        note(f"pictures: {output}")


@app.command()
def presets(json: Json = False) -> None:
    """List the devices that a target may choose with `device: {preset: NAME}` or `--set device.preset=NAME`."""
    from cimc.targets.presets import available_presets
    from cimc.targets.yaml_file import read_yaml

    rows = [{"name": name, "description": read_yaml(path)[0]["description"]} for name, path in available_presets().items()]
    if json:
        print_json({"presets": rows})
        return
    print_table("", ("name", "description"), [tuple(row.values()) for row in rows])
