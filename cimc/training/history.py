"""What a run tells: a row an epoch, ``metrics.jsonl``, callbacks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.errors import RunError
from cimc.files import destination, write_file
from cimc.journal import json_lines
from cimc.shown import Shown

if TYPE_CHECKING:
    from cimc.training.trainer import Trainer

Row = dict[str, Any]
#: What differs from run to run, so no checkpoint holds it.
TIMING = ("seconds", "images_per_second")


@dataclass(repr=False)
class History(Shown):
    """A run, a row an epoch.

    A row has ``epoch`` (from 1), ``step`` (steps so far), ``lr``, ``loss``, ``accuracy`` (null where the loss is no
    classification), ``validation_loss``, ``validation_accuracy``, ``updates`` and ``device_writes`` of the epoch,
    ``updates_per_weight`` and ``device_writes_per_device`` of all epochs so far (means), ``most_updates`` of one weight,
    ``adc_saturation_share``, ``backward_saturation_share`` (of transposed reads), ``recalibrations``, ``total`` (sums over all
    epochs so far), ``seconds``, ``images_per_second``.
    """

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know about the run: the loss taken, weights clipped, nodes switched to training form."""
    cost: dict[str, Any] = field(default_factory=dict)
    """Of the training so far, see `cimc.training.cost`."""

    def _facts(self) -> dict[str, object]:
        names = ("step", "loss", "accuracy", "validation_loss", "validation_accuracy")
        return {"epochs": len(self.rows), **({name: self.last[name] for name in names} if self.rows else {})}

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        names = ("epoch", "lr", "loss", "accuracy", "validation_loss", "validation_accuracy", "device_writes")
        return names, [[row[name] for name in names] for row in self.rows]

    def __getitem__(self, name: str) -> list[Any]:
        """One figure over the epochs."""
        return [row[name] for row in self.rows]

    @property
    def last(self) -> Row:
        """The last epoch's row."""
        return self.rows[-1]

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"epochs": self.rows, "notes": self.notes, "cost": self.cost}


class Callback:
    """Told what happens; override what is of interest."""

    def on_start(self, trainer: Trainer, epochs: int, steps_per_epoch: int | None, done: int) -> None:
        """Before the first step; ``done`` steps come from a checkpoint."""

    def on_step(self, trainer: Trainer, row: Row) -> None:
        """After each step: ``epoch``, ``step``, ``lr``, ``loss``, ``images``; ``accuracy`` of the epoch so far (None without
        classes); ``device_writes`` of all steps."""

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        """After each epoch, its checkpoint written; the row of `History`."""


def epoch_line(row: Row) -> str:
    """An epoch in words, for people."""
    shares = [(name, row[key]) for name, key in (("accuracy", "accuracy"), ("test", "validation_accuracy"))]
    told = "".join(f", {name} {100 * share:.2f} %" for name, share in shares if share is not None)
    return (
        f"epoch {row['epoch']}: loss {row['loss']:.4f}{told}, {row['device_writes']} device writes, "
        f"{row['images_per_second']:.0f} images/s"
    )


class Lines(Callback):
    """A line an epoch on standard error."""

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        print(epoch_line(row), file=sys.stderr, flush=True)


@dataclass
class Metrics(Callback):
    """``metrics.jsonl``: a line an epoch. As a callback it is a file of its own, begun anew by a run's first epoch."""

    path: Path
    _begun: bool = False

    def on_start(self, trainer: Trainer, epochs: int, steps_per_epoch: int | None, done: int) -> None:
        """See `Callback`."""
        self._begun = False

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        """See `Callback`."""
        if self._begun:
            self.append(row)
        else:
            write_file(self.path, _line(row).encode())
        self._begun = True

    def resume(self, rows: list[Row]) -> list[Row]:
        """Keep the lines of these epochs and drop later ones; timings, which ``rows`` lack, come from the file."""
        lines = self._lines()
        known = {line["epoch"]: {name: line[name] for name in TIMING if name in line} for line in lines}
        merged = [{**row, **dict.fromkeys(TIMING), **known.get(row["epoch"], {})} for row in rows]
        if rows or lines:
            write_file(self.path, "".join(_line(row) for row in merged).encode())
        return merged

    def append(self, row: Row) -> None:
        """Add a line.

        Raises:
            OutputError: It must not be written there, see `cimc.files`.
            RunError: The file cannot be written.
        """
        path = destination(self.path)
        size = path.stat().st_size if path.exists() else None
        try:
            with path.open("a") as file:
                file.write(_line(row))
        except OSError as error:
            with suppress(OSError):  # no half line, no empty file
                path.unlink() if size is None else os.truncate(path, size)
            raise RunError(f"cannot write: {error}", where=str(self.path), fix="choose a folder that has room") from error

    def _lines(self) -> list[Row]:
        """Whole lines; what a kill left of others is left out."""
        text = self.path.read_text() if self.path.is_file() else ""
        return [row for row in json_lines(text, skip_broken=True) if isinstance(row, dict) and "epoch" in row]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
