"""Pictures as one HTML file that needs nothing else: no network, no script. matplotlib draws them as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.util import find_spec

from cimc.errors import RunError
from cimc.report.drawn import drawn
from cimc.report.pictures import Picture

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222;background:#fff}
figure{display:inline-block;width:520px;max-width:100%;margin:0 1em 1.5em 0;vertical-align:top}svg{width:100%;height:auto}
figcaption{font-size:13px;color:#555}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;
border-bottom:1px solid #ddd}h1{font-size:1.5em}"""


def need_plots() -> None:
    """Refuse pictures before the work begins, where they cannot be drawn.

    Raises:
        RunError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise RunError("pictures need the package matplotlib", fix="pip install 'cimc[report]'")


def html_page(
    title: str,
    pictures: Sequence[Picture],
    notes: Sequence[str] = (),
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None,
) -> str:
    """A page of pictures.

    Args:
        title: Its heading.
        pictures: In this order.
        notes: A paragraph each, above the pictures.
        table: Names of columns, and rows, below them.

    Returns:
        HTML, the same text for the same arguments and versions of the libraries.

    Raises:
        RunError: matplotlib is not installed.
    """
    need_plots()
    figures = [
        f"<figure>{_svg(picture, number)}<figcaption>{escape(picture.about)}</figcaption></figure>"
        for number, picture in enumerate(pictures)
    ]
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(text)}</p>" for text in notes), *figures]
    if table is not None:
        columns, rows = table
        names = "".join(f"<th>{escape(name)}</th>" for name in columns)
        cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
        body.append(f"<table><tr>{names}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>\n"])


def _svg(picture: Picture, number: int) -> str:
    """One picture; names inside of it differ from those of the other numbers."""
    text = drawn(picture, "svg", f"cimc{number}").decode()
    return text[text.index("<svg") :]
