"""`cimc doctor`: what this machine and installation offer, and what to change."""

from __future__ import annotations

from typing import Annotated

import typer

from cimc.cli.common import Json, print_json, print_table


def doctor(
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="Time a product; its kernels may have to be compiled first.")
    ] = True,
    json: Json = False,
) -> None:
    """Versions, threads, compiled kernels and speed, with advice."""
    from cimc.report.doctor import findings

    found = list(findings(speed))
    if json:
        print_json({"findings": [vars(one) for one in found]})
        return
    print_table("cimc doctor", ("what", "found", "advice"), [(one.what, one.found, one.advice) for one in found])
