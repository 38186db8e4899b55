"""Runs of earlier versions go on: a checkpoint of schema 3, and what that schema left to the chip on which a run is resumed.

``tests/data/checkpoint_3.safetensors`` was written by the last commit of schema 3, after the fourth step of `later`: a chip with
unit columns that had aged and was compensated for drift, learnt scales, Adam, the plateau schedule.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError
from cimc.training.checkpoint import read_checkpoint
from cimc.training.history import Callback
from tests.fuzz.checkpoint import of_schema_3, sealed
from tests.fuzz.safetensors_file import opened
from tests.training.small import NORMED, chip, trainer
from tests.training.test_resumed_chip import AGED, UNITS, At, StopError, X, Y, aged, everything, fault

FILE = Path(__file__).parents[1] / "data" / "checkpoint_3.safetensors"
NAME = "checkpoint.safetensors"
RUN: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 1, "validation": (X[:16], Y[:16])}


class Restored(Callback):
    """Ends a run before its first step."""

    def on_start(self, *_: object) -> None:
        raise StopError


def later(*callbacks: Callback) -> cimc.Trainer:
    c = chip(seed=3, text=NORMED, **AGED, **UNITS)
    options: dict[str, Any] = {"optimizer": "adam", "schedule": "plateau", "learn_scales": "column", "init": "weights"}
    return trainer(c, callbacks=callbacks, **options)


def test_a_checkpoint_of_schema_3_is_read_whole(tmp_path: Path) -> None:
    manifest, arrays = opened(FILE.read_bytes())
    record = json.loads(manifest["record"])
    # Settings name the whole target, which has new fields from time to time.
    with pytest.raises(StopError):
        later(At(None, 1)).fit(X, Y, checkpoint=tmp_path / "new", **RUN)
    record["settings"] = read_checkpoint(tmp_path / "new").record["settings"]
    (tmp_path / NAME).write_bytes(sealed(manifest, record, arrays))
    t = later(Restored())
    with pytest.raises(StopError):
        t.fit(X, Y, checkpoint=tmp_path, resume=True, **RUN)
    held: dict[str, Any] = {"chip/time_s": np.array([t.chip.time_s])}
    held |= {f"digital/{name}": t.weights()[name] for name in ("s", "b", "mean", "var")}
    held |= {f"optimizer/{name}": array for name, array in t._training.learner.optimizer.state().items()}
    for name, crossbar in t.chip.crossbars.items():
        (devices,), (factors,) = crossbar.held, crossbar.factors
        held |= {f"layer/{name}/drift_factor": factors.columns, f"layer/{name}/drift_unit_factor": factors.units}
        held |= {f"layer/{name}/g_us": devices.g_us, f"layer/{name}/device.written_s": devices.arrays["written_s"]}
    held |= {f"layer/{name}": array for name, array in t.chip.memory.items()}
    assert held.keys() == arrays.keys() - {"schedule/plateau"}
    assert [name for name in held if held[name].tobytes() != arrays[name].tobytes()] == []
    assert t.steps == record["steps"]
    assert dict(vars(t.chip.draws)) == record["draws"]


@pytest.mark.parametrize("frozen", [(), ("w2",)], ids=["all layers train", "a layer does not train"])
def test_a_run_goes_on_from_schema_3_as_it_did(frozen: tuple[str, ...], tmp_path: Path) -> None:
    """Other layers than those that train are those of the chip at the time of the checkpoint."""

    def make(*callbacks: Callback) -> cimc.Trainer:
        return trainer(chip(seed=3, **AGED, **UNITS), callbacks=callbacks, freeze=frozen, init="weights")

    whole = make(At(aged(1e4), None))
    whole.fit(X, Y, checkpoint=tmp_path / "whole", **RUN)
    with pytest.raises(StopError):
        make(At(aged(1e4), 4)).fit(X, Y, checkpoint=tmp_path / "parts", **RUN)
    file = tmp_path / "parts" / NAME
    file.write_bytes(of_schema_3(file.read_bytes()))
    resumed = make(At(aged(1e4), None))
    resumed.fit(X, Y, checkpoint=tmp_path / "parts", resume=True, **RUN)
    expected, found = everything(whole), everything(resumed)
    assert found.keys() == expected.keys()
    assert {name for name in expected if found[name] != expected[name]} <= {"stats"}  # counts of a chip began anew
    assert opened(file.read_bytes())[0]["schema_version"] == 4


def test_a_checkpoint_is_read_while_its_run_goes_on(tmp_path: Path) -> None:
    """Without the lock of the folder, and with nothing written into it."""
    seen: list[Any] = []

    class Reader(Callback):
        def on_epoch(self, trainer: cimc.Trainer, *_: object) -> None:
            before = sorted(path.name for path in tmp_path.iterdir())
            seen.append((trainer, read_checkpoint(tmp_path)))
            assert sorted(path.name for path in tmp_path.iterdir()) == before
            fault(trainer.chip)  # what was read does not change with the chip
            own = {name: array.tobytes() for name, array in trainer.chip.state().tensors().items()}
            assert [name for name, array in seen[-1][1].chip.items() if array.tobytes() != own[name]] == ["state/Gemm_0/g_us"]

    trainer(chip(), callbacks=[Reader()]).fit(X, Y, epochs=1, checkpoint=tmp_path)
    assert len(seen) == 1
    with pytest.raises(ArtifactError, match="no such file"):
        read_checkpoint(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run puts its next checkpoint in the place of the one whose header has been read, but not its arrays."""
    files = []
    for images in (16, 32):
        trainer(chip()).fit(X[:images], Y[:images], epochs=1, checkpoint=tmp_path / str(images))
        files.append((tmp_path / str(images) / NAME).read_bytes())
    folder, opened_file = tmp_path / "run", np.memmap
    folder.mkdir()
    (folder / NAME).write_bytes(files[0])

    def replaced(path: Path, *args: Any, **options: Any) -> Any:
        if (folder / NAME).read_bytes() == files[0]:
            (tmp_path / "next").write_bytes(files[1])
            (tmp_path / "next").replace(folder / NAME)
        return opened_file(path, *args, **options)

    monkeypatch.setattr(np, "memmap", replaced)
    found = read_checkpoint(folder)
    monkeypatch.undo()
    expected = read_checkpoint(tmp_path / "32")
    assert found.record == expected.record
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }
