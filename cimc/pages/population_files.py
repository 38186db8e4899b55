"""Populations as they were saved: tables, JSON, journals of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cimc.population.result import Population
from cimc.population.wafer import Wafer
from cimc.report.metrics import SCALARS, SHARES

Row = Mapping[str, Any]


def population_of_rows(rows: Sequence[Row]) -> Population:
    """A population from the rows of its table; KeyError or ValueError where they are none."""
    metric = next(name for name in SCALARS if name in rows[0])
    fields = [name for name in rows[0] if name not in ("time_s", "seed", "x_mm", "y_mm", metric, "agreement")]
    settings = list(dict.fromkeys(tuple(row[name] for name in fields) for row in rows))
    times = list(dict.fromkeys(float(row["time_s"]) for row in rows))
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    number = [{value: k for k, value in enumerate(values)} for values in (settings, times, seeds)]
    if len(settings) * len(times) * len(seeds) != len(rows):  # before memory is taken for them
        raise ValueError("a die lacks a row")
    values = np.full((len(settings), len(times), len(seeds)), np.nan)
    for row in rows:
        where = (tuple(row[name] for name in fields), float(row["time_s"]), int(row["seed"]))
        values[tuple(index[key] for index, key in zip(number, where, strict=True))] = float(row[metric])
    named = tuple({name: _value(value) for name, value in zip(fields, one, strict=True)} for one in settings)
    if "x_mm" not in rows[0]:
        return _checked(named, times, seeds, values, float("nan"), 0, metric)
    places = {int(row["seed"]): (float(row["x_mm"]), float(row["y_mm"])) for row in rows}
    x_mm, y_mm = zip(*(places[seed] for seed in seeds), strict=True)
    return _checked(named, times, seeds, values, float("nan"), 0, metric, Wafer(tuple(seeds), x_mm, y_mm))


def population_of_json(found: Row) -> Population:
    """A population from its JSON form; the same errors."""
    points, chips, metric = found["points"], int(found["chips"]), str(found.get("metric", "accuracy"))
    settings = list({json.dumps(point["settings"], sort_keys=True): dict(point["settings"]) for point in points}.values())
    times = list(dict.fromkeys(float(point["time_s"]) for point in points))
    values = np.array([point[metric]["values"] for point in points], np.float64).reshape(len(settings), len(times), chips)
    wafer = Wafer.from_dict(found["wafer"]) if "wafer" in found else None
    reference, images = float(found[f"reference_{metric}"]), int(found["images"])
    seeds = range(chips) if wafer is None else wafer.seeds
    return _checked(settings, times, seeds, values, reference, images, metric, wafer)


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
    return _checked(settings, times, seeds, values, float("nan"), 0, str(about.get("metric", "accuracy")), here), left


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


def _value(text: Any) -> Any:
    """A cell of a CSV file: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text
