"""Fault maps of a die."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

import cimc
from cimc.image.faults import FaultMap
from tests.fuzz.models import programs
from tests.fuzz.mutations import Random, mutate_arrays
from tests.fuzz.safetensors_file import broken

SUFFIX = ".npz"


def sound() -> dict[str, bytes]:
    tables = {"rows": [[0, 0, 3]], "columns": [[0, 1, 2]], "cells": [[0, 0, 1, 1], [0, 1, 4, 4]]}
    return {"map": _bytes({name: np.array(table) for name, table in tables.items()} | {"die": np.array("A7")})}


def _bytes(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    if random.random() < 0.3:
        return broken(data, random)
    with np.load(io.BytesIO(data)) as file:
        what, arrays = mutate_arrays(dict(file), random)
    return what, _bytes(arrays)


def use(path: Path) -> None:
    """Export around it."""
    faults, program = FaultMap.load(path), programs()["conv"]
    cimc.export_image(program, target=program.target, fault_map=faults).compiled  # noqa: B018
