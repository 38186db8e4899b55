"""Artefacts as one HTML page that needs no network: plotly.js, figures, style and script are all inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from cimc.errors import RunError
from cimc.pages.parts import Artefact, Section
from cimc.pages.pieces import drawing_html, map_html, span_of, table_html, told, values_table
from cimc.pages.plotly_form import plotly_figure
from cimc.report.pictures import Picture

#: A browser that keeps this policy asks no host for anything.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
#: Facts in the head of an artefact at most; all are in comparisons.
_FACTS = 14
#: Notes of an artefact that are shown at once.
_NOTES = 5
#: Width of a drawing, pixels, below which a table stands beside it where the screen is wide.
_NARROW = 340


def need_plotly() -> None:
    """Refuse a page before the work begins, where it cannot be made.

    Raises:
        RunError: plotly or matplotlib is not installed.
    """
    missing = [name for name in ("plotly", "matplotlib") if find_spec(name) is None]
    if missing:
        raise RunError(f"a report needs the package {' and '.join(missing)}", fix="pip install 'cimc[report]'")


def page(title: str, artefacts: Sequence[Artefact], comparison: Sequence[Section] = ()) -> str:
    """The page.

    Args:
        title: Its heading.
        artefacts: In order.
        comparison: What stands before them, of two and more.

    Returns:
        HTML, the same text for the same arguments and version of plotly.

    Raises:
        RunError: plotly is not installed.
    """
    need_plotly()
    figures: list[dict[str, Any]] = []
    body: list[str] = []
    links: list[tuple[str, str, list[tuple[str, str]]]] = []
    for number, section in enumerate(comparison):
        inner = _section(section, f"c{number}", figures)
        body.append(f'<section id="c{number}"><h2>{escape(section.title)}</h2>{inner}</section>')
        links.append((f"c{number}", section.title, []))
    for number, artefact in enumerate(artefacts):
        name = f"a{number}"
        parts = [(f"{name}-{k}", section) for k, section in enumerate(artefact.sections)]
        inner = "".join(
            f'<section id="{key}"><h3>{escape(section.title)}</h3>{_section(section, key, figures)}</section>'
            for key, section in parts
        )
        body.append(f'<section id="{name}">{_head(artefact)}{inner}</section>')
        links.append((name, artefact.name, [(key, section.title) for key, section in parts]))
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    scripts = f"<script>{_plotly()}</script>" if figures else ""
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_own("page.css")}</style></head><body>',
        '<a class="skip" href="#main">Skip to the content</a>',
        f'<header><h1>{escape(title)}</h1></header><nav aria-label="Parts of the report">{_links(links)}</nav>',
        f'<main id="main" tabindex="-1">{"".join(body)}</main>',
        f'<script type="application/json" id="figures">{data}</script>{scripts}<script>{_own("page.js")}</script></body></html>',
        "",
    ])  # fmt: skip


def _head(artefact: Artefact) -> str:
    facts = [(name, value) for name, value in artefact.facts.items() if value is not None][:_FACTS]
    tiles = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(told(value))}</dd></div>" for name, value in facts)
    notes = "".join(f"<li>{escape(text)}</li>" for text in artefact.notes)
    shown = " open" if len(artefact.notes) <= _NOTES else ""
    told_notes = (
        f'<details class="notes"{shown}><summary>Notes ({len(artefact.notes)})</summary><ul>{notes}</ul></details>'
        if notes
        else ""
    )
    return (
        f'<h2>{escape(artefact.name)}</h2><p class="kind">{escape(artefact.kind)}</p><dl class="facts">{tiles}</dl>{told_notes}'
    )


def _section(section: Section, key: str, figures: list[dict[str, Any]]) -> str:
    found = [f"<p>{escape(text)}</p>" for text in section.notes]
    tables = [table_html(table) for table in section.tables]
    drawings = [drawing_html(drawing, f"{key}-d{k}") for k, drawing in enumerate(section.drawings)]
    if drawings and tables and section.drawings[0].width < _NARROW:
        drawings[0] = f'<div class="side">{drawings[0]}{tables.pop(0)}</div>'
    found += drawings
    found += [_picture(picture, f"{key}-p{k}", figures) for k, picture in enumerate(section.pictures)]
    found += tables
    found += [map_html(one, span_of) for one in section.maps]
    return "".join(found)


def _picture(picture: Picture, name: str, figures: list[dict[str, Any]]) -> str:
    figures.append({"at": name, **plotly_figure(picture)})
    height = figures[-1]["layout"]["height"]
    table = table_html(values_table(picture))
    return (
        f'<figure><h4>{escape(picture.title)}</h4><div class="plot" id="{name}" role="img" style="height:{height}px" '
        f'aria-label="{escape(picture.title)}: chart" aria-describedby="{name}-t"></div><figcaption id="{name}-t">'
        f"{escape(picture.about)}</figcaption><details><summary>Values of this figure</summary>{table}</details></figure>"
    )


def _links(links: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    def one(key: str, text: str) -> str:
        return f'<a href="#{key}">{escape(text)}</a>'

    items = (
        f"<li>{one(key, text)}<ul>{''.join(f'<li>{one(*part)}</li>' for part in parts)}</ul></li>" for key, text, parts in links
    )
    return f"<ul>{''.join(items)}</ul>"


def _own(name: str) -> str:
    return files("cimc.pages").joinpath(name).read_text("utf-8")


def _plotly() -> str:
    """plotly.js, safe within a script element."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")
