"""Results over many dice."""

from __future__ import annotations

import numpy as np

from cimc.pages.parts import Artefact, Section, Table
from cimc.population.pictures import pictures_of_population, scale_of, words_of
from cimc.population.result import Population


def population_artefact(found: Population, name: str) -> Artefact:
    """A result of `cimc evaluate --chips` or `--sweep`."""
    pooled, (scale, unit) = found.pooled(), scale_of(found.metric)
    first = pooled.quantiles()[0]
    facts: dict[str, object] = {
        "files": len(found.files) or None, "dice": len(found.seeds), "settings": len(pooled.settings), "times": len(found.times),
        "images": found.images or None,
        f"{found.metric} of ONNX Runtime{unit}": None if np.isnan(found.reference) else scale * found.reference,
        f"median {found.metric}{unit}": scale * first["median"], f"lowest {found.metric}{unit}": scale * first["min"],
        f"highest {found.metric}{unit}": scale * first["max"],
    }  # fmt: skip
    of_all = ", over the dice of all files" if found.files else ""
    notes = [f"Figures above are those of the first setting and time{of_all}."] if found.accuracy[..., 0].size > 1 else []
    return Artefact(name, f"{found.metric} of many dice", facts, [population_section(found)], notes)


def population_section(found: Population) -> Section:
    """All figures of a population."""
    files = [list(found.file_of(p).values()) for p in range(len(found.settings))]
    names = [(*file, words_of(settings)) for file, settings in zip(files, found.settings, strict=True)]
    scale, unit = scale_of(found.metric)
    rows = [
        (*name, time, *(scale * np.quantile(found.accuracy[p, t], (0.5, 0.25, 0.75, 0.0, 1.0))).tolist())
        for p, name in enumerate(names)
        for t, time in enumerate(found.times)
    ]
    heads = ("median", "lower quartile", "upper quartile", "lowest", "highest")
    columns = (*found.file_of(0), "setting", "time, s", *(f"{head}{unit}" for head in heads))
    word = found.metric.capitalize()
    return Section(
        f"{word} over dice",
        [],
        [],
        pictures_of_population(found),
        [Table(f"{word} by {'file, ' if found.files else ''}setting and time", columns, rows)],
    )
