"""Many dice: box plots, yield, accuracy over time, and which field it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cimc.pages.distributions import boxes
from cimc.pages.parts import Artefact, Section, Table
from cimc.population.result import Population
from cimc.report.pictures import Line, Picture

#: Curves of a picture at most.
_CURVES = 8


def population_artefact(found: Population, name: str) -> Artefact:
    """A result of `cimc evaluate --chips` or `--sweep`."""
    first = found.quantiles()[0]
    facts: dict[str, object] = {
        "dice": len(found.seeds), "settings": len(found.settings), "times": len(found.times), "images": found.images or None,
        "accuracy of ONNX Runtime, %": None if np.isnan(found.reference) else 100 * found.reference,
        "median accuracy, %": 100 * first["median"], "lowest accuracy, %": 100 * first["min"],
        "highest accuracy, %": 100 * first["max"],
    }  # fmt: skip
    notes = ["Figures above are those of the first setting and time."] if found.accuracy[..., 0].size > 1 else []
    return Artefact(name, "accuracy of many dice", facts, [population_section(found)], notes)


def population_section(found: Population) -> Section:
    """All figures of a population."""
    names = [_words(settings) for settings in found.settings]
    timed = len(found.times) > 1
    rows = [
        (*row[:-1], *(100 * value for value in row[-1]))
        for row in [
            (name, time, np.quantile(found.accuracy[p, t], (0.5, 0.25, 0.75, 0.0, 1.0)).tolist())
            for p, name in enumerate(names)
            for t, time in enumerate(found.times)
        ]
    ]
    columns = ("setting", "time, s", "median, %", "lower quartile, %", "upper quartile, %", "lowest, %", "highest, %")
    pictures = [_boxes(found, names), _yields(found, names)]
    pictures += [_over_time(found, names)] if timed else []
    pictures += _by_field(found) if len(found.settings) > 1 else []
    return Section("Accuracy over dice", [], [], pictures, [Table("Accuracy by setting and time", columns, rows)])


def _words(settings: Mapping[str, Any]) -> str:
    """A setting in words; fields by the ends of their paths, where these differ."""
    short = [path.rpartition(".")[2] for path in settings]
    paths = short if len(set(short)) == len(short) else list(settings)
    return ", ".join(f"{path} = {value}" for path, value in zip(paths, settings.values(), strict=True)) or "as compiled"


def _boxes(found: Population, names: Sequence[str]) -> Picture:
    labels, values = [], []
    for p, name in enumerate(names):
        for t, time in enumerate(found.times):
            labels.append(f"{name}, {time:g} s" if len(found.times) > 1 else name)
            values.append(100 * found.accuracy[p, t])
    reference = "" if np.isnan(found.reference) else f" ONNX Runtime: {100 * found.reference:.2f} %."
    about = f"Lowest, quartiles and highest accuracy of {len(found.seeds)} dice.{reference}"
    return boxes("Accuracy over dice", "accuracy, %", about, labels, values)


def _yields(found: Population, names: Sequence[str]) -> Picture:
    """Share of dice that reach each accuracy."""
    lines = []
    for p, name in enumerate(names[:_CURVES]):
        values = np.sort(found.accuracy[p, 0])
        goals = np.unique(np.concatenate([values, values + 1e-9]))
        share = np.array([(values >= goal).mean() for goal in goals])
        lines.append(Line(name, 100 * goals, 100 * share))
    cut = f" The first {_CURVES} of {len(names)} settings." if len(names) > _CURVES else ""
    about = f"Share of the {len(found.seeds)} dice with at least an accuracy, at the first time.{cut}"
    return Picture("Yield", "accuracy that is asked for, %", "dice that reach it, %", lines, about)


def _over_time(found: Population, names: Sequence[str]) -> Picture:
    times, lines = np.array(found.times), []
    for p, name in enumerate(names[:_CURVES]):
        low, middle, high = 100 * np.quantile(found.accuracy[p], (0.0, 0.5, 1.0), axis=1)
        lines.append(Line(name, times, middle, low, high))
    cut = f" The first {_CURVES} of {len(names)} settings." if len(names) > _CURVES else ""
    about = f"Median over dice as the devices age, and the band from the lowest to the highest die.{cut}"
    return Picture("Accuracy over time", "time, s", "accuracy, %", lines, about, log_x=bool((times > 0).all()))


def _by_field(found: Population) -> list[Picture]:
    """The median accuracy over each field of the settings that is a number, with the correlation of their ranks."""
    pictures = []
    low, middle, high = 100 * np.quantile(found.accuracy[:, 0], (0.25, 0.5, 0.75), axis=1)
    for path, correlation in list(found.sensitivity().items())[:_CURVES]:
        x = np.array([settings[path] for settings in found.settings], np.float64)
        order = np.argsort(x, kind="stable")
        told = "" if correlation is None else f" Spearman's rank correlation: {correlation:+.2f}."
        about = f"Median over dice of each setting, from the lower to the upper quartile; other fields vary with it.{told}"
        line = Line("median of the dice", x[order], middle[order], low[order], high[order], points=True)
        pictures.append(Picture(f"Accuracy by {path}", path, "accuracy, %", [line], about))
    return pictures
