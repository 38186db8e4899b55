"""How objects show themselves: a line in a console, a table in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


class Shown:
    """Gives a class ``__repr__`` and ``_repr_html_`` from `_facts` and `_rows`. The HTML is escaped and loads nothing."""

    def _facts(self) -> dict[str, object]:
        """What is shown of the object, by name; None is left out."""
        raise NotImplementedError

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        """Columns and rows below the facts in a notebook; empty: there is no table."""
        return (), ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_text(value)}' for name, value in self._known())})"

    def __str__(self) -> str:
        return repr(self)

    def _known(self) -> list[tuple[str, object]]:
        return [(name, value) for name, value in self._facts().items() if value is not None]

    def _repr_html_(self) -> str:
        """For notebooks."""
        facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in self._known())
        shown = f"<b>{escape(type(self).__name__)}</b><table>{facts}</table>"
        columns, rows = self._rows()
        if not rows:
            return shown
        head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(_text(cell))}</td>' for cell in row)}</tr>" for row in rows)
        return f"{shown}<table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    """A value in a few words: four digits, no more than 80 characters."""
    text = "–" if value is None else f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"
