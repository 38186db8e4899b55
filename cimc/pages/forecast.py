"""What a program is expected to lose, by layer and cause."""

from __future__ import annotations

import numpy as np

from cimc.ir.forecast import Forecast
from cimc.pages.parts import Section, Table
from cimc.report.pictures import Bars, Picture, shown


def forecast_section(forecast: Forecast) -> Section:
    """Error power over signal power of each layer, cause by cause."""
    names = [layer.layer for layer in forecast.layers]
    causes = list(forecast.by_cause_db())
    share = np.array(
        [
            [100 * 10 ** (-one.causes_db[cause] / 10) if cause in one.causes_db else 0.0 for one in forecast.layers]
            for cause in causes
        ]
    ).reshape(len(causes), len(names))
    kept, cut = shown(names, share.sum(axis=0), "layers")
    bars = [Bars(cause, [names[k] for k in kept], row[kept]) for cause, row in zip(causes, share, strict=True)]
    about = (
        "Expected error power of each layer's product over the power of its signal, by cause; causes add up as if they were "
        f"independent. {forecast.basis}.{cut}"
    )
    pictures = [Picture("Expected error by layer and cause", "error power, % of the signal", "", about=about, bars=bars)]
    rows = [(one.layer, one.sqnr_db, *(one.causes_db.get(cause) for cause in causes)) for one in forecast.layers]
    layers = Table("Forecast by layer: SQNR, dB, of all causes and of each alone", ("layer", "SQNR, dB", *causes), rows)
    outputs = Table(
        "Forecast of the outputs", ("output", "SQNR, dB", "decisions that change, %"),
        [(one.name, one.sqnr_db, None if one.changed_share is None else 100 * one.changed_share) for one in forecast.outputs],
    )  # fmt: skip
    notes = [*forecast.warnings(), *(f"The forecast leaves out {effect}." for effect in forecast.left_out)]
    return Section("Forecast", notes, [], pictures if causes and names else [], [outputs, layers])
