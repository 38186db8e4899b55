"""The notebooks in examples/notebooks run, with fewer images, dice and steps than behind the outputs that they keep."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cimc.datasets import mnist

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
#: Arguments that take the time, and what they are here.
FEWER = {"chips": 1, "steps_per_epoch": 20, "epochs": 1, "samples": 8, "dice": 1}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of MNIST."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, **{name: array[:1000] for name, array in mnist().items()})
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path: Path, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PYTHONPATH", str(path.parents[2]))
    book = nbformat.read(path, 4)
    assert [cell for cell in book.cells if cell.cell_type == "code" and not cell.execution_count] == []  # outputs are kept
    for cell in book.cells:
        cell.source = cell.source.replace('"mnist"', repr(str(few)))
        for name, number in FEWER.items():
            cell.source = re.sub(rf"\b{name}=\d+", f"{name}={number}", cell.source)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    nbformat.validate(book)


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["lenet", "own_device", "sweep_pareto"]
