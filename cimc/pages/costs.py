"""What an image costs, by layer and component."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cimc.ir.cost import Cost
from cimc.ir.program import Program
from cimc.pages.parts import Section, Table
from cimc.report.pictures import Bars, Picture, shown

#: Fields of a layer's cost, with the heads of their columns.
_COLUMNS = {
    "name": "layer", "rows": "word lines", "columns": "bit lines", "groups": "groups", "crossbars": "crossbars",
    "copies": "copies", "devices": "devices", "ops": "operations", "tile_ops": "tile operations", "latency_ms": "latency, ms",
    "latency_copies_ms": "with copies, ms", "energy_mj": "energy, mJ", "utilisation": "cells used, %",
}  # fmt: skip


def cost_section(program: Program) -> Section:
    """Energy and latency by layer, and what the parts of the chip take."""
    cost = program.cost()
    found = [
        _by_layer(cost, field, title) for field, title in (("energy_mj", "Energy, mJ"), ("latency_copies_ms", "Latency, ms"))
    ]
    pictures = [picture for picture in found if picture is not None]
    told = {field: label for field, label in _COLUMNS.items() if field not in _of_many(cost)}
    rows = [
        [100 * value if field == "utilisation" and value is not None else value for field, value in _fields(layer, told)]
        for layer in cost.layers
    ]
    layers = Table("Cost of one image, by layer", list(told.values()), rows, "A dash: not known or not modelled.")
    latency = {"placed": "as placed", "copies": "idealised, with copies", "pipelined": "idealised, pipelined"}
    latency["sequential"] = "idealised, layer by layer"
    energy = {
        "analog": "reads of the arrays, converters included",
        "digital": "digital work",
        "programming": "writing all cells once",
    }
    parts: list[tuple[str, object]] = [(f"energy of {text}, mJ", getattr(cost.energy_mj, name)) for name, text in energy.items()]
    parts += [(f"latency {text}, ms", getattr(cost.latency_ms, name)) for name, text in latency.items()]
    counts = {"flops": "floating-point operations", "ops": "operations", "tile_ops": "tile operations"}
    parts += [(text, getattr(cost, name)) for name, text in counts.items()]
    return Section(
        "Cost", list(cost.notes), [], pictures, [layers, Table("Cost of one image, by component", ("", "value"), parts)]
    )


def _of_many(cost: Cost) -> set[str]:
    """Columns that say nothing here: of groups or copies where each layer has one."""
    empty = set() if any(layer.groups > 1 for layer in cost.layers) else {"groups"}
    return empty if any(layer.copies > 1 for layer in cost.layers) else empty | {"copies", "latency_copies_ms"}


def _fields(layer: object, fields: Iterable[str]) -> list[tuple[str, Any]]:
    return [(field, getattr(layer, field)) for field in fields]


def _by_layer(cost: Cost, field: str, label: str) -> Picture | None:
    """A bar for each layer; None where the figure of one is not known, or there is no layer."""
    values = [getattr(layer, field) for layer in cost.layers]
    if not values or any(value is None for value in values):
        return None
    names, lengths = [layer.name for layer in cost.layers], np.array(values, np.float64)
    kept, cut = shown(names, lengths, "layers")
    word = label.partition(",")[0]
    about = f"{word} of one image by layer, {lengths.sum():.4g} {label.rpartition(' ')[2]} in all.{cut}"
    return Picture(f"{word} by layer", label, "", about=about, bars=[Bars(word, [names[k] for k in kept], lengths[kept])])
