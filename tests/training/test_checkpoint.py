"""Checkpoints: whatever stops a run, it goes on to the same bytes; what cannot be written leaves the last one intact."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.training.history import Callback

from .small import NORMED, chip, data, trainer

ROOT = Path(__file__).parents[2]
X, Y = data(80)
OPTIONS: dict[str, Any] = {"epochs": 3, "checkpoint_steps": 2}


class StopError(Exception):
    pass


class Stop(Callback):
    """Ends a run at its n-th step, as an exception from nowhere would."""

    def __init__(self, step: int) -> None:
        self.left = step

    def on_step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise StopError


def make(**options: Any) -> cimc.Trainer:
    return trainer(chip(text=NORMED), lr=0.02, **options)


def contents(t: cimc.Trainer) -> dict[str, bytes]:
    program = t.program()
    return {name: array.tobytes() for name, array in program.tensors.items()} | {"": program.model_dump_json().encode()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    t = make()
    t.fit(X, Y, checkpoint=folder, validation=(X, Y), **OPTIONS)
    return folder, contents(t)


@pytest.mark.parametrize("step", [1, 5, 6, 14])
def test_an_interrupted_run_ends_with_the_same_bytes(step: int, whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(StopError):
        make(callbacks=[Stop(step)]).fit(X, Y, checkpoint=tmp_path, validation=(X, Y), **OPTIONS)
    t = make()
    history = t.fit(X, Y, checkpoint=tmp_path, validation=(X, Y), resume=True, **OPTIONS)
    folder, expected = whole
    assert contents(t) == expected
    name = "checkpoint.safetensors"
    assert (tmp_path / name).stat().st_size == (folder / name).stat().st_size
    rows = [[json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()] for d in (tmp_path, folder)]
    for mine, theirs in zip(*rows, strict=True):
        assert {k: v for k, v in mine.items() if k not in ("seconds", "images_per_second")} == {
            k: v for k, v in theirs.items() if k not in ("seconds", "images_per_second")
        }
    assert history["epoch"] == [1, 2, 3]


SCRIPT = """
import os, random, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from cimc.training.history import Callback
from tests.training.test_checkpoint import OPTIONS, X, Y, make

folder, when = Path(sys.argv[1]), sys.argv[2]

class Kill(Callback):
    def on_step(self, trainer, row):
        if trainer.steps == int(when):
            os.kill(os.getpid(), signal.SIGKILL)

if when.startswith("write"):
    left, replace = int(when[5:]), os.replace
    def dying(source, goal):
        global left
        left -= 1
        if left == 0:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, goal)
    os.replace = dying
t = make(callbacks=[Kill()] if when.isdigit() else [])
t.fit(X, Y, checkpoint=folder, validation=(X, Y), resume=True, **OPTIONS)
t.chip.save(folder / "trained.cim")
"""


def test_killed_twice_it_still_ends_with_the_same_bytes(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    run = [sys.executable, "-c", SCRIPT.format(root=str(ROOT)), str(tmp_path)]
    random = np.random.default_rng()
    for when in (str(random.integers(1, 8)), f"write{random.integers(1, 4)}"):
        assert subprocess.run([*run, when], cwd=ROOT).returncode == -signal.SIGKILL, when
    assert subprocess.run([*run, "never"], cwd=ROOT).returncode == 0
    program = cimc.load(tmp_path / "trained.cim")
    found = {name: array.tobytes() for name, array in program.tensors.items()} | {"": program.model_dump_json().encode()}
    assert found == whole[1]
    assert not list(tmp_path.glob(".*"))  # no torn file is left


def test_a_folder_with_a_run_is_not_overwritten(whole: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(cimc.CimcError, match="holds the checkpoint of a run"):
        make().fit(X, Y, checkpoint=whole[0], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0.03}, "learning rate"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"batch_size": 8}, "batch size"),
        ({"seed": 4}, "seed"),
    ],
)
def test_another_run_is_not_resumed(options: dict[str, Any], said: str, whole: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(cimc.ArtifactError, match=f"made with {said}"):
        trainer(chip(text=NORMED), **{"lr": 0.02, **options}).fit(X, Y, checkpoint=whole[0], resume=True, **OPTIONS)


def test_other_data_are_not_resumed_on(whole: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(cimc.ArtifactError, match="made with data"):
        make().fit(*data(80, seed=9), checkpoint=whole[0], resume=True, **OPTIONS)


def test_a_damaged_checkpoint_is_said_so(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    content = (whole[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(cimc.ArtifactError, match="damaged"):
        make().fit(X, Y, checkpoint=tmp_path, resume=True, **OPTIONS)


def test_a_folder_that_cannot_be_made_stops_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    t = make()
    with pytest.raises(cimc.RunError, match="cannot write"):
        t.fit(X, Y, checkpoint=tmp_path / "file" / "run", **OPTIONS)
    assert t.steps == 0


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A disk that is full: files cannot grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_the_last_checkpoint(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(StopError):
        make(callbacks=[Stop(7)]).fit(X, Y, checkpoint=tmp_path, validation=(X, Y), **OPTIONS)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    t = make()
    with no_file_above(len(content) // 2), pytest.raises(cimc.RunError, match="cannot write"):
        t.fit(X, Y, checkpoint=tmp_path, validation=(X, Y), resume=True, **OPTIONS)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "metrics.jsonl"]
    t = make()
    t.fit(X, Y, checkpoint=tmp_path, validation=(X, Y), resume=True, **OPTIONS)
    assert contents(t) == whole[1]


def changed(x: Any, y: Any, how: str) -> tuple[Any, Any]:
    """The data of a run with one thing other in the middle of them."""
    x, y = x.copy(), y.copy()
    if how == "pixel":
        x[len(x) // 2, 0, 3, 3] += 0.25
    elif how == "label":
        y[len(y) // 2] = (y[len(y) // 2] + 1) % 3
    elif how == "order":
        x[[40, 41]], y[[40, 41]] = x[[41, 40]], y[[41, 40]]
    return x, y


@pytest.mark.parametrize("how", ["pixel", "label", "order"])
@pytest.mark.parametrize("part", ["data", "test data"])
def test_data_that_differ_anywhere_are_not_resumed_on(
    part: str, how: str, whole: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    other = changed(X, Y, how)
    train, test = ((X, Y), other) if part == "test data" else (other, (X, Y))
    with pytest.raises(cimc.ArtifactError, match=f"made with {part} "):
        make().fit(*train, checkpoint=whole[0], validation=test, resume=True, **OPTIONS)


def batches(x: Any = X, y: Any = Y) -> list[tuple[Any, Any]]:
    return [(x[n : n + 16], y[n : n + 16]) for n in range(0, len(x), 16)]


@pytest.mark.parametrize("kind", ["list", "function", "iterator"])
def test_batches_of_a_stream_are_checked_as_far_as_they_are_drawn_again(kind: str, tmp_path: Path) -> None:
    """A run that stopped within its first epoch, after a checkpoint of two of its five steps."""

    def source(given: list[tuple[Any, Any]]) -> Any:
        return {"list": given, "function": lambda epoch: iter(given), "iterator": iter(given * 3)}[kind]

    options: dict[str, Any] = {**OPTIONS, "steps_per_epoch": 5, "checkpoint": tmp_path}
    whole = make()
    whole.fit(source(batches()), epochs=3, steps_per_epoch=5)
    with pytest.raises(StopError):
        make(callbacks=[Stop(3)]).fit(source(batches()), **options)
    x, _ = changed(X, Y, "pixel")
    first = X.copy()
    first[2, 0, 1, 1] += 0.25
    for other in (first, x) if kind == "list" else (first,):
        with pytest.raises(cimc.ArtifactError, match=r"made with data|not those that the run was trained on"):
            make().fit(source(batches(other)), resume=True, **options)
    t = make()
    history = t.fit(source(batches()), resume=True, **options)
    assert {n: a.tobytes() for n, a in t.weights().items()} == {n: a.tobytes() for n, a in whole.weights().items()}
    assert any("draws again" in note for note in history.notes) == (kind != "list")


def test_an_iterator_that_is_too_short_to_resume_is_said(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "steps_per_epoch": 5, "checkpoint": tmp_path}
    with pytest.raises(StopError):
        make(callbacks=[Stop(7)]).fit(iter(batches() * 2), **options)
    with pytest.raises(cimc.DataError, match="end after 2, the run that is resumed had drawn 5"):
        make().fit(iter(batches()[:2]), resume=True, **options)
