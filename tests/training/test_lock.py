"""One run a folder: a second one is refused by name and deletes nothing, a dead one holds nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cimc.errors import CimcError, RunError
from cimc.training import lock
from cimc.training.folder import Folder
from cimc.training.lock import RunLock

HOLD = "import sys, time\nfrom pathlib import Path\nfrom cimc.training.lock import RunLock\nlock = RunLock(Path(sys.argv[1]))\n"


def held(folder: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", f"{HOLD}print(flush=True); time.sleep(60)", folder], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_a_second_run_is_refused_by_name_and_deletes_nothing(tmp_path: Path) -> None:
    child = held(tmp_path)
    try:
        (tmp_path / ".cimc.0123456789abcdef.tmp").write_text("of the first run")
        for _ in range(2):
            with pytest.raises(CimcError, match=f"process {child.pid} on {socket.gethostname()}, since 20"):
                Folder(tmp_path)
        assert (tmp_path / ".cimc.0123456789abcdef.tmp").exists()
    finally:
        child.kill()
        child.wait()
    folder = Folder(tmp_path)  # the lock of a killed process is stale
    assert json.loads((tmp_path / "run.lock").read_text())["process"] == os.getpid()
    with pytest.raises(CimcError, match=f"process {os.getpid()}"):
        Folder(tmp_path)
    folder.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_made_for_a_run_that_wrote_nothing_goes(tmp_path: Path) -> None:
    Folder(tmp_path / "a").close()
    (tmp_path / "own").mkdir()
    Folder(tmp_path / "own").close()
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"process": "x"}'])
def test_a_torn_lock_file_is_stale(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.lock").write_bytes(content)
    RunLock(tmp_path).release()


def test_where_there_are_no_locks_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "try_lock", lambda _: "unknown")
    here = {"host": socket.gethostname(), "started": "2026-01-01T00:00:00+00:00"}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for holder, free in (
        ({"process": os.getppid(), **here}, False),
        ({"process": ended.pid, **here}, True),
        ({"process": 1, **here, "host": "elsewhere"}, False),
    ):
        (tmp_path / "run.lock").write_text(json.dumps(holder))
        if free:
            RunLock(tmp_path).release()
        else:
            with pytest.raises(CimcError, match=r"another run has the folder.*\n.*delete"):
                RunLock(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="cannot write"):
        RunLock(tmp_path)
    assert not (tmp_path / "precious").exists()


def test_of_many_that_begin_at_once_one_has_it(tmp_path: Path) -> None:
    code = f"{HOLD}print('mine', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    children = [subprocess.Popen([sys.executable, "-c", code, tmp_path], **pipes) for _ in range(4)]
    losers = [child for child in children if child.stdout and child.stdout.readline() != b"mine\n"]
    assert len(losers) == 3
    for child in children:
        child.communicate()
