"""Populations as they were saved: tables, JSON, journals of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cimc.population.result import Population
from cimc.population.wafer import Wafer
from cimc.report.metrics import SCALARS, SHARES

Row = Mapping[str, Any]


def population_of_rows(rows: Sequence[Row]) -> Population:
    """A population from the rows of its table; KeyError or ValueError where they are none."""
    metric = next(name for name in SCALARS if name in rows[0])
    fields = [name for name in rows[0] if name not in ("file", "time_s", "seed", "x_mm", "y_mm", metric, "agreement")]
    files = ["file"] if "file" in rows[0] else []
    settings = list(dict.fromkeys(tuple(row[name] for name in (*files, *fields)) for row in rows))
    times = list(dict.fromkeys(float(row["time_s"]) for row in rows))
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    number = [{value: k for k, value in enumerate(values)} for values in (settings, times, seeds)]
    if len(settings) * len(times) * len(seeds) != len(rows):  # before memory is taken for them
        raise ValueError("a die lacks a row")
    values = np.full((len(settings), len(times), len(seeds)), np.nan)
    for row in rows:
        where = (tuple(row[name] for name in (*files, *fields)), float(row["time_s"]), int(row["seed"]))
        values[tuple(index[key] for index, key in zip(number, where, strict=True))] = float(row[metric])
    named = [{name: _value(value) for name, value in zip(fields, one[len(files) :], strict=True)} for one in settings]
    wafer = None
    if "x_mm" in rows[0]:
        places = {int(row["seed"]): (float(row["x_mm"]), float(row["y_mm"])) for row in rows}
        x_mm, y_mm = zip(*(places[seed] for seed in seeds), strict=True)
        wafer = Wafer(tuple(seeds), x_mm, y_mm)
    found = _checked(named, times, seeds, values, float("nan"), 0, metric, wafer)
    return _of_files(found, [one[0] for one in settings]) if files else found


def population_of_json(found: Row) -> Population:
    """A population from its JSON form; the same errors."""
    points, chips, metric = found["points"], int(found["chips"]), str(found.get("metric", "accuracy"))
    several = "files" in found
    keyed = [(point["file"] if several else "", json.dumps(point["settings"], sort_keys=True)) for point in points]
    kept = dict(zip(keyed, points, strict=True))
    settings = [dict(point["settings"]) for point in kept.values()]
    times = list(dict.fromkeys(float(point["time_s"]) for point in points))
    values = np.array([point[metric]["values"] for point in points], np.float64).reshape(len(settings), len(times), chips)
    wafer = Wafer.from_dict(found["wafer"]) if "wafer" in found else None
    reference, images = float(found[f"reference_{metric}"]), int(found["images"])
    seeds = range(chips) if wafer is None else wafer.seeds
    population = _checked(settings, times, seeds, values, reference, images, metric, wafer)
    return _of_files(population, [file for file, _ in kept], found["files"]) if several else population


def population_of_journal(about: Row, records: Sequence[Row]) -> tuple[Population, str]:
    """A population from a study's journal, and how many dice lack in it, in words; the same errors.

    Dice that have not ended at every setting are left out.
    """
    settings, times, first = [dict(one) for one in about["settings"]], [float(t) for t in about["times"]], int(about["seed"])
    known = {(int(one["point"]), int(one["seed"])): [float(v) for v in one["accuracies"]] for one in records}
    chips = int(about["chips"])
    wafer = Wafer.from_dict(about["wafer"]) if "wafer" in about else None
    wanted = range(first, first + chips) if wafer is None else set(wafer.seeds)
    ended = sorted({seed for _, seed in known if seed in wanted})  # no loop over what a file says
    seeds = [seed for seed in ended if all((point, seed) in known for point in range(len(settings)))]
    if not seeds:
        raise ValueError("no die has ended")
    values = np.array([[known[point, seed] for seed in seeds] for point in range(len(settings))]).transpose(0, 2, 1)
    left = f"{chips - len(seeds)} of {chips} dice have not ended at every setting." if len(seeds) < chips else ""
    here = None if wafer is None else wafer.only(seeds)
    found = _checked(settings, times, seeds, values, float("nan"), 0, str(about.get("metric", "accuracy")), here)
    names = [str(name) for name in about.get("files", ())]
    if not names:
        return found, left
    return _of_files(found, [names[p * len(names) // len(settings)] for p in range(len(settings))]), left


def _checked(
    settings: Sequence[Row], times: Sequence[float], seeds: Sequence[int], values: Any, reference: float, images: int,
    metric: str, wafer: Wafer | None = None,
) -> Population:  # fmt: skip
    """The population; ValueError where a die lacks a figure, or has one that cannot be."""
    if not values.size or not np.isfinite(values).all() or values.shape != (len(settings), len(times), len(seeds)):
        raise ValueError("a die has no figure")
    if metric not in SCALARS or (metric in SHARES and not ((values >= 0) & (values <= 1)).all()):
        raise ValueError("a figure is no share")
    missing = np.full(values.shape, np.nan)
    return Population(tuple(settings), tuple(times), tuple(seeds), values, missing, reference, images, metric, wafer)


def _of_files(found: Population, names: Sequence[str], references: Row | None = None) -> Population:
    """The population of several files, ``names`` being those of its points; ValueError where a file lacks a setting."""
    files = {str(name): float((references or {}).get(name, float("nan"))) for name in dict.fromkeys(names)}
    count = len(names) // len(files)
    each = [list(found.settings[first : first + count]) for first in range(0, len(names), count)]
    if list(names) != [name for name in files for _ in range(count)] or any(one != each[0] for one in each):
        raise ValueError("a file lacks a setting")
    return replace(found, files=files)


def _value(text: Any) -> Any:
    """A cell of a CSV file: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text
