"""From paths to artefacts to a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cimc.errors import ArtifactError
from cimc.image.reader import load_image
from cimc.ir.artifact import load
from cimc.ir.kinds import kind_of
from cimc.ir.program import Program
from cimc.pages.compare import comparison
from cimc.pages.html import page
from cimc.pages.image import image_artefact
from cimc.pages.measured import measured_section
from cimc.pages.parts import Artefact, Section
from cimc.pages.program import program_artefact
from cimc.pages.results import results_artefact
from cimc.pages.training import is_run, run_artefact

_SHOWN = "a .cim, a .cimg, a checkpoint folder, or results of evaluate, explain, tune or train"


def read_artefact(path: Path, prefix: str = "m", seed: int | None = None, data: Path | None = None) -> Artefact:
    """What a file or folder tells.

    Args:
        path: What a command of cimc wrote.
        prefix: Of names on the page; two artefacts of one page have different ones.
        seed: Of a simulated die; None: 0, or that of the chip in the file.
        data: Images and labels that a compiled model is run on.

    Raises:
        ArtifactError: It is nothing that a report shows, or damaged.
        DataError: The data do not suit the model.
    """
    kind = kind_of(path)
    if path.is_dir():
        if not is_run(path):
            raise ArtifactError("the folder holds no training run", where=str(path), fix=_SHOWN)
        return run_artefact(path)
    if kind == "program":
        program = load(path)
        return _with_data(program_artefact(program, path.name, prefix, seed), program, data, seed)
    if kind == "image":
        return image_artefact(load_image(path), path.name, prefix)
    if not path.exists():
        raise ArtifactError("no such file", where=str(path), fix=_SHOWN)
    if kind is None and path.suffix.lower() in (".json", ".jsonl", ".csv"):
        return results_artefact(path)
    raise ArtifactError("it is nothing that a report shows", where=str(path), fix=_SHOWN)


@dataclass(frozen=True)
class Report:
    """What a page shows."""

    title: str
    artefacts: Sequence[Artefact]
    comparison: Sequence[Section]
    """Stands first; empty for one artefact."""

    def page(self) -> str:
        """As HTML."""
        return page(self.title, self.artefacts, self.comparison)


def read_report(paths: Sequence[Path], seed: int | None = None, data: Path | None = None) -> Report:
    """What some files and folders tell, side by side.

    Raises:
        CimcError: As `read_artefact`.
    """
    found = [read_artefact(path, f"m{number}", seed, data) for number, path in enumerate(paths)]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        found = [replace(one, name=str(path)) for one, path in zip(found, paths, strict=True)]
    title = ", ".join(one.name for one in found) if len(found) <= 4 else f"{len(found)} artefacts"
    return Report(title, found, comparison(found) if len(found) > 1 else [])


def _with_data(artefact: Artefact, program: Program, data: Path | None, seed: int | None) -> Artefact:
    if data is None or program.loss is not None:
        return artefact
    section, facts = measured_section(program, data, seed)
    return replace(
        artefact, facts={**artefact.facts, **facts}, sections=[*artefact.sections[:-1], section, artefact.sections[-1]]
    )
