"""Checkpoints: everything that a run goes on from, in one safetensors file that is replaced whole.

``DIR/checkpoint.safetensors`` holds named arrays and, in its metadata, counters, ranges, rows and the settings of the run, with a
SHA-256 of each array and of the rest. The chip is in it as in a trained ``.cim``: a `cimc.runtime.state.ChipState`, tensors
``state/...``. Beside it are ``digital/`` and ``master/`` (parameters), ``optimizer/`` and ``schedule/``. The file is on the disk
before it gets its name, so a kill at any moment leaves the last good one. ``DIR/metrics.jsonl`` has a line an epoch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, CimcError
from cimc.ir.artifact import hashed_text, manifest_of, read_safetensors, write_hashed
from cimc.ir.program import Program
from cimc.runtime.state import PREFIX, ChipState
from cimc.training import schema_3

FORMAT = "cimc-checkpoint"
SCHEMA_VERSION = 4
#: What the record and the arrays are called in the file.
_WORDS = ("record", "arrays")
_NAME = "checkpoint.safetensors"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and what is small as JSON."""

    arrays: Mapping[str, NDArray[Any]]
    record: dict[str, Any]
    schema: int = SCHEMA_VERSION
    """Of the file that it was read from; arrays and record are those of the present one, but for what an earlier one lacked."""

    @property
    def chip(self) -> dict[str, NDArray[Any]]:
        """The tensors of the chip's state, by their whole names."""
        return {name: array for name, array in self.arrays.items() if name.startswith(PREFIX)}

    def chip_state(self, program: Program) -> ChipState:
        """The state of the chip, of this program.

        Raises:
            VerifyError: It is that of another program, or one that no chip can have.
            ArtifactError: Its tensors do not suit each other.
        """
        return ChipState.of_tensors(program, self.chip, self.record["fitted"])

    def completed(self, own: Checkpoint, trained: Collection[str]) -> Checkpoint:
        """With what an earlier schema lacked from the run that goes on, as that would be written now; of ``trained`` layers."""
        if self.schema == SCHEMA_VERSION:
            return self
        return Checkpoint(*schema_3.completed(self.arrays, self.record, own.arrays, own.record, trained), self.schema)

    def part(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The arrays under ``PREFIX/``, by the rest of their names; copies."""
        start = f"{prefix}/"
        return {name.removeprefix(start): np.array(array) for name, array in self.arrays.items() if name.startswith(start)}


def read_checkpoint(folder: Path) -> Checkpoint:
    """The last checkpoint in the folder of a run, which may go on meanwhile.

    Args:
        folder: Nothing in it is changed or locked.

    Raises:
        ArtifactError: It is damaged, of another version, or there is none.
    """
    file = checkpoint_of(folder)
    while True:
        before = _identity(file)
        try:
            return _read(file)
        except ArtifactError:
            if before is None or _identity(file) in (before, None):
                raise  # else the run has replaced the file while it was read


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Replace the checkpoint of a run.

    Raises:
        RunError: It cannot be written; the one before is intact.
    """
    arrays = {name: np.require(array, requirements="C") for name, array in checkpoint.arrays.items()}
    write_hashed(arrays, json.dumps(checkpoint.record), checkpoint_of(folder), FORMAT, SCHEMA_VERSION, _WORDS)


def checkpoint_of(folder: Path) -> Path:
    """The file of a run's checkpoint, there or not."""
    return folder / _NAME


def metrics_of(folder: Path) -> Path:
    """The file of a run's epochs, there or not."""
    return folder / _METRICS


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(file: Path) -> Checkpoint:
    metadata, arrays = read_safetensors(file)
    where = str(file)
    manifest = manifest_of(metadata, FORMAT)
    if manifest is None:
        raise ArtifactError("no checkpoint of a training run", where=where, fix="another folder")
    schema = manifest.get("schema_version")
    if schema not in (3, SCHEMA_VERSION) or isinstance(schema, float):
        raise ArtifactError(
            f"checkpoint schema version {schema}, this cimc reads 3 and {SCHEMA_VERSION}",
            where=where,
            fix="start the run again in another folder",
        )
    damaged = ArtifactError("the checkpoint is damaged", where=where, fix="start the run again in another folder")
    text = hashed_text(manifest, arrays, _WORDS, damaged)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if schema == SCHEMA_VERSION:
        return Checkpoint(arrays, record)
    try:
        return Checkpoint(*schema_3.converted(arrays, record), schema)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise damaged from error


def has_run(folder: Path) -> bool:
    """Whether a folder holds the checkpoint of a run."""
    return os.path.exists(checkpoint_of(folder))


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
