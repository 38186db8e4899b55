"""A drawing as SVG text: shapes with a few classes, whose colours follow the light or dark mode of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

#: Class -> its colours in light mode and in dark mode.
_LIGHT = """
.paper{fill:#fff}.text{fill:#1b1f24}.quiet{fill:#57606a}.line{stroke:#57606a}.strong{stroke:#1b1f24}
.box{fill:#f3f5f8;stroke:#57606a}.analog{fill:#d7e7f5;stroke:#0072b2}.digital{fill:#fbe6cf;stroke:#b35c00}
.store{fill:#d8efe5;stroke:#007a59}.hot{stroke:#b35c00}.cold{stroke:#0072b2}.green{stroke:#007a59}
.hotfill{fill:#d55e00}.coldfill{fill:#0072b2}.greenfill{fill:#009e73}.none{fill:none}.band{fill:#009e73;fill-opacity:.18}
"""
_DARK = """
.paper{fill:#1e2129}.text{fill:#e6e9ef}.quiet{fill:#a9b1bd}.line{stroke:#a9b1bd}.strong{stroke:#e6e9ef}
.box{fill:#2a2f3a;stroke:#a9b1bd}.analog{fill:#12354d;stroke:#56b4e9}.digital{fill:#4a300f;stroke:#e69f00}
.store{fill:#0d3b2e;stroke:#3fc79a}.hot{stroke:#e69f00}.cold{stroke:#56b4e9}.green{stroke:#3fc79a}
.hotfill{fill:#e69f00}.coldfill{fill:#56b4e9}.greenfill{fill:#3fc79a}
"""
_FONT = "text{font:14px system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}.small{font-size:12px}.head{font-weight:600}"


class Drawing:
    """``width`` by ``height`` pixels; ``title`` says what it shows, for those who do not see it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, w: float, h: float, kind: str = "box", radius: float = 6) -> None:
        """A rectangle whose upper left corner is at x, y."""
        self._parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}"/>')

    def circle(self, x: float, y: float, r: float, kind: str) -> None:
        """A disc around x, y."""
        self._parts.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{r:g}"/>')

    def line(self, points: Sequence[tuple[float, float]], kind: str = "line", width: float = 1.5, dash: str = "") -> None:
        """A line through ``points``; ``dash`` as SVG has it."""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<polyline class="none {kind}" points="{way}" stroke-width="{width:g}"{extra}/>')

    def arrow(self, points: Sequence[tuple[float, float]], kind: str = "line", width: float = 1.5, dash: str = "") -> None:
        """A line with a head at its last point, which is reached level or upright."""
        self.line(points, kind, width, dash)
        (x0, y0), (x, y) = points[-2:]
        length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1e-9)
        ux, uy = (x - x0) / length, (y - y0) / length
        self.line([(x - 8 * ux - 4 * uy, y - 8 * uy + 4 * ux), (x, y), (x - 8 * ux + 4 * uy, y - 8 * uy - 4 * ux)], kind, width)

    def text(self, x: float, y: float, words: str, kind: str = "text", anchor: str = "middle") -> None:
        """A line of text whose base is at y; ``anchor``: start, middle or end."""
        self._parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')

    def labelled(self, x: float, y: float, w: float, h: float, kind: str, lines: Sequence[str]) -> None:
        """A rectangle with lines of text in its middle, the first one a heading."""
        self.rect(x, y, w, h, kind)
        base = y + h / 2 + 5 - 9 * (len(lines) - 1)
        for number, words in enumerate(lines):
            self.text(x + w / 2, base + 18 * number, words, "text head" if number == 0 else "quiet small")

    def __str__(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
            f' height="{self.height}" role="img" aria-label="{escape(self.title)}">\n<title>{escape(self.title)}</title>\n'
        )
        style = f"<style>{_FONT}{_LIGHT}@media(prefers-color-scheme:dark){{{_DARK}}}</style>\n".replace("\n.", ".")
        paper = f'<rect class="paper" width="{self.width}" height="{self.height}" rx="8"/>\n'
        return head + style + paper + "\n".join(self._parts) + "\n</svg>\n"
