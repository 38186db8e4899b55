"""Checkpoints of a training run."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import cimc
from cimc.training.history import Callback
from tests.fuzz.models import CONV, images, model, programs
from tests.fuzz.mutations import Random, mutate_arrays, mutate_json
from tests.fuzz.safetensors_file import Arrays, broken, closed, opened
from tests.runtime import pcm

SUFFIX = ".safetensors"
_LABELS = np.array([0, 1, 2, 1])


class _StopError(Exception):
    pass


class _OneStep(Callback):
    def on_step(self, *_: object) -> None:
        raise _StopError


#: Of a chip whose devices have dates and factors against drift, and whose columns share a unit column.
_AGED = pcm.CHIP | {"device.drift.compensation": "column", "weights.representation": "offset", "array.unit_column": True}
#: Part of the names of its arrays.
_DATES = b"device.written_s"


@cache
def _program(aged: bool) -> cimc.Program:
    if not aged:
        return programs()["conv"]
    settings = {"array.rows": 16, "array.columns": 16, "adc.conversion": "integrated", **_AGED}
    return cimc.compile(model(CONV), "bulk-rram", calibration={"x": images(CONV[2])}, settings=settings)


def _trainer(aged: bool) -> cimc.Trainer:
    chip = cimc.Chip(_program(aged))
    own: dict[str, Any] = {"freeze": "w1", "learn_scales": "column"} if aged else {}
    trainer = cimc.Trainer(chip, batch_size=2, optimizer="adam", schedule="plateau", init="weights", **own)
    if aged:
        chip.advance(1e4)
    return trainer


def _fit(trainer: cimc.Trainer, folder: Path, **options: Any) -> None:
    trainer.fit(images(CONV[2]), _LABELS, checkpoint=folder, **options)


def sound() -> dict[str, bytes]:
    files = {}
    for name, aged in (("run", False), ("aged", True)):
        with tempfile.TemporaryDirectory() as folder:
            _fit(_trainer(aged), Path(folder), epochs=1)
            files[name] = Path(folder, f"checkpoint{SUFFIX}").read_bytes()
    return files | {f"{name} of schema 3": of_schema_3(data) for name, data in files.items()}


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    kind = random.random()
    if kind < 0.15:
        return broken(data, random)
    manifest, arrays = opened(data)
    if kind < 0.2:
        what, manifest = mutate_json(manifest, random)
        return f"manifest{what}", closed(manifest, arrays)
    record = json.loads(manifest["record"])
    if kind < 0.6:
        own = {name: value for name, value in record.items() if name != "settings" or random.random() < 0.1}
        what, changed = mutate_json(own, random)
        record = {**{name: value for name, value in record.items() if name not in own}, **changed}
    else:
        what, arrays = mutate_arrays(arrays, random)
    return what, sealed(manifest, record, arrays)


def sealed(manifest: Any, record: Any, arrays: Arrays) -> bytes:
    """A file whose hashes are right."""
    text = json.dumps(record)
    manifest = {**manifest, "record": text, "record_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return closed({**manifest, "arrays_sha256": dict(_hashes(arrays))}, arrays)


def of_schema_3(data: bytes) -> bytes:
    """A checkpoint as schema 3 had it: of the chip the first copy of the layers that train, time and draws."""
    manifest, arrays = opened(data)
    record = json.loads(manifest["record"])
    state = {name.removeprefix("state/"): arrays.pop(name) for name in list(arrays) if name.startswith("state/")}
    draws = [*state["draws"].tolist(), *state.get("images", np.zeros(1, np.int64)).tolist()]
    record["draws"] = dict(zip(("trained", "evaluations", "calibrations", "inferred"), draws, strict=True))
    for name, array in state.items():
        layer, _, part = name.rpartition("/")
        if name == "time_s":
            arrays["chip/time_s"] = array
        elif f"{layer}/weights" in state and not part.startswith(("unit_", "sites", "lines")):
            arrays[f"layer/{name}"] = array[0] if part.startswith("drift_") else array
    for word in ("stats", "fitted", "input_ranges"):
        del record[word]
    return sealed({**manifest, "schema_version": 3}, record, arrays)


def _hashes(arrays: Arrays) -> Iterator[tuple[str, str]]:
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        yield name, hashlib.sha256(f"{array.dtype.name}{array.shape}".encode() + array.tobytes()).hexdigest()


def contents(trainer: cimc.Trainer) -> dict[str, bytes]:
    """All that a trainer holds."""
    return {name: array.tobytes() for name, array in trainer.program().tensors.items()}


def use(path: Path) -> None:
    """Resume, one step; a refused checkpoint leaves the trainer as it was."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"checkpoint{SUFFIX}").write_bytes(path.read_bytes())
        trainer = _trainer(_DATES in path.read_bytes())
        before = contents(trainer)
        try:
            _fit(trainer, Path(folder), epochs=2, resume=True, callbacks=[_OneStep()])
        except _StopError:
            pass
        except cimc.ArtifactError:
            assert contents(trainer) == before, "a refused checkpoint changed the trainer"
            raise
