"""The figures of `History` as scalars for TensorBoard, which need not be installed otherwise."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cimc.errors import RunError
from cimc.files import check_folder
from cimc.training.history import Callback, Row

if TYPE_CHECKING:
    from cimc.training.trainer import Trainer


class TensorBoard(Callback):
    """Scalars for TensorBoard, an event an epoch, each on the disk before the next epoch begins.

    Args:
        folder: Where the event file goes, after the first epoch; made if it is not there.

    Raises:
        RunError: TensorBoard is not installed, or the file cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise RunError("TensorBoard is not installed", fix="pip install 'cimc[tensorboard]'") from error
        self._event, self._summary, self._record = Event, Summary, RecordWriter
        self._folder = Path(folder)
        self._writer: Any = None
        check_folder(folder)

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        """See `Callback`."""
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, int | float) and name not in ("epoch", "step")
        ]
        event = self._event(wall_time=time.time(), step=row["epoch"], summary=self._summary(value=values))
        with self._written():
            writer = self._writer = self._writer or self._begin()
            writer.write(event.SerializeToString())

    def _begin(self) -> Any:
        """The event file with its first record; only now, so that a run that ends before it leaves nothing."""
        now = time.time()
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{time.perf_counter_ns()}"
        writer = self._record((self._folder / name).open("xb", buffering=0))
        writer.write(self._event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        return writer

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            fix = "choose a folder that you may write to and that has room"
            raise RunError(f"cannot write: {error}", where=str(self._folder), fix=fix) from error
