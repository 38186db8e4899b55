"""Output files: what they replace, what they refuse, what is left of a write that fails."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from cimc.data import save_npz
from cimc.errors import CimcError, OutputError, RunError
from cimc.files import STALE_S, check_folder, check_outputs, clear_stale, replacing, scratch, write_file
from cimc.image.store import created
from cimc.ir.artifact import write_safetensors


def _created(path: Path) -> None:
    with created(path, 8) as buffer:
        buffer[:] = b"8 bytes!"


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_file(path, b"new"),
    "npz": lambda path: save_npz(path, {"a": np.ones(2)}),
    "safetensors": lambda path: write_safetensors({"a": np.ones(2)}, {}, path),
    "image": _created,
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@writers
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real" / "file")
    write(tmp_path / "one")
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() not in (b"", b"old")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "real", "two"]


def test_a_link_to_nothing_makes_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    write_file(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").read_bytes() == b"x"


@writers
@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device", "link to a FIFO"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, write: Callable[[Path], None], kind: str) -> None:
    path = tmp_path / "x"
    if kind.endswith("FIFO"):
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path(os.devnull)
    before = path.lstat()
    if kind.startswith("link"):
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(OutputError, match="cannot write"):
        write(path)
    assert path.stat().st_ino == before.st_ino
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["no/file", "a" * 300, "a\0b", "circle", "file/below"])
def test_a_name_that_no_file_can_have_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_file(tmp_path / name, b"")
    with pytest.raises(RunError, match="cannot write"):
        check_outputs([tmp_path / name])


def test_permissions_of_a_replaced_file_stay_and_a_new_one_heeds_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, mode in (("private", 0o600), ("open", 0o666), ("run", 0o755)):
            (tmp_path / name).write_text("")
            (tmp_path / name).chmod(mode)
            write_file(tmp_path / name, b"new")
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
        write_file(tmp_path / "new", b"new")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_an_output_that_is_an_input_or_another_output_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    data.write_bytes(b"data")
    (tmp_path / "link").symlink_to("d.npz")
    os.link(data, tmp_path / "hard")
    for name in ("d.npz", "link", "hard", "../" + tmp_path.name + "/d.npz"):
        with pytest.raises(OutputError, match=r"an input, .*d\.npz"):
            check_outputs([tmp_path / name], [data])
    with pytest.raises(OutputError, match="two outputs have one name"):
        check_outputs([tmp_path / "a", tmp_path / "b" / ".." / "a"] if (tmp_path / "b").mkdir() is None else [])
    with pytest.raises(OutputError, match="two outputs have one name"):
        check_outputs([tmp_path / "link", data])
    check_outputs([tmp_path / "new", tmp_path / "other"], [data, tmp_path / "none"])


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/stderr"])
def test_the_standard_output_is_no_file(name: str, tmp_path: Path) -> None:
    code = (
        "from cimc.files import write_file\nfrom cimc.errors import OutputError\n"
        f"try: write_file({name!r}, b'x')\nexcept OutputError: raise SystemExit(3)"
    )
    with (tmp_path / "log").open("w") as log:
        for stream in (log, subprocess.PIPE):
            done = subprocess.run([sys.executable, "-c", code], stdout=stream, stderr=stream, cwd=tmp_path)
            assert done.returncode == 3
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


@writers
def test_nothing_is_left_of_a_write_that_is_interrupted(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_two_processes_of_one_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two containers on one volume do."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with replacing(tmp_path / "x") as one, replacing(tmp_path / "x") as two:
        one.write(b"one")
        two.write(b"two")
    assert (tmp_path / "x").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    code = "import sys,time\nfrom cimc.files import replacing\nwith replacing(sys.argv[1]): print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (at_work,) = tmp_path.glob(".cimc.*.tmp")
    _age(at_work, 2 * STALE_S)
    clear_stale(tmp_path)
    assert at_work.exists()
    child.kill()
    child.wait()
    _age(at_work, STALE_S / 2)
    clear_stale(tmp_path)
    assert at_work.exists()
    _age(at_work, 2 * STALE_S)
    write_file(tmp_path / "y", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def test_a_scratch_folder_goes_and_a_stale_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".cimc.0.tmp").mkdir()
    (tmp_path / ".cimc.0.tmp" / "weights").write_text("")
    _age(tmp_path / ".cimc.0.tmp", 2 * STALE_S)

    def fail() -> None:
        with scratch() as folder:
            (folder / "weights").write_text("")
            assert [p.name for p in tmp_path.iterdir()] == [folder.name]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_checked_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    for name in ("file", "file/below", "a" * 300):
        with pytest.raises(CimcError, match="cannot write"):
            check_folder(tmp_path / name)


def test_without_the_right_to_write_it_is_said_before() -> None:
    code = (
        "import os, sys\nfrom cimc.files import check_outputs\nfrom cimc.errors import RunError\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "for name in ('closed/x', 'file'):\n"
        "    try: check_outputs([name])\n    except RunError as error: print(error.what)\n    else: sys.exit(4)"
    )
    with TemporaryDirectory() as name:  # pytest's folders are for their owner alone
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "closed").mkdir(mode=0o555)
        (folder / "file").write_text("keep")
        (folder / "file").chmod(0o444)
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cannot write: the folder is write-protected\ncannot write: the file is write-protected\n"
