"""`cimc report`: one page of figures and tables about files that cimc wrote."""

from __future__ import annotations

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
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of the die whose conductances are shown; default: 0, or the chip in the file."),
    ] = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Write one page that needs no network: graph, arrays, cost, schedule and forecast of a compiled model."""
    from cimc.cli.outputs import guard
    from cimc.files import write_file
    from cimc.pages.html import need_plotly
    from cimc.pages.report import report as page_of

    guard([output], artefacts)
    need_plotly()
    text, found = page_of(artefacts, seed)
    write_file(output, text.encode())
    if json:
        told = [
            {"name": one.name, "kind": one.kind, "facts": dict(one.facts), "sections": [part.title for part in one.sections]}
            for one in found
        ]
        print_json({"output": str(output), "artefacts": told})
        return
    note(f"{output}: {', '.join(one.name for one in found)}; open it in a browser")
