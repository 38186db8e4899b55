"""`--plugin FILE.py`: code of the user's that adds device models before a command does anything else.

A file that cimc reads never names code to run; only this option, an import in Python, and installed packages add models.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import typer

from cimc.errors import CimcError


def load_plugins(paths: list[Path] | None) -> list[Path] | None:
    """Run Python files, in their order.

    Raises:
        CimcError: A file is missing, or fails.
    """
    for path in paths or []:
        if not os.path.isfile(path):
            raise CimcError("there is no such file", where=f"--plugin {path}")
        name = f"cimc_plugin_{path.stem}"
        spec = spec_from_file_location(name, path.resolve())
        if spec is None or spec.loader is None:
            raise CimcError("this is no Python file", where=f"--plugin {path}", fix="a file that ends in .py")
        module = module_from_spec(spec)
        sys.modules[name] = module  # classes look up their annotations there
        try:
            spec.loader.exec_module(module)
        except CimcError:
            raise
        except Exception as error:  # whatever the user's code raises is told as its fault
            raise CimcError(f"it failed: {type(error).__name__}: {error}", where=f"--plugin {path}") from error
    return paths


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=load_plugins,
        is_eager=True,
        help="Run this Python file first; it adds device models with cimc.register. May be repeated.",
    ),
]
