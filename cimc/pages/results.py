"""Files of results: CSV, JSON and journals that commands wrote, as artefacts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cimc.errors import ArtifactError
from cimc.journal import json_lines
from cimc.pages.budget import budget_artefact
from cimc.pages.evaluation import evaluation_artefact
from cimc.pages.parts import Artefact
from cimc.pages.population import population_artefact
from cimc.pages.population_files import population_of_journal, population_of_json, population_of_rows
from cimc.pages.training import history_section, run_facts
from cimc.pages.tuning import tuning_artefact
from cimc.tuning.trace import Trial

#: Bytes of a result file at most.
_MOST = 1 << 28
_WANTED = (
    "a .csv, .json or journal of cimc evaluate, the --json output of evaluate, explain, tune or train, or a --trace of tune; "
    "a Parquet table as .csv"
)


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
            return population_artefact(population_of_rows(list(csv.DictReader(text.splitlines()))), path.name)
        if text.startswith('{"about"'):
            return _of_journal(text, path.name)
        return _of_json(json.loads(text), path.name)
    except (
        OSError,
        LookupError,
        ArithmeticError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        StopIteration,
        csv.Error,
    ) as error:
        raise damaged from error


def _of_journal(text: str, name: str) -> Artefact:
    """Of a search or a study; a kill may have cut the last line."""
    head, *records = json_lines(text)
    about = head["about"]
    if "dice" in about:
        return tuning_artefact([Trial.of(record) for record in records], name)
    found, left = population_of_journal(about, records)
    artefact = population_artefact(found, name)
    return replace(artefact, notes=[*artefact.notes, left]) if left else artefact


def _of_json(found: Mapping[str, Any], name: str) -> Artefact:
    if "points" in found:
        return population_artefact(population_of_json(found), name)
    if "levers" in found:
        return budget_artefact(found, name)
    if "trace" in found:
        return tuning_artefact([Trial.of(record) for record in found["trace"]], name)
    if "stats" in found:
        return evaluation_artefact(found, name)
    rows = found["epochs"]
    history = history_section(rows)
    if history is None:
        raise ValueError("no epoch")
    return Artefact(name, "training run", run_facts(rows), [history], tuple(map(str, found.get("notes", ()))))
