"""Pictures as figures of plotly.js: plain JSON, drawn by the page. Colours are ``@0`` to ``@7``, which the page gives a value.

Texts of plotly.js may hold tags, so names are escaped. Names along an axis are labels of whole numbers, as names that look like
numbers or dates, or that are equal when they are shortened, would be moved or merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.report.drawn import COLOURS, short
from cimc.report.pictures import Line, Picture

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-", "|")
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
#: Heights of a figure, pixels: of curves, of what surrounds rows, of one row.
_CURVES, _AROUND, _ROW = 320, 110, 26


def plotly_figure(picture: Picture) -> dict[str, Any]:
    """The figure as ``{"data": [...], "layout": {...}}``."""
    traces = [trace for number, line in enumerate(picture.lines) for trace in _line(line, number)]
    many = len(picture.bars) > 1
    for number, bars in enumerate(picture.bars):
        text = [escape(name, quote=False) for name in bars.names]
        pattern = {"shape": _PATTERNS[number % 8] if many else "", "solidity": 0.25, "fillmode": "overlay"}
        trace = {
            "type": "bar", "orientation": "h", "name": escape(bars.label, quote=False), "x": _numbers(bars.values),
            "y": list(range(len(bars.names))), "text": text, "textposition": "none",
            "hovertemplate": "%{text}: %{x:.4g}<extra></extra>" if bars.starts is None else "%{text}<extra></extra>",
            "marker": {"color": _colour(number), "pattern": pattern},
        }  # fmt: skip
        traces.append(trace if bars.starts is None else {**trace, "base": _numbers(bars.starts)})
    for number, boxes in enumerate(picture.boxes):
        columns = boxes.quantiles.T
        keys = ("lowerfence", "q1", "median", "q3", "upperfence")
        traces.append({
            "type": "box", "orientation": "h", "name": escape(boxes.label, quote=False), "y": list(range(len(boxes.names))),
            **{key: _numbers(values) for key, values in zip(keys, columns, strict=True)},
            "line": {"color": _colour(number), "width": 1.5}, "hoverinfo": "x", "boxpoints": False,
        })  # fmt: skip
    return {"data": traces, "layout": _layout(picture)}


def _layout(picture: Picture) -> dict[str, Any]:
    names = picture.names
    layout: dict[str, Any] = {
        "height": _AROUND + _ROW * max(len(names), 3) if names else _CURVES,
        "xaxis": {"title": {"text": escape(picture.x_label, quote=False)}, "type": "log" if picture.log_x else "linear"},
        "yaxis": {"title": {"text": escape(picture.y_label, quote=False)}},
        "barmode": "overlay" if any(bars.starts is not None for bars in picture.bars) else "relative",
        "boxmode": "group",
        "showlegend": sum(bool(line.label) for line in picture.lines) + len(picture.bars) + len(picture.boxes) > 1,
    }
    x = np.concatenate([line.x for line in picture.lines]) if picture.lines else np.zeros(0)
    if x.size and np.ptp(x) <= 20 and (x == np.rint(x)).all() and not picture.log_x:
        layout["xaxis"]["dtick"] = 1  # epochs, trials: no halves
    if names:
        labels = [escape(short(name, 24), quote=False) for name in names]
        layout["yaxis"] |= {"tickvals": list(range(len(names))), "ticktext": labels, "range": [len(names) - 0.4, -0.6]}
    return layout


def _line(line: Line, number: int) -> Iterable[dict[str, Any]]:
    colour, name = _colour(number), escape(line.label, quote=False)
    banded = line.low is not None and line.high is not None
    if banded and not line.points:
        assert line.low is not None
        assert line.high is not None
        around = {
            "x": _numbers(np.concatenate([line.x, line.x[::-1]])),
            "y": _numbers(np.concatenate([line.high, line.low[::-1]])),
        }
        yield {
            "type": "scatter", **around, "mode": "lines", "fill": "toself", "fillcolor": colour, "opacity": 0.2,
            "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
        }  # fmt: skip
    trace: dict[str, Any] = {
        "type": "scatter", "name": name, "x": _numbers(line.x), "y": _numbers(line.y),
        "mode": "markers" if line.points else "lines+markers" if line.x.size <= 24 else "lines",
        "line": {"color": colour, "width": 2, "dash": _DASHES[number % len(_DASHES)]},
        "marker": {"color": colour, "size": 7, "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
    }  # fmt: skip
    if line.points and banded:
        assert line.low is not None
        assert line.high is not None
        below, above = _numbers(line.y - line.low), _numbers(line.high - line.y)
        trace["error_y"] = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    yield trace


def _colour(number: int) -> str:
    return f"@{number % len(COLOURS)}"


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Six digits are enough for a figure; what is not finite is left out."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, np.float64).tolist()]
