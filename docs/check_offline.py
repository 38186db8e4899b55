"""Check that no page of the built site loads anything from another host: scripts, styles, fonts, images, frames."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

#: Attributes whose address a browser fetches by itself, by tag; links to follow by hand (a) are not among them.
_LOADS = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
#: Of a link element, relations that fetch nothing.
_NAMED_ONLY = {"canonical", "next", "prev", "alternate", "license", "author"}
_REMOTE = re.compile(r"(?:https?:)?//\w")
_CSS = re.compile(r"""(?:url\(\s*|@import\s*)["']?((?:https?:)?//\w[^"')\s]*)""")


class _Loads(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        self.found += _CSS.findall(values.get("style", ""))
        if tag == "link" and set(values.get("rel", "").split()) <= _NAMED_ONLY:
            return
        self.found += [values[name] for name in _LOADS.get(tag, ()) if _REMOTE.match(values.get(name, ""))]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += _CSS.findall(data)


def remote(file: Path) -> list[str]:
    """Addresses on other hosts that a HTML, SVG or CSS file loads."""
    text = file.read_text("utf-8", errors="replace")
    if file.suffix == ".css":
        return list(_CSS.findall(text))
    page = _Loads()
    page.feed(text)
    return page.found


def main() -> None:
    """Exit with 1 where a file of the folder given loads from another host."""
    files = [file for file in sorted(Path(sys.argv[1]).rglob("*")) if file.suffix in {".html", ".svg", ".css"}]
    problems = [f"{file}: loads {address}" for file in files for address in remote(file)]
    for line in problems:
        print(line)
    print(f"{len(files)} files, {len(problems)} loads from other hosts")
    sys.exit(bool(problems) or not files)


if __name__ == "__main__":
    main()
