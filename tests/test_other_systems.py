"""Files are written and locked where the system lacks what POSIX has; Windows is imitated as far as these modules ask it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.files import clear_stale, scratch, write_file
from cimc.training.lock import RunLock
from tests.training import small

MISSING = ("fchmod", "pwrite", "pread", "posix_fallocate", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No locks, no folders that can be opened, no renaming onto or deleting of an open file, no signal 0."""
    for name in MISSING:
        monkeypatch.delattr(os, name)
    monkeypatch.setattr("cimc.locks.fcntl", None)
    monkeypatch.setattr("cimc.locks.CAREFUL", 0)
    monkeypatch.setattr("cimc.training.lock.CAREFUL", 0)
    for module in ("locks", "files", "training.lock"):
        monkeypatch.setattr(f"cimc.{module}.WINDOWS", True)
    monkeypatch.setattr("shutil._use_fd_functions", False)
    own_open, own_replace, own_unlink = os.open, os.replace, os.unlink

    def opened(path: Any, *args: Any, **kwargs: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return own_open(path, *args, **kwargs)

    def closed(path: Any) -> None:
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        if str(Path(path).absolute()) in {os.readlink(link) for link in links if os.path.islink(link)}:
            raise PermissionError(13, "used by another process", str(path))

    def replace(source: Any, destination: Any) -> None:
        closed(source)
        own_replace(source, destination)

    def unlink(path: Any, **kwargs: Any) -> None:
        closed(path)
        own_unlink(path, **kwargs)

    def kill(*_: Any) -> None:
        raise AssertionError("signal 0 interrupts a process there")

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "kill", kill)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are known from /proc")
@pytest.mark.usefixtures("windows")
class TestWithoutPosix:
    def test_a_file_is_written_and_replaced(self, tmp_path: Path) -> None:
        for content in (b"first", b"second"):
            write_file(tmp_path / "a", content)
            assert (tmp_path / "a").read_bytes() == content
        assert os.listdir(tmp_path) == ["a"]

    def test_scratch_folders_come_and_go(self) -> None:
        with scratch() as folder:
            (folder / "x").write_bytes(b"x")
        assert not folder.exists()

    def test_what_is_stale_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".cimc.0.tmp").write_bytes(b"x")
        (tmp_path / ".cimc.1.tmp").mkdir()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        clear_stale(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_a_folder_belongs_to_one_run(self, tmp_path: Path) -> None:
        held = RunLock(tmp_path)
        held.release()
        assert os.listdir(tmp_path) == []
        other = {"process": 1, "host": socket.gethostname(), "started": "now"}
        (tmp_path / "run.lock").write_text(json.dumps(other))
        with pytest.raises(cimc.CimcError, match="another run has the folder: process 1"):
            RunLock(tmp_path)

    def test_a_chip_trains_with_checkpoints_and_is_exported(self, tmp_path: Path) -> None:
        x, y = small.data(32)
        chip = small.chip()
        trainer = small.trainer(chip)
        trainer.fit(x, y, epochs=1, checkpoint=tmp_path / "run")
        trainer.fit(x, y, epochs=2, checkpoint=tmp_path / "run", resume=True)
        trainer.program().save(tmp_path / "t.cim")
        cimc.export_image(trainer.program(), path=tmp_path / "t.cimg")
        outputs = [np.asarray(v) for v in cimc.load_image(tmp_path / "t.cimg").program(seed=1).run({"x": x}).values()]
        assert all(np.isfinite(v).all() for v in outputs)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "t.cim", "t.cimg"]
