"""`cimc device`: from measurements of devices to a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cimc.cli.common import Json, print_json

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

    there = [path for name in TABLES if (path := folder / f"{name}.csv").exists()]
    if there and not force:
        raise OutputError("the file exists, and may hold measurements", where=str(there[0]), fix="another folder, or --force")
    files = write_templates(folder)
    if json:
        print_json({"files": [str(path) for path in files]})
        return
    for path, table in zip(files, TABLES.values(), strict=True):
        typer.echo(f"{path}: {table.meaning}")
