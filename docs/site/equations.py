"""Equations as MathML, which browsers draw by themselves: no script and no font of another host."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

#: What the Markdown extension arithmatex leaves: \(...\) in a line, \[...\] on lines of its own.
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def mathml(page: str) -> str:
    """The HTML ``page`` with its TeX equations as MathML."""

    def one(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]).strip(), display="block" if found[2] == "[" else "inline")

    return _EQUATION.sub(one, page)
