"""The page of all commands, from the declarations of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from cimc.cli.app import app


def commands() -> Iterator[tuple[str, Any]]:
    """Each command that does something, such as ``cimc image info``, with its declaration."""

    def walk(name: str, group: Any) -> Iterator[tuple[str, Any]]:
        for word, command in group.commands.items():
            full = f"{name} {word}"
            if hasattr(command, "commands"):
                yield from walk(full, command)
            else:
                yield full, command

    yield from walk("cimc", typer.main.get_command(app))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _values(option: Any) -> str:
    """What an option takes, as its help has it."""
    if getattr(option, "is_flag", False):
        return ""
    if option.metavar:
        return f"`{_cell(option.metavar)}`"
    return _type(getattr(getattr(option, "type_descriptor", None), "annotation", None))


def _type(annotation: Any) -> str:
    if hasattr(annotation, "__members__"):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(annotation))
    parts = [_type(part) for part in get_args(annotation) if part is not type(None)]
    return " or ".join(parts) or {str: "text", int: "integer", float: "number", Path: "path"}.get(annotation, "")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = getattr(option.default, "value", option.default)
    return "" if value in (None, False, [], ()) or callable(value) else f"`{value}`"


def _tables(command: Any) -> Iterator[str]:
    shown = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if not any(word.startswith("-") for word in p.opts)]
    for title, some in (("argument", arguments), ("option", [p for p in shown if p not in arguments])):
        if not some:
            continue
        yield f"| {title} | value | default | meaning |\n|---|---|---|---|"
        for p in some:
            name = p.metavar or p.name if title == "argument" else ", ".join(p.opts + p.secondary_opts)
            value = "" if title == "argument" else _values(p) + (", repeated" if p.multiple else "")
            yield f"| `{_cell(name)}` | {value} | {_cell(_default(p))} | {_cell(p.help or '')} |"
        yield ""


def page() -> str:
    """The page in Markdown: a section for each command."""
    lines = [
        "# Commands",
        "",
        "Every command with its arguments and options. This page is made from the code when the site is built;",
        "`cimc COMMAND --help` prints the same.",
        "",
    ]
    for name, command in commands():
        lines += [f"## {name}", "", (command.help or "").strip(), "", *_tables(command)]
    return "\n".join(lines) + "\n"
