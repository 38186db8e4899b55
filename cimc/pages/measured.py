"""What a chip does on data: accuracy, reads, saturated conversions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cimc.data import load_labelled, one_input
from cimc.ir.program import Program
from cimc.pages.parts import Section, Table
from cimc.report.evaluate import evaluate
from cimc.report.pictures import Bars, Picture, shown

#: Images that are run; more say little more about saturation.
MOST_IMAGES = 1000

_COLUMNS = {
    "positions": "positions", "tile_reads": "reads of arrays", "adc_conversions": "conversions",
    "adc_saturations": "saturated", "dac_inputs": "inputs", "dac_clips": "clipped",
}  # fmt: skip


def measured_section(program: Program, data: Path, seed: int | None) -> tuple[Section, dict[str, object]]:
    """Accuracy on the chip and the counts of `Chip.stats`, on the first images of ``data``; and the facts of it.

    Raises:
        DataError: The data do not suit the model.
    """
    x, y = load_labelled(data, one_input(program.inputs, str(data), "leave --data out"), how=program.preprocessing)
    found = evaluate(program, x[:MOST_IMAGES], y[:MOST_IMAGES], seed=seed or 0)
    facts: dict[str, object] = {
        f"accuracy on the chip, {found.images} images, %": 100 * found.accuracy,
        "accuracy of ONNX Runtime on these, %": 100 * found.reference_accuracy,
    }
    note = f"{found.images} images of {data.name}, of {len(x)}."
    return Section("On the chip", [note, *found.notes], [], saturation(found.stats), [stats_table(found.stats)]), facts


def stats_table(stats: Mapping[str, Mapping[str, Any]]) -> Table:
    """Counts by layer."""
    rows = [(name, *(counts[key] for key in _COLUMNS)) for name, counts in stats.items()]
    return Table("Counts of the run, by layer", ("layer", *_COLUMNS.values()), rows)


def saturation(stats: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Shares of conversions that saturate and of inputs that clip, by layer; none where there is neither."""
    names, pictures = list(stats), []
    for label, part, whole, about in (
        ("saturated conversions", "adc_saturations", "adc_conversions", "Share of the conversions at an end of the ADC's range."),
        ("clipped inputs", "dac_clips", "dac_inputs", "Share of the inputs beyond the DAC's full scale."),
    ):
        share = np.array([100 * counts[part] / max(counts[whole], 1) for counts in stats.values()], np.float64)
        if share.any():
            kept, cut = shown(names, share, "layers")
            bars = [Bars(label, [names[k] for k in kept], share[kept])]
            pictures.append(Picture(f"{label.capitalize()} by layer", "share, %", "", about=about + cut, bars=bars))
    return pictures
