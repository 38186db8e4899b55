"""The figures of a page as files for papers: SVG and PNG, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cimc.errors import RunError
from cimc.files import check_folder, write_file
from cimc.pages.parts import Artefact, Box, Drawing, Map, Section
from cimc.report.drawn import COLOURS, Format, drawn, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMS: tuple[Format, ...] = ("svg", "png")
#: Pixels of a drawing to an inch, and the longest side, inches.
_PIXELS, _LONGEST = 90.0, 30.0
_FILLS = {
    "analog": ("#cfe6f5", "#0072b2"), "digital": ("#fbe3cf", "#b34700"), "folded": ("#eceff2", "#7a8794"),
    "array": ("#ffffff", "#51606f"),
}  # fmt: skip


def write_figures(folder: Path, artefacts: Sequence[Artefact], comparison: Sequence[Section]) -> list[Path]:
    """Write each figure of a page as ``ARTEFACT-SECTION-TITLE.svg`` and ``.png``.

    Args:
        folder: Made if it is not there.
        artefacts: Of the page.
        comparison: Of the page.

    Returns:
        The files, in the order of the page.

    Raises:
        RunError: The folder or a file cannot be written.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot be made: {error.strerror}", where=str(folder), fix="another --figures") from error
    written: list[Path] = []
    parts = [("comparison", section) for section in comparison]
    parts += [(one.name, section) for one in artefacts for section in one.sections]
    for artefact, section in parts:
        for title, figure in _figures(section):
            name = _free(f"{artefact}-{section.title}-{title}", written)
            for form in _FORMS:
                written.append(folder / f"{name}.{form}")
                write_file(written[-1], figure(form))
    return written


def _figures(section: Section) -> Iterator[tuple[str, Callable[[Format], bytes]]]:
    for drawing in section.drawings:
        yield drawing.title, partial(draw_drawing, drawing)
    for picture in section.pictures:
        yield picture.title, partial(drawn, picture)
    for one in section.maps:
        yield one.title, partial(draw_map, one)


def _free(text: str, written: Sequence[Path]) -> str:
    """A file name without its ending that no other figure has."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:120] or "figure"
    taken = {path.stem.lower() for path in written}
    name, count = base, 1
    while name.lower() in taken:
        count += 1
        name = f"{base}-{count}"
    return name


def draw_drawing(drawing: Drawing, form: Format) -> bytes:
    """Boxes and links as a file."""
    scale = min(1 / _PIXELS, _LONGEST / max(drawing.width, drawing.height, 1.0))

    def draw(figure: Figure) -> None:
        from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
        from matplotlib.path import Path as Curve

        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
        axes.axis("off")
        for link in drawing.links:
            axes.add_patch(PathPatch(Curve(list(link), [1, 4, 4, 4]), fill=False, edgecolor="#51606f", linewidth=90 * scale))
        for box in drawing.boxes:
            face, edge = _FILLS[box.kind] if box.kind != "layer" else (COLOURS[box.colour % len(COLOURS)], "white")
            style: Any = {
                "facecolor": face,
                "edgecolor": edge,
                "linewidth": 90 * scale,
                "linestyle": "--" if box.kind == "folded" else "-",
            }
            if box.kind == "analog":
                rounded = "round,pad=0,rounding_size=6"
                axes.add_patch(FancyBboxPatch((box.x, box.y), box.width, box.height, boxstyle=rounded, **style))
            else:
                axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, **style))
            _label(axes, box, 12 * 72 * scale)

    return saved(draw, (max(drawing.width * scale, 0.5), max(drawing.height * scale, 0.5)), form, constrained=False)


def _label(axes: Axes, box: Box, size: float) -> None:
    if box.label and box.kind == "array":
        axes.text(box.x, box.y + max(box.height, 104.0) + 6, box.label, fontsize=size, va="top", color="#51606f")
    elif box.label:
        where = (box.x + box.width / 2, box.y + box.height / 2)
        axes.text(*where, f"{box.kind[0].upper()} {box.label}", fontsize=size, ha="center", va="center")


def draw_map(one: Map, form: Format) -> bytes:
    """A map of conductances with its scale as a file; in an SVG the map itself is an image."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        shown = axes.imshow(np.ma.masked_invalid(one.g_us), cmap="viridis", interpolation="nearest")
        axes.set(title=f"{one.title}: conductances", xlabel="bit line", ylabel="word line")
        figure.colorbar(shown, label="conductance, µS")

    return saved(draw, (5.2, 4.4), form)
