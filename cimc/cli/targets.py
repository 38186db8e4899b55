"""``cimc targets``: the chips there are, what they say, and whether one's own says it right."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(name="targets", help="List, show and check descriptions of target chips.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a figure; may be repeated.")]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


@app.command("list")
def list_targets(as_json: AsJson = False) -> None:
    """List the built-in chips and those that installed packages add."""
    from cimc.errors import TargetError
    from cimc.targets.load import available_targets, load_target

    rows = []
    for name, origin in available_targets().items():
        try:
            rows.append({"name": name, "from": origin, "description": load_target(name).description, "error": None})
        except TargetError as error:  # one broken package must not hide the other chips
            rows.append({"name": name, "from": origin, "description": "", "error": str(error)})
    if as_json:
        _print_json({"targets": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "from", "description")
    for row in rows:
        table.add_row(str(row["name"]), Text(str(row["from"])), Text(str(row["description"] or row["error"] or "")))
    _print_table(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a target, or path of its YAML file.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show every figure of a chip with its unit and its source."""
    from cimc.targets.description import figures_of, unit_of
    from cimc.targets.load import load_target

    target = load_target(name, settings)
    rows = {
        path: {"value": value, "unit": unit_of(path) or None, "source": target.sources.get(path)}
        for path, value in figures_of(target).items()
        if path not in ("name", "description")
    }
    if as_json:
        _print_json({"name": target.name, "description": target.description, "figures": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("figure", "value", "unit", "source", title=Text(f"{target.name}: {target.description}"), title_justify="left")
    for path, row in rows.items():
        table.add_row(path, Text(_shown(row["value"])), row["unit"], Text(row["source"] or "default of cimc"))
    _print_table(table)


@app.command()
def validate(
    file: Annotated[str, typer.Argument(help="YAML file of a target.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check a target file; exit code 2 and the reason where it is wrong."""
    from pathlib import Path

    from cimc.targets.description import figures_of
    from cimc.targets.load import load_target

    target = load_target(Path(file), settings)
    figures = figures_of(target)
    unsourced = [path for path, value in figures.items() if _is_number(value) and path not in target.sources]
    if as_json:
        _print_json({"valid": True, "name": target.name, "file": file, "figures_without_source": unsourced})
        return
    typer.echo(f"{file}: target {target.name} is valid")
    if unsourced:
        typer.echo(f"without a source: {', '.join(unsourced)}", err=True)


@app.command()
def schema(as_json: AsJson = True) -> None:
    """Print the JSON Schema of a target file, for editors."""
    from cimc.targets.schema import json_schema

    _print_json(json_schema())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _print_table(table: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)
