"""The command as a process: exit codes, streams, what it does when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from typer.testing import CliRunner

from cimc.cli.commands import Commands
from cimc.cli.common import figure
from cimc.cli.process import Stopped
from cimc.errors import DataError, RunError
from cimc.version import __version__
from tests.cli.conftest import cimc, small_model

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


def shell(line: str, where: Path) -> tuple[int, str, str]:
    """Run a line of the shell in which ``cimc`` is the command; exit code, standard output and error."""
    command = f"{sys.executable} -m cimc"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", line.replace("cimc", command, 1)], capture_output=True, text=True, cwd=where, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">/dev/full", 1, "error: standard output: cannot write: No space left on device\n"),
        (">/dev/full 2>/dev/full", 1, ""),
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("| true; exit ${PIPESTATUS[0]}", 1, ""),
    ],
)
def test_streams_that_cannot_be_written(streams: str, code: int, said: str, tmp_path: Path) -> None:
    found, out, err = shell(f"cimc targets show ideal {streams}", tmp_path)
    assert (found, err) == (code, said)
    assert list(tmp_path.iterdir()) == []
    assert bool(out) == streams.startswith("2>")


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", ">&- 2>&-", ">/dev/full"])
def test_an_error_keeps_its_code(streams: str, tmp_path: Path) -> None:
    assert shell(f"cimc inspect none.cim {streams}", tmp_path)[0] == 2
    assert shell(f"cimc inspect --none {streams}", tmp_path)[0] == 2


@pytest.mark.parametrize(("streams", "code"), [(">/dev/full 2>/dev/full", 1), (">&- 2>&-", 0)])
def test_the_result_is_not_lost_with_the_streams(streams: str, code: int, made: Path, tmp_path: Path) -> None:
    line = f"cimc compile {made}/small.onnx --print-after select -o m.cim {streams}"
    assert shell(line, tmp_path)[0] == code
    assert (tmp_path / "m.cim").read_bytes() == (made / "small.cim").read_bytes()


@pytest.mark.parametrize("words", [(), ("train",), ("image",), ("image", "run"), ("targets", "show")])
def test_short_help_is_help(words: tuple[str, ...]) -> None:
    assert cimc(*words, "-h") == cimc(*words, "--help")
    assert cimc(*words, "-h").code == 0


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "cimc", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"cimc {__version__}\n")


def test_a_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--install-completion" in cimc("--help").out
    for words, found in (
        ("cimc comp", {"compile", "compare"}),
        ("cimc image ver", {"verify"}),
        ("cimc train --opt", {"--optimizer"}),
    ):
        environment = {**os.environ, "_CIMC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([*MAIN], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert found <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("words", "where", "what", "fix"),
    [
        ("compil", "cimc", "no such command", "compile"),
        ("image inf", "cimc image", "no such command", "info"),
        ("train --epoch 1", "--epoch", "no such option", "--epochs"),
        ("train m.onnx --epochs 0", "--epochs", "1", "cimc train --help"),
        ("train m.onnx --epochs", "--epochs", "requires an argument", "--help"),
        ("run m.cim --input x.npz", "--output", "missing", "cimc run --help"),
        ("run", "M.cim", "missing", "cimc run --help"),
        ("compile m.onnx more", "cimc compile", "more", "cimc compile --help"),
        ("compile m.onnx --emit exe", "--emit", "exe", "cimc compile --help"),
        ("inspect none.cim", "none.cim", "no", ""),
    ],
)
def test_every_error_has_one_form(words: str, where: str, what: str, fix: str) -> None:
    done = cimc(*words.split())
    first, *rest = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert first.startswith(f"error: {where}: ")
    assert what in first
    assert all(line.startswith("  try: ") and fix in line for line in rest)
    assert len(rest) <= 1
    told = cimc(*words.split(), "--json")
    if words.endswith("--epochs"):  # which takes --json for its value
        return
    error = told.json["error"]
    assert set(error) == {"what", "where", "fix", "exit_code"}
    assert (told.code, error["exit_code"], error["where"]) == (2, 2, where)
    assert f"error: {where}: {error['what']}" in told.err


@pytest.mark.parametrize(
    ("options", "said"), [((), "with --trace"), (("--trace", "t.jsonl"), "add --resume to the same command")]
)
def test_a_search_that_is_stopped_says_how_to_go_on(
    options: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, trace: Path | None, **__: Any) -> None:
        if trace is not None:
            trace.write_text("{}\n")
        raise Stopped(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cimc.tuning.tune.tune", stopped)
    np.savez("d.npz", x=np.zeros((4, 1, 6, 6), np.float32), y=np.arange(4))
    onnx.save(small_model(np.random.default_rng(0)), "m.onnx")
    done = cimc("tune", "m.onnx", "--target", "bulk-rram", "--data", "d.npz", "-o", "out.cim", *options)
    assert done.code == 130
    assert said in done.err
