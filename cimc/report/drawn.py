"""Pictures drawn by matplotlib, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cimc.errors import CimcError
from cimc.report.pictures import Boxes, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

#: Colours that people with a colour vision deficiency tell apart: M. Okabe and K. Ito, Color Universal Design (2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
#: Curves differ by their dashes too.
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 4)))
#: Bars of one series differ from those of the next in their hatching too.
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--", "oo")

Format = Literal["svg", "png"]
#: Of a figure, inches.
_WIDTH = 5.2


def drawn(picture: Picture, form: Format = "svg", salt: str = "cimc") -> bytes:
    """A picture as a file.

    Args:
        picture: What it shows.
        form: Of the file.
        salt: Identifiers in an SVG differ from those of another salt.

    Returns:
        The same bytes for the same arguments and versions of the libraries.
    """
    return saved(lambda figure: _draw(figure, picture), (_WIDTH, _height(picture)), form, salt)


def figure_of(pictures: Sequence[Picture]) -> Figure:
    """Pictures one below the other, as a figure of matplotlib that notebooks show.

    Raises:
        CimcError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise CimcError("pictures need the package matplotlib", where="plot", fix="pip install 'cimc[report]'")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            out = BytesIO()
            self.savefig(out, format="png", dpi=100)
            return out.getvalue()

    heights = [_height(picture) for picture in pictures]
    with rc_context(_style("cimc")):
        figure = NotebookFigure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(pictures), 1, squeeze=False, height_ratios=heights)
        for part, picture in zip(parts.flat, pictures, strict=True):
            _draw(part, picture)
    return figure


def saved(
    draw: Callable[[Figure], None], size: tuple[float, float], form: Format, salt: str = "cimc", *, constrained: bool = True
) -> bytes:
    """What ``draw`` puts on a figure of ``size`` inches, as a file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_style(salt)):
        figure = Figure(figsize=size, layout="constrained" if constrained else None)
        draw(figure)
        out = BytesIO()
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, metadata=metadata, dpi=200)
    return out.getvalue()


def _style(salt: str) -> Any:
    from cycler import cycler

    return {
        "svg.hashsalt": salt, "svg.fonttype": "none", "font.size": 9, "text.parse_math": False,
        "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES), "hatch.linewidth": 0.6,
    }  # fmt: skip


def _height(picture: Picture) -> float:
    """Inches."""
    return max(3.4, 1.2 + 0.22 * len(picture.names))


def short(name: str, most: int = 36) -> str:
    """A long name without its middle, for a figure."""
    text = " ".join(name.split())
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def _draw(figure: FigureBase, picture: Picture) -> None:
    axes = figure.subplots()
    for line in picture.lines:
        if line.points:
            below_above = None if line.low is None or line.high is None else [line.y - line.low, line.high - line.y]
            axes.errorbar(line.x, line.y, below_above, fmt="o", markersize=3, capsize=2, label=line.label)
            continue
        (curve,) = axes.plot(line.x, line.y, label=line.label)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, alpha=0.2, color=curve.get_color(), linewidth=0)
    _bars(axes, picture)
    _boxes(axes, picture.boxes)
    if picture.names:
        axes.set_yticks(range(len(picture.names)), [short(name) for name in picture.names])
        axes.set_ylim(len(picture.names) - 0.4, -0.6)
    axes.set(title=picture.title, xlabel=picture.x_label, ylabel=picture.y_label)
    if picture.log_x:
        axes.set_xscale("log")
    if len(picture.lines) + len(picture.bars) + len(picture.boxes) > 1:
        figure.legend(loc="outside lower center", ncols=3) if picture.names else axes.legend()
    axes.grid(alpha=0.3)


def _bars(axes: Axes, picture: Picture) -> None:
    ends = [np.zeros(len(picture.names)), np.zeros(len(picture.names))]  # of lengths from 0 up, and below 0
    for number, series in enumerate(picture.bars):
        below = series.values < 0
        start = np.where(below, ends[1], ends[0]) if series.starts is None else series.starts
        hatch = HATCHES[number % len(HATCHES)] if len(picture.bars) > 1 else ""
        at = np.arange(len(series.names))
        axes.barh(at, series.values, 0.7, left=start, label=series.label, hatch=hatch, edgecolor="white", linewidth=0)
        ends = [ends[0] + np.where(below, 0, series.values), ends[1] + np.where(below, series.values, 0)]


def _boxes(axes: Axes, series: Sequence[Boxes]) -> None:
    width = 0.7 / max(len(series), 1)
    for number, boxes in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * width
        keys = ("whislo", "q1", "med", "q3", "whishi")
        stats = [dict(zip(keys, map(float, row), strict=True)) for row in boxes.quantiles]
        colour = COLOURS[number % len(COLOURS)]
        drawn_boxes = axes.bxp(
            stats, positions=[k + offset for k in range(len(stats))], widths=0.8 * width, orientation="horizontal",
            showfliers=False, patch_artist=True, manage_ticks=False, boxprops={"facecolor": colour, "alpha": 0.5},
            medianprops={"color": "black"},
        )  # fmt: skip
        if drawn_boxes["boxes"]:
            drawn_boxes["boxes"][0].set_label(boxes.label)
