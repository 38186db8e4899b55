"""What a page is made of: artefacts with sections, sections with figures and tables. No library draws anything here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.report.pictures import Picture

#: Rows of a table at most; what is left out is said.
MOST_ROWS = 1000

#: What a box of a drawing stands for; ``layer`` 0 to 7 are colours of layers.
Kind = Literal["analog", "digital", "folded", "array", "layer"]


@dataclass(frozen=True)
class Table:
    """Rows of cells: texts, numbers, None for what is not known."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def capped(self, most: int = MOST_ROWS) -> Table:
        """The first rows, and a note that says how many there are."""
        if len(self.rows) <= most:
            return self
        note = f"{self.note} The first {most} of {len(self.rows)} rows.".strip()
        return Table(self.caption, self.columns, self.rows[:most], note)


@dataclass(frozen=True)
class Box:
    """A rectangle of a drawing."""

    x: float
    y: float
    width: float
    height: float
    kind: Kind
    label: str = ""
    about: str = ""
    """What it stands for, in words."""
    colour: int = 0
    """Of a layer."""
    opens: str = ""
    """Name of the map that it opens."""


#: A curve from one box to another: start, two control points, end.
Link = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Drawing:
    """Boxes and the links between them; y grows downward."""

    title: str
    about: str
    width: float
    height: float
    boxes: Sequence[Box]
    links: Sequence[Link] = ()
    legend: Sequence[tuple[Kind, int, str]] = ()
    """Kind, colour of a layer, and what it stands for."""


@dataclass(frozen=True)
class Map:
    """Conductances of one array."""

    name: str
    """One of the page's own, for links."""
    title: str
    about: str
    g_us: NDArray[np.float32]
    """``[word lines, bit lines]``, µS; NaN where no device is in use."""


@dataclass(frozen=True)
class Section:
    """A part of an artefact under one heading."""

    title: str
    notes: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    maps: Sequence[Map] = ()


@dataclass(frozen=True)
class Artefact:
    """What one file or folder tells."""

    name: str
    kind: str
    """In words: compiled model, chip image, training run, …"""
    facts: Mapping[str, object]
    """Its figures by name with unit, for its head and for comparisons; None: not known."""
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    compared: Mapping[str, Any] = field(default_factory=dict)
    """By layer: conductances (µS) to be compared with those of other artefacts."""
