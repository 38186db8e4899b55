"""The page of the Python names that cimc promises, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from unimported import declared

#: What the page documents: each has ``__all__``.
MODULES = ("cimc", "cimc.torch", "cimc.datasets", "cimc.backend", "cimc.devices", "cimc.rules", "cimc.testing")


#: Classes that these return, by where they are defined.
RETURNED = {
    "Budget": "cimc.budget.result",
    "DeviceFit": "cimc.characterisation.result",
    "History": "cimc.training.history",
    "Image": "cimc.image.image",
    "Population": "cimc.population.result",
    "Tuned": "cimc.tuning.tune",
    "Yield": "cimc.population.result",
}
#: Of these, those that need an extra.
EXTRAS = {"cimc.torch"}


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(...)"
    text = re.sub(r"<([\w.]+) object at 0x[0-9a-f]+>|<factory>", "...", text)
    return re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", text)  # annotations are strings, defaults keep their quotes


def _docstring(value: Any) -> str:
    return _sections(inspect.getdoc(value) or "")


def _sections(text: str) -> str:
    """A docstring, its sections (Args, Raises, ...) as lists."""
    lines, section = [], False
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            section = True
            lines += ["", f"**{line[:-1]}**", ""]
        elif section and re.match(r" {4}\S", line):
            lines.append(f"- {line.strip()}")
        elif section and line.strip() and not line.startswith(" "):
            section = False
            lines += ["", line]
        else:
            lines.append("  " + line.strip() if section else line)
    return "\n".join(lines)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that cimc itself defines."""
    for name, value in sorted(inspect.getmembers(kind)):
        function = value.fget if isinstance(value, property) else value
        ours = str(getattr(function, "__module__", "")).startswith("cimc")
        if ours and not name.startswith("_") and not inspect.isclass(value):
            yield name, value


def _entry(module: str, name: str, value: Any) -> Iterator[str]:
    full = f"{module}.{name}"
    yield f"### {full}\n"
    if callable(value):
        yield f"```python\n{name}{_signature(value)}\n```\n"
    yield _docstring(value) if callable(value) or isinstance(value, ModuleType) else f"`{value!r}`"
    yield ""
    if inspect.isclass(value):
        for member, what in _members(value):
            head = member if isinstance(what, property) else f"{member}{_signature(what)}"
            yield f"#### {name}.{member}\n\n```python\n{head}\n```\n\n{_docstring(what)}\n"


def _own(module: ModuleType) -> list[str]:
    """Public functions and classes that a module defines itself."""
    return [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__]


def page() -> str:
    """The page in Markdown: a section for each module, in it one for each name of ``__all__``."""
    lines = ["# Python", "", "The public names, made from the code when the site is built. Arrays are numpy, images NCHW.", ""]
    for path in MODULES:
        if path in EXTRAS:
            text, names = declared(path)
            lines += [f"## {path}", "", _sections(text), ""]
            for one in names:
                lines += [f"### {path}.{one.name}\n\n```python\n{one.name}{one.signature}\n```\n\n{_sections(one.docstring)}\n"]
                for part in one.members:
                    lines += [f"#### {one.name}.{part.name}\n\n```python\n{part.name}{part.signature}\n```\n"]
                    lines += [f"{_sections(part.docstring)}\n"]
            continue
        module = import_module(path)
        lines += [f"## {path}", "", _docstring(module), ""]
        for name in getattr(module, "__all__", _own(module)):
            if not isinstance(value := getattr(module, name), ModuleType) and name != "__version__":
                lines += _entry(path, name, value)
    compiler = import_module("cimc.compiler")
    lines += ["## Options of cimc.compile", "", *_entry("cimc.compiler", "compile_model", compiler.compile_model)]
    lines += ["## What they return", "", "Classes of results; they are made by the functions above.", ""]
    for name, path in RETURNED.items():
        lines += _entry(path, name, getattr(import_module(path), name))
    return "\n".join(lines) + "\n"
