"""Pictures of many dice: box plots, yield, accuracy or another metric over time, and which field it follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cimc.report.distributions import boxes
from cimc.report.metrics import LOWER_IS_BETTER, SHARES
from cimc.report.pictures import Line, Picture

if TYPE_CHECKING:
    from cimc.population.result import Population

#: Curves of a picture at most.
_CURVES = 8


def pictures_of_population(found: Population) -> list[Picture]:
    """Box plots and yield; over time and by field where there are several times and settings; box plots by file."""
    if found.files:
        names = [f"{found.file_of(p)['file']}: {words_of(settings)}" for p, settings in enumerate(found.settings)]
        by_file = replace(_boxes(found, names), title=f"{found.metric.capitalize()} over dice, by file")
        placed = [_over_radius(found, names)] if found.wafer is not None and found.wafer.x_mm else []
        return [*pictures_of_population(found.pooled()), by_file, *placed]
    names = [words_of(settings) for settings in found.settings]
    pictures = [_boxes(found, names), _yields(found, names)]
    pictures += [_over_time(found, names)] if len(found.times) > 1 else []
    pictures += [_over_radius(found, names)] if found.wafer is not None and found.wafer.x_mm else []
    return pictures + (_by_field(found) if len(found.settings) > 1 else [])


def scale_of(metric: str) -> tuple[float, str]:
    """What a metric's values are multiplied by for people, and the unit behind its name: shares become percent."""
    return (100.0, ", %") if metric in SHARES else (1.0, "")


def words_of(settings: Mapping[str, Any]) -> str:
    """A setting in words; fields by the ends of their paths, where these differ."""
    short = [path.rpartition(".")[2] for path in settings]
    paths = short if len(set(short)) == len(short) else list(settings)
    return ", ".join(f"{path} = {value}" for path, value in zip(paths, settings.values(), strict=True)) or "as compiled"


def _boxes(found: Population, names: Sequence[str]) -> Picture:
    labels, values = [], []
    scale, unit = scale_of(found.metric)
    for p, name in enumerate(names):
        for t, time in enumerate(found.times):
            labels.append(f"{name}, {time:g} s" if len(found.times) > 1 else name)
            values.append(scale * found.accuracy[p, t])
    reference = "" if np.isnan(found.reference) else f" ONNX Runtime: {scale * found.reference:.4g}."
    about = f"Lowest, quartiles and highest {found.metric} of {len(found.seeds)} dice.{reference}"
    return boxes(f"{found.metric.capitalize()} over dice", f"{found.metric}{unit}", about, labels, values)


def _yields(found: Population, names: Sequence[str]) -> Picture:
    """Share of dice that reach each value: steps at the values of the dice."""
    lines, (scale, unit) = [], scale_of(found.metric)
    lower = found.metric in LOWER_IS_BETTER
    for p, name in enumerate(names[:_CURVES]):
        values = np.unique(found.accuracy[p, 0])
        goals = np.repeat(values, 2)
        reached = [(found.accuracy[p, 0] <= goal if lower else found.accuracy[p, 0] >= goal).mean() for goal in values]
        beyond = [(found.accuracy[p, 0] < goal if lower else found.accuracy[p, 0] > goal).mean() for goal in values]
        pairs = zip(beyond, reached, strict=True) if lower else zip(reached, beyond, strict=True)
        lines.append(Line(name, scale * goals, 100 * np.array([share for pair in pairs for share in pair])))
    cut = f" The first {_CURVES} of {len(names)} settings." if len(names) > _CURVES else ""
    about = f"Share of the {len(found.seeds)} dice that are at {'most' if lower else 'least'} as asked, at the first time.{cut}"
    return Picture("Yield", f"{found.metric} that is asked for{unit}", "dice that reach it, %", lines, about)


def _over_time(found: Population, names: Sequence[str]) -> Picture:
    times, lines, (scale, unit) = np.array(found.times), [], scale_of(found.metric)
    for p, name in enumerate(names[:_CURVES]):
        low, middle, high = scale * np.quantile(found.accuracy[p], (0.0, 0.5, 1.0), axis=1)
        lines.append(Line(name, times, middle, low, high))
    cut = f" The first {_CURVES} of {len(names)} settings." if len(names) > _CURVES else ""
    about = f"Median over dice as the devices age, and the band from the lowest to the highest die.{cut}"
    title = f"{found.metric.capitalize()} over time"
    return Picture(title, "time, s", f"{found.metric}{unit}", lines, about, log_x=bool((times > 0).all()))


def _over_radius(found: Population, names: Sequence[str]) -> Picture:
    """Each die at its distance from the middle of the wafer, at the first time."""
    assert found.wafer is not None
    radius, (scale, unit) = np.array(found.wafer.columns()["radius_mm"]), scale_of(found.metric)
    lines = [Line(name, radius, scale * found.accuracy[p, 0], points=True) for p, name in enumerate(names[:_CURVES])]
    correlation = found.over_wafer()["radius_mm"]
    told = "" if correlation is None else f" Spearman's rank correlation at the first setting: {correlation:+.2f}."
    cut = f" The first {_CURVES} of {len(names)} settings." if len(names) > _CURVES else ""
    about = f"Each die at its distance from the middle of the wafer, at the first time.{cut}{told}"
    title = f"{found.metric.capitalize()} over the wafer"
    return Picture(title, "radius, mm", f"{found.metric}{unit}", lines, about)


def _by_field(found: Population) -> list[Picture]:
    """The median over each field of the settings that is a number, with the correlation of their ranks."""
    pictures, (scale, unit) = [], scale_of(found.metric)
    low, middle, high = scale * np.quantile(found.accuracy[:, 0], (0.25, 0.5, 0.75), axis=1)
    for path, correlation in list(found.sensitivity().items())[:_CURVES]:
        x = np.array([settings[path] for settings in found.settings], np.float64)
        order = np.argsort(x, kind="stable")
        told = "" if correlation is None else f" Spearman's rank correlation: {correlation:+.2f}."
        about = f"Median over dice of each setting, from the lower to the upper quartile; other fields vary with it.{told}"
        line = Line("median of the dice", x[order], middle[order], low[order], high[order], points=True)
        pictures.append(Picture(f"{found.metric.capitalize()} by {path}", path, f"{found.metric}{unit}", [line], about))
    return pictures
