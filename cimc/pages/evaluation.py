"""One chip on data: the JSON of `cimc evaluate` without `--chips`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cimc.pages.measured import saturation, stats_table
from cimc.pages.parts import Artefact, Section, Table
from cimc.population.pictures import scale_of
from cimc.report.pictures import Line, Picture


def evaluation_artefact(found: Mapping[str, Any], name: str) -> Artefact:
    """An evaluation; KeyError, TypeError or ValueError where it is none."""
    metrics = dict(found.get("metrics") or {})
    facts: dict[str, object] = {"images": int(found["images"]), "seed": int(found["seed"])}
    scalars = {word: pair for word, pair in metrics.items() if isinstance(pair.get("chip"), int | float)}
    if "accuracy" not in scalars and found.get("accuracy") is not None:
        scalars["accuracy"] = {"chip": found["accuracy"], "reference": found["reference_accuracy"]}
    for word, pair in scalars.items():
        scale, unit = scale_of(word)
        facts[f"{word} on the chip{unit}"] = scale * float(pair["chip"])
        facts[f"{word} of ONNX Runtime{unit}"] = scale * float(pair["reference"])
    if isinstance(found.get("agreement"), int | float):
        facts["chip and ONNX Runtime agree, %"] = 100 * found["agreement"]
    tables = [stats_table(found["stats"])]
    if "per-class" in metrics:
        columns = ("class", "labels", "precision", "recall", "F1")
        rows = [
            (n, row["count"], row["precision"], row["recall"], row["f1"]) for n, row in enumerate(metrics["per-class"]["chip"])
        ]
        tables.append(Table("By class, on the chip", columns, rows))
    if "confusion" in metrics:
        counts = metrics["confusion"]["chip"]
        wrong = [
            (label, said, count) for label, row in enumerate(counts) for said, count in enumerate(row) if label != said and count
        ]
        wrong.sort(key=lambda one: -one[2])
        tables.append(Table("What the chip took for another class", ("label", "the chip said", "images"), wrong))
    pictures = [*_over_time(found), *saturation(found["stats"])]
    notes = tuple(map(str, found.get("notes", ())))
    return Artefact(name, "evaluation of one chip", facts, [Section("On the chip", [], [], pictures, tables)], notes)


def _over_time(found: Mapping[str, Any]) -> list[Picture]:
    """Accuracy as the devices age; none of one time, or of a regression."""
    rows = found.get("times") or []
    if len(rows) < 2 or any(row.get("accuracy") is None for row in rows):
        return []
    times = np.array([row["time_s"] for row in rows], np.float64)
    line = Line("chip", times, 100 * np.array([row["accuracy"] for row in rows], np.float64))
    about = "Share of the labels that the chip meets, as its devices age."
    return [Picture("Accuracy over time", "time, s", "accuracy, %", [line], about, log_x=bool((times > 0).all()))]
