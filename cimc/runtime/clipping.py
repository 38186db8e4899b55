"""Inputs that a DAC clips and reads that an ADC saturates: said where they are many enough to matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cimc.ir.program import Program

#: Share of a layer's inputs or conversions from which on they are said. LeNet on `bulk-rram`, calibrated on its data, has a tenth
#: of it at most; training chooses ranges anew from the same share on.
BOUND = 1e-3

_REMEDY = "compile with --calibration of data like these, or choose ranges on the chip (chip.calibrate)"


def clipping_notes(stats: Mapping[str, Mapping[str, Any]], program: Program) -> list[str]:
    """A note for each layer that clips or saturates more than `BOUND`, worst first.

    Args:
        stats: As `Chip.stats` gives them.
        program: What ran. Where a layer's full scale was chosen so that more inputs clip, twice that share is the bound.
    """
    found: list[tuple[float, str]] = []
    allowed = {layer.name: max(program.target.dac.clip_share, layer.coding.clip_share) for layer in program.layers}
    for name, counts in stats.items():
        for done, of, words, bound in (
            (
                "dac_clips",
                "dac_inputs",
                "of its inputs lie beyond the DAC's full scale and are clipped",
                2 * allowed.get(name, 0.0),
            ),
            ("adc_saturations", "adc_conversions", "of its reads saturate the ADC", 0.0),
        ):
            share = counts[done] / max(1, counts[of])
            if share > max(BOUND, bound):
                found.append((share, f"layer {name}: {100 * share:.2g} % {words}; {_REMEDY}"))
    return [text for _, text in sorted(found, reverse=True)]
