"""From paths to artefacts to a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cimc.errors import ArtifactError
from cimc.ir.artifact import load
from cimc.ir.kinds import kind_of
from cimc.pages.html import page
from cimc.pages.parts import Artefact
from cimc.pages.program import path_name, program_artefact


def read_artefact(path: Path, prefix: str = "m", seed: int | None = None) -> Artefact:
    """What a file or folder tells.

    Args:
        path: A file that cimc wrote.
        prefix: Of names on the page; two artefacts of one page have different ones.
        seed: Of a simulated die; None: 0.

    Raises:
        ArtifactError: It is nothing that a report shows, or damaged.
    """
    if kind_of(path) == "program":
        return program_artefact(load(path), path_name(path), prefix, seed)
    raise ArtifactError("it is nothing that a report shows", where=str(path), fix="a .cim")


def report(paths: Sequence[Path], seed: int | None = None) -> tuple[str, list[Artefact]]:
    """The page of some files, and what it shows."""
    artefacts = [read_artefact(path, f"m{number}", seed) for number, path in enumerate(paths)]
    return page(", ".join(one.name for one in artefacts), artefacts), artefacts
