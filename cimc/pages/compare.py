"""Two and more artefacts side by side."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.pages.parts import Artefact, Section, Table
from cimc.report.distributions import MOST_LAYERS, histograms
from cimc.report.pictures import Picture


def comparison(artefacts: Sequence[Artefact]) -> list[Section]:
    """A table of all figures, then conductances of the layers that artefacts share."""
    names = list(dict.fromkeys(name for one in artefacts for name in one.facts))
    rows: list[list[object]] = [["kind", *(one.kind for one in artefacts)]]
    rows += [[name, *(one.facts.get(name) for one in artefacts)] for name in names]
    rows = [row for row in rows if any(value is not None for value in row[1:])]
    columns = ["", *(one.name for one in artefacts)]
    changes = [_change(*row[1:]) for row in rows] if len(artefacts) == 2 else []
    if any(changes):
        columns.append("second to first")
        rows = [[*row, change] for row, change in zip(rows, changes, strict=True)]
    note = "A dash: the artefact has no such figure."
    shared = _shared(artefacts)
    devices = [Section("Devices side by side", [], [], shared)] if shared else []
    return [Section("Comparison", [], [], [], [Table("Figures side by side", columns, rows, note)]), *devices]


def _change(first: object, second: object) -> str | None:
    """How the second differs from the first, in words; None where that cannot be said."""
    numbers = [value for value in (first, second) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return None
    a, b = numbers
    if a == b:
        return "the same"
    return f"{b - a:+.4g}" if a <= 0 or b < 0 else f"{b - a:+.4g} ({100 * (b / a - 1):+.3g} %)"


def _shared(artefacts: Sequence[Artefact]) -> list[Picture]:
    """Conductances of each layer that two artefacts or more hold."""
    layers = list(dict.fromkeys(name for one in artefacts for name in one.compared))
    shared = [name for name in layers if sum(name in one.compared and one.compared[name].size > 0 for one in artefacts) > 1]
    cut = f" The first {MOST_LAYERS} of {len(shared)} layers." if len(shared) > MOST_LAYERS else ""
    return [
        histograms(
            f"Conductances of {name}", "conductance, µS", f"What the devices of the layer hold in each artefact.{cut}",
            {f"{number}. {one.name}": one.compared[name] for number, one in enumerate(artefacts, 1) if name in one.compared},
        )
        for name in shared[:MOST_LAYERS]
    ]  # fmt: skip
