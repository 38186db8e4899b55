"""An image in figures, for people and programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from cimc.image.container import signature
from cimc.image.content import text_of
from cimc.image.image import Image
from cimc.image.layout import USES, VERSION


def describe(image: Image) -> dict[str, Any]:
    """What the image says of itself, without its cells."""
    record, signed = image.identity, signature(image.content)
    cells = image.sections["CELL"]["use"]
    counts = np.bincount(cells, minlength=len(USES))
    tiles = image.sections["TILE"]
    return {
        "format_version": list(VERSION),
        "bytes": len(image.content),
        "sha256": image.sha256,
        "signed_by": None if signed is None else signed["public_key"].tobytes().hex(),
        "signature": image.signature,
        "target": image.target.name,
        "target_sha256": record["target_sha256"].tobytes().hex(),
        "platform_sha256": record["platform_sha256"].tobytes().hex(),
        "die": image.die or None,
        "fault_map_sha256": image.fault_map_sha256,
        "compiler": text_of(record["compiler"]),
        "model": image.outline.provenance.model,
        "model_sha256": record["model_sha256"].tobytes().hex(),
        "calibration": image.outline.provenance.calibration,
        "source": image.source,
        "seed": int(record["seed"]),
        "training": image.meta.get("training"),
        "notes": image.meta.get("notes", []),
        "inputs": [value.model_dump(mode="json") for value in image.outline.inputs],
        "outputs": [value.model_dump(mode="json") for value in image.outline.outputs],
        "chips": len(np.unique(tiles["chip"])),
        "tiles": len(tiles),
        "cells": {name: int(count) for name, count in zip(USES, counts, strict=True)},
        "instructions": len(image.sections["INST"]),
        "layers": [_layer(image, number) for number in range(len(image.layers))],
        "sections": {tag: int(records.nbytes) for tag, records in image.sections.items()},
    }


def _layer(image: Image, number: int) -> dict[str, Any]:
    layer = image.layers[number]
    segments = [part for copy in range(image.copies(number)) for part in image.segments(number, copy)]
    return {
        "name": layer.name,
        "groups": layer.groups,
        "rows": layer.rows,
        "columns": layer.columns,
        "copies": image.copies(number),
        "segments": len(segments),
        "input_gain": layer.coding.gain,
        "adc_range_ua": layer.adc_range_ua,
        "places": [_place(*segment) for segment in segments[:16]],
    }


def _place(record: np.void, rows: Any, columns: Any) -> str:
    return f"{record['chip']}.{record['tile']}[{_lines(rows)}, {_lines(columns)}]"


def _lines(lines: Any) -> str:
    """``0:64``, or the runs of contiguous lines where some are left out."""
    runs = np.split(lines, np.flatnonzero(np.diff(lines.astype(np.int64)) != 1) + 1)
    return "+".join(f"{run[0]}:{run[-1] + 1}" for run in runs)
