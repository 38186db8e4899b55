"""Chip images: ``.cimg``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import cimc
from cimc.image.check import verify_image
from cimc.image.container import crc32, pack, unpack
from tests.fuzz.models import CONV, DENSE, images, programs
from tests.fuzz.mutations import Random, mutate_json, pick
from tests.fuzz.safetensors_file import broken

SUFFIX = ".cimg"
_SHAPES = {"conv": CONV[2], "dense": DENSE[2]}


def sound() -> dict[str, bytes]:
    return {name: cimc.export_image(programs()[name], target=programs()[name].target).data for name in _SHAPES}


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    if random.random() < 0.1:
        return broken(data, random)
    sections = {tag: np.array(records) for tag, records in unpack(data, "image").items()}
    if random.random() < 0.35:
        what, meta = mutate_json(json.loads(sections["META"].tobytes()), random)
        sections["META"] = np.frombuffer(json.dumps(meta).encode(), "u1")
        return f"META{what}", pack(sections)
    tag = pick(random, [tag for tag in sections if tag != "META"])
    what, sections[tag] = _changed(sections[tag], random)
    for tile in sections["TILE"]:
        first, size = int(tile["first_cell"]), int(tile["rows"]) * int(tile["columns"])
        tile["crc32"] = crc32(sections["CELL"][first : first + size].view("u1").data) if first + size < 1 << 24 else 0
    return f"{tag}: {what}", pack(sections)


def _changed(records: Any, random: Random) -> tuple[str, Any]:
    if not len(records):
        return "as it was", records
    kind, at = random.random(), int(random.integers(len(records)))
    if kind < 0.1:
        return f"record {at} dropped", np.delete(records, at, axis=0)
    if kind < 0.2:
        return f"record {at} doubled", np.concatenate([records, records[at : at + 1]])
    if records.dtype.names is None:
        records[at] = pick(random, (0, 1, records[at] + 1, np.iinfo(records.dtype).max))
        return f"[{at}] = {records[at]}", records
    name = pick(random, records.dtype.names)
    place = records[name].reshape(len(records), -1)[at]
    spot = int(random.integers(place.size))
    if place.dtype.kind == "f":
        value = pick(random, (0.0, -1.0, np.nan, np.inf, 1e30, float(place[spot]) * 2))
    else:
        ends = np.iinfo(place.dtype)
        old = int(place[spot])
        value = pick(random, (0, 1, ends.max, ends.min, min(old + 1, ends.max), max(old - 1, ends.min)))
    records[name].reshape(len(records), -1)[at, spot] = value
    return f"{name}[{at}] = {value}", records


def use(path: Path) -> None:
    """Verify, programme a die, run images on it."""
    image = cimc.load_image(path)
    verify_image(image)
    inputs = {
        value.name: images(tuple(d for d in (value.shape or ())[1:] if isinstance(d, int))) for value in image.compiled.inputs
    }
    image.program(seed=1).run(inputs)
