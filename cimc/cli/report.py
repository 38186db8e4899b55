"""`cimc report`: one page of figures and tables about files that cimc wrote."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from cimc.cli.common import Json, note, print_json
from cimc.cli.plugins import Plugins


def report(
    artefacts: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|M.cim|M.cimg|RESULTS...", help="What to show; two and more are compared.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="R.html", help="The page.")],
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure as SVG and PNG into this folder.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="D.npz", help="x and y: run compiled models on them, for accuracy and saturation.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the die whose conductances are shown; default: 0, or the chip in the file."),
    ] = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Write one page that needs no network: models, chip images, training runs and results as figures and tables."""
    from cimc.cli.outputs import guard
    from cimc.files import write_file
    from cimc.pages.figures import write_figures
    from cimc.pages.html import need_plotly
    from cimc.pages.report import read_report

    guard([output], [*artefacts, data])
    need_plotly()
    found = read_report(artefacts, seed, data)
    write_file(output, found.page().encode())
    files = [] if figures is None else write_figures(figures, found.artefacts, found.comparison)
    if json:
        told = [
            {
                "name": one.name,
                "kind": one.kind,
                "facts": {name: _known(value) for name, value in one.facts.items()},
                "sections": [part.title for part in one.sections],
            }
            for one in found.artefacts
        ]
        print_json({"output": str(output), "artefacts": told, "figures": [str(path) for path in files]})
        return
    note(f"{output}: {found.title}; open it in a browser")
    if files:
        note(f"{figures}: {len(files)} files")


def _known(value: object) -> object:
    """A figure for JSON, which has no NaN."""
    return None if isinstance(value, float) and not isfinite(value) else value
