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
from tests.fuzz.models import CONV, images, programs
from tests.fuzz.mutations import Random, mutate_arrays, mutate_json
from tests.fuzz.safetensors_file import Arrays, broken, closed, opened

SUFFIX = ".safetensors"
_LABELS = np.array([0, 1, 2, 1])


class _StopError(Exception):
    pass


class _OneStep(Callback):
    def on_step(self, *_: object) -> None:
        raise _StopError


@cache
def _program() -> cimc.Program:
    return programs()["conv"]


def _trainer() -> cimc.Trainer:
    return cimc.Trainer(cimc.Chip(_program()), batch_size=2, optimizer="adam", schedule="plateau", init="weights")


def _fit(trainer: cimc.Trainer, folder: Path, **options: Any) -> None:
    trainer.fit(images(CONV[2]), _LABELS, checkpoint=folder, **options)


def sound() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _fit(_trainer(), Path(folder), epochs=1)
        return {"run": Path(folder, f"checkpoint{SUFFIX}").read_bytes()}


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
        trainer = _trainer()
        before = contents(trainer)
        try:
            _fit(trainer, Path(folder), epochs=2, resume=True, callbacks=[_OneStep()])
        except _StopError:
            pass
        except cimc.ArtifactError:
            assert contents(trainer) == before, "a refused checkpoint changed the trainer"
            raise
