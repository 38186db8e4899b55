"""`cimc doctor`: what it finds is so, and its advice fits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest

from cimc import threads
from cimc.report import doctor
from cimc.runtime import kernel_files

from .conftest import cimc


def found(speed: bool = False) -> dict[str, doctor.Finding]:
    return {one.what: one for one in doctor.findings(speed)}


def test_it_prints_a_table_and_json() -> None:
    done = cimc("doctor", "--no-speed", "--json")
    rows = {row["what"]: row for row in done.json["findings"]}
    assert rows.keys() == found().keys()
    assert f"numpy {numpy.__version__}" in rows["packages"]["found"]
    table = cimc("doctor", "--no-speed")
    assert table.code == 0
    assert all(what in table.out for what in rows)


def test_a_product_is_timed() -> None:
    assert "billion multiply-accumulates a second" in found(speed=True)["speed"].found


@pytest.mark.parametrize(("count", "advice"), [(4095, "more threads than cores"), (None, "")])
def test_threads(count: int | None, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    monkeypatch.setattr(threads, "_threads", cores if count is None else count)
    row = found()["threads"]
    assert row.found.startswith(f"{count or cores} on {cores} cores")
    assert advice in row.advice
    assert bool(row.advice) == bool(advice)


def test_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = kernel_files._Folders()
    folders.paths = [tmp_path / "kernels"]
    monkeypatch.setattr(kernel_files, "_folders", lambda: folders)
    row = found()["compiled kernels"]
    assert row.found == f"0 in {tmp_path / 'kernels'}"
    assert "cimc warmup" in row.advice
    assert list(folders.paths[0].iterdir()) == []  # it leaves nothing
    assert kernel_files.write("one", b"x")
    row = found()["compiled kernels"]
    assert (row.found, row.advice) == (f"1 in {tmp_path / 'kernels'}", "")
    folders.paths = [tmp_path / "kernels" / "one" / "no folder"]
    row = found()["compiled kernels"]
    assert row.found == "no folder takes them"
    assert "NUMBA_CACHE_DIR" in row.advice


def test_what_is_not_installed_is_told_with_its_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_OPTIONAL", {"no-such-package": "nothing"})
    row = found()["optional packages"]
    assert (row.found, row.advice) == ("none", "not installed: no-such-package (nothing)")
