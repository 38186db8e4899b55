"""What differs between two images, in the terms of the chip: platform, layers, places, cells, digital side."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.image.container import signature
from cimc.image.content import text_of
from cimc.image.goals import platform
from cimc.image.image import Image
from cimc.targets.description import figures_of


def diff(one: Image, other: Image) -> dict[str, Any]:
    """Differences by kind; each is empty where there is none, ``same`` says whether all are."""
    found: dict[str, Any] = {
        "identity": _identity(one, other),
        "target": _figures(figures_of(one.target), figures_of(other.target)),
        "platform": _figures(platform(one.target), platform(other.target)),
        "layers": _layers(one, other),
        "digital": _digital(one, other),
    }
    found["same"] = _bytes(one) == _bytes(other)
    return found


def _bytes(image: Image) -> tuple[str, bytes]:
    """What stands for all bytes: the hash, and what follows it."""
    signed = signature(image.content)
    return image.sha256, b"" if signed is None else signed.tobytes()


def _identity(one: Image, other: Image) -> dict[str, list[Any]]:
    def about(image: Image) -> dict[str, Any]:
        record = image.identity
        return {
            "target": image.target.name,
            "model_sha256": record["model_sha256"].tobytes().hex(),
            "fault_map_sha256": image.fault_map_sha256,
            "die": image.die or None,
            "source": image.source,
            "seed": int(record["seed"]),
            "compiler": text_of(record["compiler"]),
        }

    return _figures(about(one), about(other))


def _figures(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in {**one, **other} if one.get(key) != other.get(key)}


def _layers(one: Image, other: Image) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    numbers = [{layer.name: k for k, layer in enumerate(image.layers)} for image in (one, other)]
    for name in {**numbers[0], **numbers[1]}:
        if any(name not in known for known in numbers):
            rows.append({"name": name, "only_in": "first" if name in numbers[0] else "second"})
            continue
        a, b = (numbers[0][name], numbers[1][name])
        moved = [_place(s) for s in one.segments(a)] != [_place(s) for s in other.segments(b)]
        goals = one.goals(a).g_us, other.goals(b).g_us
        same_shape = goals[0].shape == goals[1].shape
        gap = np.abs(goals[0].astype(np.float64) - goals[1]) if same_shape else None
        coding = [_coding(image, k) for image, k in ((one, a), (other, b))]
        row = {
            "name": name,
            "moved": moved,
            "cells_changed": None if gap is None else int((gap > 0).sum()),
            "largest_us": None if gap is None else float(gap.max(initial=0)),
            "coding": _figures(*coding),
        }
        if moved or gap is None or row["cells_changed"] or row["coding"]:
            rows.append(row)
    return rows


def _place(segment: tuple[Any, Any, Any]) -> tuple[Any, ...]:
    record, rows, columns = segment
    return int(record["chip"]), int(record["tile"]), rows.tolist(), columns.tolist()


def _coding(image: Image, layer: int) -> dict[str, Any]:
    about = image.layers[layer]
    return {"input_gain": about.coding.gain, "input_signed": about.coding.signed, "adc_range_ua": about.adc_range_ua}


def _digital(one: Image, other: Image) -> list[str]:
    """Digital segments and parameters that differ, by name."""
    tensors = [dict(image.compiled.tensors) for image in (one, other)]
    held = set(one.meta["weights"]) | set(other.meta["weights"])
    names = {name for some in tensors for name in some if name.removeprefix("initializer/") not in held and name != "graph"}
    return sorted(
        name
        for name in names
        if name not in tensors[0] or name not in tensors[1] or not np.array_equal(tensors[0][name], tensors[1][name])
    )
