"""What a study is of: a program or an image, or several that take the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cimc.data import needed_inputs
from cimc.errors import CimcError
from cimc.image.image import Image
from cimc.image.reader import load_image
from cimc.ir.artifact import load
from cimc.ir.kinds import kind_of
from cimc.ir.program import Program

Source = Program | Image | str | Path


def opened_file(source: Source) -> Program | Image:
    """A program or an image, read where it is a file.

    Raises:
        CimcError: It is something else.
    """
    if isinstance(source, Program | Image):
        return source
    if not isinstance(source, str | Path):
        raise CimcError(f"a {type(source).__name__} is no program", where="evaluate", fix="give a program, an image, or a file")
    return load_image(source) if kind_of(source) == "image" else load(source)


def is_compiled(source: Any) -> bool:
    """Whether it is a compiled program or the file of one; else it is a model."""
    return isinstance(source, Program) or (
        isinstance(source, str | Path) and Path(source).is_file() and kind_of(source) == "program"
    )


def program_of(source: Program | Image) -> Program:
    """The program that the dice run."""
    return source.compiled if isinstance(source, Image) else source


def are_several(source: Any) -> bool:
    """Whether a source is a list of sources."""
    return isinstance(source, Sequence) and not isinstance(source, str | bytes)


def opened_files(sources: Sequence[Source]) -> dict[str, Program | Image]:
    """Programs or images by name: a file's path as it is given, ``program N`` (from 0) of what is no file.

    Raises:
        CimcError: There is none, one is given twice, one is something else, or they differ in inputs, preprocessing or the shape
            of the first output.
    """
    found: dict[str, Program | Image] = {}
    for number, source in enumerate(sources):
        name = str(source) if isinstance(source, str | Path) else f"program {number}"
        if name in found:
            raise CimcError("the file is given twice", where=name, fix="give each file once")
        found[name] = opened_file(source)
    check_alike(found)
    return found


def check_alike(sources: Mapping[str, Program | Image]) -> None:
    """Refuse programs that one set of data does not suit.

    Raises:
        CimcError: There is none, or they differ in inputs, preprocessing or the shape of the first output.
    """
    if not sources:
        raise CimcError("there is no program", where="evaluate", fix="give a program, an image, or a file")
    (first, *_), facts = sources, {name: _facts(program_of(source)) for name, source in sources.items()}
    for name, own in facts.items():
        for what, value in own.items():
            if value != facts[first][what]:
                raise CimcError(f"{what} differ from those of {first}", where=name, fix="evaluate it alone")


def _facts(program: Program) -> dict[str, Any]:
    output = program.outputs[0]
    return {
        "inputs": [(spec.name, spec.dtype, spec.shape) for spec in needed_inputs(program.inputs)],
        "preprocessing steps": program.preprocessing, "outputs": (output.dtype, output.shape),
    }  # fmt: skip
