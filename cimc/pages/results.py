"""Files of results: CSV, JSON and journals that commands wrote, as artefacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cimc.errors import ArtifactError
from cimc.pages.budget import budget_artefact
from cimc.pages.parts import Artefact
from cimc.pages.population import population_artefact
from cimc.pages.training import history_section, run_facts
from cimc.pages.tuning import tuning_artefact
from cimc.population.result import Population
from cimc.tuning.trace import Trial

#: Bytes of a result file at most.
_MOST = 1 << 28
_WANTED = "a .csv or .json of cimc evaluate --csv, the --json output of explain, tune or train, or a --trace of tune"


def results_artefact(path: Path) -> Artefact:
    """What a file of results tells.

    Raises:
        ArtifactError: It is none, or damaged.
    """
    damaged = ArtifactError("it is no file of results, or damaged", where=str(path), fix=_WANTED)
    try:
        if path.stat().st_size > _MOST:
            raise ArtifactError(f"a file of results has at most {_MOST >> 20} MB", where=str(path), fix=_WANTED)
        text = path.read_text("utf-8")
        if path.suffix.lower() == ".csv":
            return population_artefact(population_of(list(csv.DictReader(text.splitlines()))), path.name)
        head, _, rest = text.partition("\n")
        if head.startswith('{"about"'):
            return tuning_artefact([Trial.of(json.loads(line)) for line in rest.splitlines() if line], path.name)
        return _of_json(json.loads(text), path.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, csv.Error) as error:
        raise damaged from error


def _of_json(found: Mapping[str, Any], name: str) -> Artefact:
    if "points" in found:
        return population_artefact(_population_of_json(found), name)
    if "levers" in found:
        return budget_artefact(found, name)
    if "trace" in found:
        return tuning_artefact([Trial.of(record) for record in found["trace"]], name)
    rows = found["epochs"]
    history = history_section(rows)
    if history is None:
        raise ValueError("no epoch")
    return Artefact(name, "training run", run_facts(rows), [history], tuple(map(str, found.get("notes", ()))))


def population_of(rows: list[dict[str, Any]]) -> Population:
    """A population from the rows of its table; KeyError or ValueError where they are none."""
    fields = [name for name in rows[0] if name not in ("time_s", "seed", "accuracy", "agreement")]
    settings = list(dict.fromkeys(tuple(row[name] for name in fields) for row in rows))
    times = list(dict.fromkeys(float(row["time_s"]) for row in rows))
    seeds = list(dict.fromkeys(int(row["seed"]) for row in rows))
    accuracy = np.full((len(settings), len(times), len(seeds)), np.nan)
    agreement = accuracy.copy()
    for row in rows:
        at = (
            settings.index(tuple(row[name] for name in fields)),
            times.index(float(row["time_s"])),
            seeds.index(int(row["seed"])),
        )
        accuracy[at], agreement[at] = float(row["accuracy"]), float(row["agreement"])
    named = tuple({name: _value(value) for name, value in zip(fields, one, strict=True)} for one in settings)
    return _checked(Population(named, tuple(times), tuple(seeds), accuracy, agreement, float("nan"), 0))


def _population_of_json(found: Mapping[str, Any]) -> Population:
    points, chips = found["points"], int(found["chips"])
    settings = list({json.dumps(point["settings"], sort_keys=True): dict(point["settings"]) for point in points}.values())
    times = list(dict.fromkeys(float(point["time_s"]) for point in points))
    values = np.array([point["accuracy"]["values"] for point in points], np.float64)
    accuracy = values.reshape(len(settings), len(times), chips)
    reference, images = float(found["reference_accuracy"]), int(found["images"])
    missing = np.full(accuracy.shape, np.nan)
    return _checked(Population(tuple(settings), tuple(times), tuple(range(chips)), accuracy, missing, reference, images))


def _checked(found: Population) -> Population:
    """The population; ValueError where a die lacks a figure, or has one that is no share."""
    if not found.accuracy.size or not ((found.accuracy >= 0) & (found.accuracy <= 1)).all():
        raise ValueError("a die has no accuracy")
    return found


def _value(text: Any) -> Any:
    """A cell of a CSV file: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text
