"""What a run leaves beside the chip: metrics.jsonl and scalars for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cimc.errors import RunError
from cimc.training.history import Metrics
from cimc.training.tensorboard import TensorBoard

ROW: dict[str, Any] = {"epoch": 1, "step": 40, "lr": 0.25, "loss": 1.5, "accuracy": None, "total": {"updates": 3}}


def test_metrics_as_a_callback_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for rows in (2, 1):
        metrics: Any = Metrics(path)
        metrics.on_start(None, 2, None, 0)
        for epoch in range(rows):
            metrics.on_epoch(None, {**ROW, "epoch": epoch + 1})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ROW]


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    """By its own reader; what is no number is left out."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    board: Any = TensorBoard(tmp_path / "a" / "b")
    for epoch in (1, 2):
        board.on_epoch(None, {**ROW, "epoch": epoch, "loss": 1.5 / epoch})
    (file,) = (tmp_path / "a" / "b").iterdir()
    first, *events = EventFileLoader(str(file)).Load()
    assert first.file_version == "brain.Event:2"
    found = [(e.step, {v.tag: v.tensor.float_val[0] for v in e.summary.value}) for e in events]
    assert found == [(1, {"lr": 0.25, "loss": 1.5}), (2, {"lr": 0.25, "loss": 0.75})]


def test_what_tensorboard_cannot_write_is_said(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot write") as error:
            TensorBoard(folder)
        assert str(folder) in str(error.value)


def test_a_full_disk_stops_with_the_folder_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board: Any = TensorBoard(tmp_path)

    def full(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    board._writer = SimpleNamespace(write=full)
    with pytest.raises(RunError, match="No space left") as error:
        board.on_epoch(None, ROW)
    assert str(tmp_path) in str(error.value)
