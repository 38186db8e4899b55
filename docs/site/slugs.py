"""Anchors of headings as GitHub makes them, so that a link works in both places."""

from __future__ import annotations

import re


def github(title: str, separator: str = "-") -> str:
    """The anchor of a heading: words in lower case, joined by ``separator``; the same as in docs/check_links.py."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", separator)
