"""The command as a process: exit codes, streams, what it does when it is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cimc.cli.common import Commands, figure
from cimc.errors import DataError, RunError
from cimc.version import __version__

ROOT = Path(__file__).parents[2]
MAIN = [sys.executable, "-c", "from cimc.cli.app import main; main()"]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MAIN, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def test_help_names_every_command() -> None:
    done = process("--help")
    assert done.returncode == 0
    for name in ("compile", "run", "evaluate", "compare", "inspect", "targets"):
        assert f"  {name} " in done.stdout


def test_version() -> None:
    assert process("--version").stdout == f"cimc {__version__}\n"


def test_unknown_command_is_bad_usage() -> None:
    done = process("compil")
    assert done.returncode == 2
    assert "compil" in done.stderr


def test_bad_input_is_two_without_a_traceback(tmp_path: Path) -> None:
    done = process("inspect", tmp_path / "none.cim")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error_message() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*MAIN, "targets", "schema"], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (DataError("x is empty", where="d.npz", fix="add images"), 2, "error: d.npz: x is empty\n  try: add images\n"),
        (RunError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 1, "error: out of memory\n"),
    ],
)
def test_what_a_command_raises_becomes_a_message_and_a_code(raised: BaseException, code: int, said: str) -> None:
    app = typer.Typer(cls=Commands)

    @app.command("one")
    def one() -> None:
        raise raised

    app.command("two")(lambda: None)
    done = CliRunner().invoke(app, ["one"])
    assert done.exit_code == code
    assert done.stderr.startswith(said)
    assert done.stdout == ""


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.123456, "0.1235"), (7, "7"), ("a", "a"), (True, "True")])
def test_figures_for_people(value: object, shown: str) -> None:
    assert figure(value) == shown
