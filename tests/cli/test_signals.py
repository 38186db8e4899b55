"""A command that is stopped, or whose disk is full, leaves nothing half-done and says what was the matter in a line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MAIN = [sys.executable, "-m", "cimc"]
#: The command holds still, with its temporary file open, the first time that it writes; and says so.
HELD = """
import sys, time, cimc.files
from contextlib import contextmanager
real = cimc.files.replacing
@contextmanager
def replacing(path):
    with real(path) as file:
        file.write(b"begun"); file.flush(); print("writing", file=sys.stderr, flush=True)
        time.sleep(60)
        yield file
cimc.files.replacing = replacing
from cimc.cli.app import main
main()
"""
WRITERS = {
    "compile": "compile {made}/small.onnx -o out",
    "compile --emit": "compile {made}/small.onnx --emit onnx -o out",
    "run": "run {made}/ideal.cim --input {made}/data.npz -o out",
    "train": "train {made}/small.onnx --data {made}/data.npz --epochs 1 --batch 4 -o out",
    "train --checkpoint": "train {made}/small.onnx --data {made}/data.npz --epochs 1 --batch 4 -o out --checkpoint a/b",
    "export": "export {made}/small.cim -o out",
}
writers = pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)


def started(program: list[str], command: str, made: Path, where: Path) -> subprocess.Popen[str]:
    """TMPDIR is the folder ``tmp`` in ``where``."""
    (where / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(where / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
    words = command.format(made=made).split()
    return subprocess.Popen(
        [*program, *words], cwd=where, env=environment, stdout=-1, stderr=-1, text=True, preexec_fn=default_signals
    )


def default_signals() -> None:
    """Whatever runs the tests may ignore some."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def nothing_left(where: Path) -> bool:
    """Beside what other packages put into the system's temporary folder."""
    return [path.name for path in where.iterdir()] == ["tmp"] and not list(where.glob("tmp/.cimc*"))


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stderr is not None
    for said in process.stderr:
        if line in said:
            return
    raise AssertionError(f"it ended without {line}")


@writers
def test_a_command_that_is_stopped_while_it_writes_leaves_nothing(command: str, made: Path, tmp_path: Path) -> None:
    number, said = {
        "compile": (signal.SIGTERM, "terminated"),
        "run": (signal.SIGHUP, "hung up"),
    }.get(command.split()[0], (signal.SIGINT, "interrupted"))
    process = started([sys.executable, "-c", HELD], command, made, tmp_path)
    wait_for(process, "writing")
    process.send_signal(number)
    out, err = process.communicate(timeout=50)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert [line for line in err.splitlines() if line not in ("writing", "") and not line.startswith("  try: ")][-1:] == [said]
    assert "Traceback" not in err
    assert nothing_left(tmp_path)


@writers
def test_a_full_disk_leaves_nothing(command: str, made: Path, tmp_path: Path) -> None:
    """No file may have more than 100 bytes, as on a disk that is full."""
    limited = "import resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (100, 100)); from cimc.cli.app import main; main()"
    process = started([sys.executable, "-B", "-c", limited], command, made, tmp_path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert out == ""
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        line for line in err.splitlines() if "cannot write" in line or "no temporary folder" in line
    ]
    assert "error: " in err
    assert "Traceback" not in err
    assert nothing_left(tmp_path)


def test_training_that_is_stopped_says_how_to_go_on(made: Path, tmp_path: Path) -> None:
    command = WRITERS["train --checkpoint"].replace("--epochs 1", "--epochs 100000")
    process = started(MAIN, command + " --tensorboard board", made, tmp_path)
    for _ in range(400):
        if (tmp_path / "a/b/checkpoint.safetensors").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # who presses the keys twice does not disturb the cleaning up
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert err.splitlines()[-2] == "interrupted"
    assert "--resume" in err.splitlines()[-1]
    assert "a/b" in err.splitlines()[-1]
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "tmp"]
    assert {path.parent.name for path in left} <= {"b", "board"}
    assert all(path.stat().st_size for path in left)
    assert not list(tmp_path.rglob(".cimc.*"))
    assert not (tmp_path / "a/b/run.lock").exists()
    done = started(MAIN, command, made, tmp_path)
    _, err = done.communicate(timeout=50)
    assert (done.returncode, "--resume to go on" in err) == (2, True)
    assert "initializers train" not in err  # it is refused before anything is compiled


def test_a_signal_that_is_ignored_stays_ignored(made: Path, tmp_path: Path) -> None:
    """As under nohup."""
    process = started(["nohup", sys.executable, "-c", HELD], WRITERS["compile"], made, tmp_path)
    wait_for(process, "writing")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 143
