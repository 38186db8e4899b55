"""List items as Python-Markdown wants them: what belongs to one is indented by four spaces, where GitHub takes two or three."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ITEM = re.compile(r"([-*]|\d+\.) +")


def widened(text: str) -> str:
    """The Markdown ``text`` with the lines that belong to list items indented by four spaces.

    An item that follows one of several paragraphs gets a blank line before it, without which it would be text of that item.
    """
    return "\n".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    more, fenced, blank, paragraphs = 0, False, False, False
    for line in text.split("\n"):
        if line.startswith("```"):
            fenced = not fenced
        if fenced:
            yield line
            continue
        if item := _ITEM.match(line):
            if paragraphs and not blank:
                yield ""
            more, paragraphs = max(4 - len(item[0]), 0), False
        elif line and not line.startswith(" "):
            more, paragraphs = 0, False
        elif line and more and blank:
            paragraphs = True
        blank = not line
        yield " " * more + line if line.startswith("  ") else line
