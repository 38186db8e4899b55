"""`cimc targets`: the chips there are, what they say, and whether one's own says it right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cimc.cli.common import Json, note, print_json, print_table, wire_notes
from cimc.cli.plugins import Plugins

app = typer.Typer(name="targets", help="List, show and check descriptions of target chips.", no_args_is_help=True)

Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a figure; may be repeated.")]


@app.command("list")
def list_targets(plugins: Plugins = None, json: Json = False) -> None:
    """List the built-in chips and those that installed packages add."""
    from cimc.errors import TargetError
    from cimc.targets.load import available_targets, load_target

    rows: list[dict[str, str | None]] = []
    for name, origin in available_targets().items():
        try:
            rows.append({"name": name, "from": origin, "description": load_target(name).description, "error": None})
        except TargetError as error:  # one broken package must not hide the other chips
            rows.append({"name": name, "from": origin, "description": None, "error": str(error)})
    if json:
        print_json({"targets": rows})
        return
    columns = ("name", "from", "description")
    print_table("", columns, [(row["name"], row["from"], row["description"] or row["error"]) for row in rows])


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a target, or path of its YAML file.", show_default=False)],
    settings: Settings = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Show every figure of a chip with its unit and its source."""
    from cimc.targets.description import figures_of, unit_of
    from cimc.targets.load import load_figures, load_target
    from cimc.targets.stated import sentence

    target, stated = load_target(name, settings), load_figures(name, settings)
    rows: dict[str, dict[str, Any]] = {
        path: {"value": value, "unit": unit_of(path) or None, "source": target.sources.get(path)}
        for path, value in figures_of(target).items()
        if path not in ("name", "description")
    }
    for path, fields in target.stated_for.items():
        rows[path]["stated_for"] = fields
    if json:
        print_json({"name": target.name, "description": target.description, "figures": rows})
        return
    cells = [
        (path, _as_yaml(row["value"]), row["unit"] or "", row["source"] or ("no source" if path in stated else "default"))
        for path, row in rows.items()
    ]
    print_table(f"{target.name}: {target.description}", ("figure", "value", "unit", "source"), cells)
    for path in target.stated_for:
        note(f"note: {sentence(target, path)}")
    for text in wire_notes(target):
        note(f"note: {text}")


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="YAML file of a target.", show_default=False)],
    settings: Settings = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Check a target file: exit code 2 and the reason where it is wrong; figures that were stated for another chip are named."""
    from cimc.targets.description import figures_of
    from cimc.targets.load import load_target
    from cimc.targets.stated import DERIVED, sentence, unknown_costs

    target = load_target(file, settings)
    stale = {path: fields for path, fields in target.stated_for.items() if path in DERIVED}
    numbers = [path for path, value in figures_of(target).items() if type(value) in (int, float, tuple)]
    bare = [path for path in numbers if path not in target.sources]
    if json:
        answer: dict[str, Any] = {"valid": True, "name": target.name, "file": str(file), "figures_without_source": bare}
        print_json(answer | ({"stale_figures": stale} if stale else {}))
        return
    typer.echo(f"{file}: target {target.name} is valid")
    if bare:
        note(f"without a source: {', '.join(bare)}")
    for path in stale:
        note(f"left as it was: {sentence(target, path)}; state it for this chip")
    for text in unknown_costs(target):
        note(f"{text}; state it for this chip, or no time and energy are given")
    for text in wire_notes(target):
        note(text)


@app.command()
def fields(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/target-fields.md.")] = False,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """List every field of a target file: values, unit, default, meaning."""
    from dataclasses import asdict

    from cimc.targets.reference import fields as listed
    from cimc.targets.reference import markdown as page

    rows = [asdict(field) for field in listed()]
    if json:
        print_json({"fields": rows})
    elif markdown:
        typer.echo(page(), nl=False)
    else:
        print_table("fields of a target file", tuple(rows[0]), [tuple(row.values()) for row in rows])


@app.command()
def schema(plugins: Plugins = None, json: Json = True) -> None:
    """Print the JSON Schema of a target file, for editors."""
    from cimc.targets.schema import json_schema

    print_json(json_schema())


def _as_yaml(value: Any) -> str:
    """The value as a target file has it."""
    from json import dumps

    return value if isinstance(value, str) else dumps(value)
