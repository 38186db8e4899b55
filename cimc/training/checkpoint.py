"""Checkpoints: everything that a run goes on from, in one safetensors file that is replaced whole.

``DIR/checkpoint.safetensors`` holds named arrays and, in its metadata, counters, ranges, rows and the settings of the run;
``DIR/metrics.jsonl`` a line an epoch. The file is on the disk before it gets its name, so a kill at any moment leaves the last
good one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, CimcError, RunError
from cimc.files import clear_stale
from cimc.ir.artifact import read_safetensors, write_safetensors
from cimc.training.lock import RunLock

FORMAT = "cimc-checkpoint"
SCHEMA_VERSION = 2
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
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write: {error.strerror}", where=str(self.path), fix="choose a folder that you may write to"
            ) from error
        self.lock = RunLock(self.path)
        clear_stale(self.path, older_than_s=0)  # of a run that was killed while it wrote; now the folder is ours

    def close(self) -> None:
        """Let others have the folder. One that was made for this run and is still empty goes."""
        self.lock.release()
        if self._made:
            with suppress(OSError):
                self.path.rmdir()

    def find(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from; None: there is none.

        Raises:
            CimcError: There is one, and it is not to be resumed.
            ArtifactError: It is damaged, or of another version.
        """
        if not self.file.exists():
            return None
        if not resume:
            raise CimcError(
                "the folder holds the checkpoint of a run",
                where=str(self.path),
                fix="--resume to go on with it, or another folder",
            )
        return self.load()

    def load(self) -> Checkpoint:
        """The last checkpoint.

        Raises:
            ArtifactError: It is damaged, or of another version.
        """
        metadata, arrays = read_safetensors(self.file)
        try:
            record = json.loads(metadata["cimc"])
            ours = record["format"] == FORMAT
        except (KeyError, ValueError, TypeError):
            ours = False
        if not ours:
            raise ArtifactError("no checkpoint of a training run", where=str(self.file), fix="another folder")
        if record.get("schema_version") != SCHEMA_VERSION:
            raise ArtifactError(
                f"checkpoint schema version {record.get('schema_version')}, this cimc reads {SCHEMA_VERSION}",
                where=str(self.file),
                fix="start the run again in another folder",
            )
        return Checkpoint(arrays, record)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            RunError: It cannot be written; the one before is intact.
        """
        record = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **checkpoint.record}
        arrays = {name: np.require(array, requirements="C") for name, array in checkpoint.arrays.items()}
        write_safetensors(arrays, {"cimc": json.dumps(record)}, self.file)


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
