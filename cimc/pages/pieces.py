"""Tables, drawings and maps as HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from html import escape
from math import isfinite

import numpy as np

from cimc.pages.parts import Box, Drawing, Kind, Map, Table
from cimc.pages.png import palette, png, pooled
from cimc.report.pictures import Picture

#: Rows of the table beside a figure at most.
_MOST_VALUES = 200


def told(value: object) -> str:
    """A cell for people: four digits, a dash for what is not known."""
    if value is None or value != value:  # NaN is not known either
        return "–"
    if not isinstance(value, float):
        return str(value)
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def table_html(table: Table) -> str:
    """A table that sorts by each of its columns."""
    table = table.capped()
    numeric = [any(isinstance(row[n], int | float) for row in table.rows) for n in range(len(table.columns))]
    wide = [any(len(told(row[n])) > 40 for row in table.rows) for n in range(len(table.columns))]
    kinds = [" class=num" if right else " class=wide" if long else "" for right, long in zip(numeric, wide, strict=True)]
    heads = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(name) or "what"}</button></th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row, kinds))}</tr>" for row in table.rows)
    caption = escape(f"{table.caption}. {table.note}".strip() if table.note else table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.caption)}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(value: object, kind: str) -> str:
    number = isinstance(value, int | float) and isfinite(value)
    data = f' data-v="{float(value)!r}"' if number and isinstance(value, int | float) else ""
    return f"<td{data}{kind}>{escape(told(value))}</td>"


def values_table(picture: Picture) -> Table:
    """The figures of a picture, for who does not see it."""
    if picture.bars:
        columns = ["name", *(bars.label for bars in picture.bars)]
        series = [bars.values.tolist() for bars in picture.bars]
        if picture.bars[0].starts is not None:
            columns, series = ["name", "from", "length"], [picture.bars[0].starts.tolist(), *series]
        return Table(f"Values of: {picture.title}", columns, list(zip(picture.names, *series, strict=True)))
    if picture.boxes:
        columns = ["name", "series", "lowest", "lower quartile", "median", "upper quartile", "highest"]
        rows = [(name, b.label, *row) for b in picture.boxes for name, row in zip(b.names, b.quantiles.tolist(), strict=True)]
        return Table(f"Values of: {picture.title}", columns, rows)
    columns, points, note = ["series", picture.x_label or "x", picture.y_label or "y"], [], ""
    for line in picture.lines:
        each = max(1, -(-line.x.size * len(picture.lines) // _MOST_VALUES))
        note = f"Every {each}th point." if each > 1 else note
        points += [(line.label, x, y) for x, y in zip(line.x[::each].tolist(), line.y[::each].tolist(), strict=True)]
    return Table(f"Values of: {picture.title}", columns, points, note)


def drawing_html(drawing: Drawing, name: str) -> str:
    """A drawing as inline SVG. Boxes that open a map are links, which a keyboard reaches."""
    links = "".join(f'<path class="link" d="M{_at(a)}C{_at(b)} {_at(c)} {_at(d)}"/>' for a, b, c, d in drawing.links)
    boxes = "".join(map(_box, drawing.boxes))
    legend = "".join(
        f'<li><span class="swatch {_class(kind, colour)}"></span>{escape(text)}</li>' for kind, colour, text in drawing.legend
    )
    title = escape(drawing.title)
    size = f'viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" width="{drawing.width:.0f}" height="{drawing.height:.0f}"'
    legend = f"<ul class=legend>{legend}</ul>" if legend else ""
    role = "group" if any(box.opens for box in drawing.boxes) else "img"
    return (
        f'<figure><div class="scroll tall" tabindex="0" role="group" aria-label="{title}, drawing">'
        f'<svg {size} role="{role}" aria-label="{title}" aria-describedby="{name}">{links}{boxes}</svg></div>'
        f'<figcaption id="{name}">{escape(drawing.about)}</figcaption>{legend}</figure>'
    )


def _class(kind: Kind, colour: int) -> str:
    return f"layer l{colour}" if kind == "layer" else kind


def _at(point: tuple[float, float]) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _box(box: Box) -> str:
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    shape = f'<rect class="{_class(box.kind, box.colour)}" {place} rx="{6 if box.kind == "analog" else 0}"/>'
    lines = box.label.split("\n") if box.label else []
    inside = box.kind != "array"
    first = box.y + box.height / 2 - 4 if inside else box.y + max(box.height, 104.0) + 14
    badge = f"{box.kind[0].upper()} " if inside else ""
    x = box.x + box.width / 2 if inside else box.x
    where = f'<text aria-hidden="true" class="{"in" if inside else "below"}" x="{x:.1f}"'
    texts = "".join(
        f'{where} y="{first + 14 * k:.1f}">{escape(line if k else badge + line)}</text>' for k, line in enumerate(lines)
    )
    about = f"{box.about}. Show its conductances" if box.opens else box.about
    body = f"<title>{escape(about)}</title>{shape}{texts}"
    if box.opens:
        return f'<a href="#{escape(box.opens)}" data-opens>{body}</a>'
    return f"<g>{body}</g>"


def map_html(one: Map, ends: Callable[[Map], tuple[float, float]]) -> str:
    """A dialog with the map of one array; ``ends``: conductances of the darkest and the lightest colour."""
    low, high = ends(one)
    values, factor = pooled(one.g_us)
    down, across = values.shape
    name = escape(one.name)
    data = b64encode(png(values, low, high)).decode()
    about = one.about + (f" One pixel is the mean of {factor} × {factor} cells." if factor > 1 else "")
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in palette()[::8].tolist())
    return (
        f'<dialog id="{name}" aria-labelledby="{name}-t"><form method="dialog"><h4 id="{name}-t">'
        f'{escape(one.title)}: conductances, µS</h4><button aria-label="Close">Close</button></form>'
        f'<img loading="lazy" src="data:image/png;base64,{data}" alt="{escape(f"Conductances of {one.title}. {about}")}" '
        f'style="aspect-ratio:{across}/{down};width:max(min(100%,{across}px),min(100%,44rem,58vh*{across}/{down}))">'
        f'<div class="scale"><span>{low:.4g}</span>'
        f'<i style="background:linear-gradient(90deg,{stops})"></i><span>{high:.4g} µS</span></div>'
        f"<p>{escape(about)} Word lines run from the top, bit lines from the left.</p></dialog>"
    )


def span_of(one: Map) -> tuple[float, float]:
    """Lowest and highest conductance of a map."""
    known = one.g_us[~np.isnan(one.g_us)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
