"""Where a chip loses, why, and what would help: the JSON of `cimc explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cimc.pages.parts import Artefact, Section, Table
from cimc.report.pictures import Bars, Picture, shown


def budget_artefact(found: Mapping[str, Any], name: str) -> Artefact:
    """An error budget; KeyError, TypeError or ValueError where it is none."""
    total = found["total"]
    facts = {
        "samples": total["images"], "accuracy on the chip, %": _percent(total["accuracy"]),
        "accuracy of ONNX Runtime, %": _percent(total["reference_accuracy"]),
        "accuracy lost, points": _percent(total["accuracy_lost"]), "SQNR of the output, dB": total["sqnr_db"],
    }  # fmt: skip
    notes = tuple(str(text) for text in found.get("notes", ()))
    return Artefact(name, "error budget", facts, [budget_section(found)], notes)


def budget_section(found: Mapping[str, Any]) -> Section:
    """Error shares by layer and cause, accuracy by cause, levers."""
    rows, causes, levers = found["rows"], found["causes"], found["levers"]
    pictures = [_shares(rows)] if rows else []
    labelled = [one for one in causes if one["accuracy_lost"] is not None]
    if labelled:
        lost = np.array([100 * one["accuracy_lost"] for one in labelled])
        about = "Accuracy that each cause costs, of all layers together; the table has standard errors."
        names = [str(one["cause"]) for one in labelled]
        pictures.append(Picture("Accuracy lost by cause", "points", "", about=about, bars=[Bars("accuracy lost", names, lost)]))
    if levers:
        gain = np.array([float(one["gained_db"]) for one in levers])
        names = [str(one["what"]) for one in levers]
        kept, cut = shown(names, gain, "levers")
        about = f"What each change would add to the SQNR of the output.{cut}"
        bars = [Bars("SQNR gained", [names[k] for k in kept], gain[kept])]
        pictures.append(Picture("What would help", "SQNR gained, dB", "", about=about, bars=bars))
    columns = ("layer", "cause", "error share, %", "alone, dB", "accuracy lost, points", "standard error, points")
    cells = [
        (one["layer"] or "all layers", one["cause"], _percent(one["error_share"]), one["sqnr_db"], _percent(one["accuracy_lost"]),
         _percent(one["standard_error"]))
        for one in (*causes, *rows)
    ]  # fmt: skip
    helps = [
        (one["what"], one["kind"], _percent(one["brings"]) if labelled else one["brings"], one["gained_db"]) for one in levers
    ]
    tables = [
        Table("Error budget, of all layers and by layer", columns, cells),
        Table("Levers", ("what", "kind", "accuracy, points" if labelled else "SQNR, dB", "SQNR gained, dB"), helps),
    ]
    return Section("Error budget", [], [], pictures, tables)


def _shares(rows: Sequence[Mapping[str, Any]]) -> Picture:
    layers = list(dict.fromkeys(str(one["layer"]) for one in rows))
    causes = list(dict.fromkeys(str(one["cause"]) for one in rows))
    share = np.zeros((len(causes), len(layers)))
    for one in rows:
        share[causes.index(str(one["cause"])), layers.index(str(one["layer"]))] += 100 * float(one["error_share"])
    kept, cut = shown(layers, share.sum(axis=0), "layers")
    bars = [Bars(cause, [layers[k] for k in kept], row[kept]) for cause, row in zip(causes, share, strict=True)]
    about = f"Part of the error power of the output that each layer and cause makes; below 0, it lowers what others make.{cut}"
    return Picture("Error by layer and cause", "share of the error power, %", "", about=about, bars=bars)


def _percent(share: Any) -> float | None:
    return None if share is None else 100 * float(share)
