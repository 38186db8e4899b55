"""Checkpoints: everything that a run goes on from, in one safetensors file that is replaced whole.

``DIR/checkpoint.safetensors`` holds named arrays and, in its metadata, counters, ranges, rows and the settings of the run, with a
SHA-256 of each array and of the rest; ``DIR/metrics.jsonl`` a line an epoch. The file is on the disk before it gets its name, so
a kill at any moment leaves the last good one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, CimcError, RunError
from cimc.files import clear_stale
from cimc.ir.artifact import read_safetensors, tensor_sha256, write_safetensors
from cimc.training.lock import RunLock

FORMAT = "cimc-checkpoint"
SCHEMA_VERSION = 3
_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and what is small as JSON."""

    arrays: Mapping[str, NDArray[Any]]
    record: dict[str, Any]

    def part(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays under ``PREFIX/``, by the rest of their names; copies."""
        start = f"{prefix}/"
        return {name.removeprefix(start): np.array(array) for name, array in self.arrays.items() if name.startswith(start)}


class Folder:
    """The checkpoints of one run.

    Args:
        path: Made if it is not there.

    Raises:
        CimcError: Another run has it.
        RunError: It cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = self.path / _NAME
        self.metrics = self.path / "metrics.jsonl"
        self._made = [place for place in (self.path, *self.path.parents) if not os.path.exists(place)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.path)
        except OSError as error:
            self._remove_empty()
            raise RunError(
                f"cannot write: {error.strerror}", where=str(self.path), fix="choose a folder that you may write to"
            ) from error
        except BaseException:
            self._remove_empty()
            raise
        clear_stale(self.path, older_than_s=0)  # of a run that was killed while it wrote; now the folder is ours

    def close(self) -> None:
        """Let others have the folder. Folders that were made for this run and are still empty go."""
        self.lock.release()
        self._remove_empty()

    def _remove_empty(self) -> None:
        with suppress(OSError):
            for place in self._made:  # the innermost first
                place.rmdir()

    def find(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from; None: there is none.

        Raises:
            CimcError: There is one, and it is not to be resumed.
            ArtifactError: It is damaged, or of another version.
        """
        if not resume:
            check_no_run(self.path)
        return self.load() if has_run(self.path) else None

    def load(self) -> Checkpoint:
        """The last checkpoint.

        Raises:
            ArtifactError: It is damaged, or of another version.
        """
        metadata, arrays = read_safetensors(self.file)
        where = str(self.file)
        try:
            manifest = json.loads(metadata["cimc"])
            ours = manifest["format"] == FORMAT
        except (KeyError, ValueError, TypeError, RecursionError):
            ours = False
        if not ours:
            raise ArtifactError("no checkpoint of a training run", where=where, fix="another folder")
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise ArtifactError(
                f"checkpoint schema version {manifest.get('schema_version')}, this cimc reads {SCHEMA_VERSION}",
                where=where,
                fix="start the run again in another folder",
            )
        damaged = ArtifactError("the checkpoint is damaged", where=where, fix="start the run again in another folder")
        try:
            text, hashes = manifest["record"], manifest["arrays_sha256"]
            if hashlib.sha256(text.encode()).hexdigest() != manifest["record_sha256"] or hashes.keys() != arrays.keys():
                raise damaged
            record = json.loads(text)
        except (KeyError, AttributeError, ValueError, RecursionError) as error:
            raise damaged from error
        for name, array in arrays.items():
            if tensor_sha256(array) != hashes[name]:
                raise ArtifactError(f"array {name} is damaged", where=where, fix="start the run again in another folder")
        return Checkpoint(arrays, record)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            RunError: It cannot be written; the one before is intact.
        """
        arrays = {name: np.require(array, requirements="C") for name, array in checkpoint.arrays.items()}
        text = json.dumps(checkpoint.record)
        manifest = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "record": text,
            "record_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "arrays_sha256": {name: tensor_sha256(array) for name, array in arrays.items()},
        }
        write_safetensors(arrays, {"cimc": json.dumps(manifest)}, self.file)


def has_run(folder: Path) -> bool:
    """Whether a folder holds the checkpoint of a run."""
    return os.path.exists(folder / _NAME)


def check_no_run(folder: Path) -> None:
    """Refuse to begin a run in the folder of another.

    Raises:
        CimcError: The folder holds a checkpoint.
    """
    if has_run(folder):
        raise CimcError(
            "the folder holds the checkpoint of a run", where=str(folder), fix="--resume to go on with it, or another folder"
        )


def same_settings(found: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    """Refuse to resume another run.

    Raises:
        ArtifactError: A setting differs; it is named.
    """
    for name in (*own, *found):
        if found.get(name) != own.get(name):
            raise ArtifactError(
                f"the checkpoint was made with {name} {_short(found.get(name))}, this run has {_short(own.get(name))}",
                where=where,
                fix="resume with the same model, data and options, or start in another folder",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
