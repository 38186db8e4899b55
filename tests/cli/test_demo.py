"""The demo makes every file that it tells of, from made-up pictures where no data set is on the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc import datasets
from cimc.cli import demo_parts
from tests.cli.conftest import cimc as command


def test_the_tour_on_made_up_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = demo_parts.pictures
    monkeypatch.setattr(datasets, "on_this_machine", list)
    monkeypatch.setattr(demo_parts, "pictures", lambda seed: whole(seed, 1500, 32))
    done = command("demo", "-o", tmp_path / "d", "--epochs", 2, "--chips", 1, "--json")
    assert done.code == 0, done.err
    assert "the pictures are made up" in done.err
    told = done.json
    assert [step["command"].split()[1] for step in told["steps"]] == ["train", "compile", "evaluate", "explain", "export"]
    assert all(Path(file).is_file() for file in told["files"])
    assert min(told["steps"][2]["result"]["accuracy"]["values"]) > 0.3  # of ten classes; guessing has 0.1
    assert cimc.load_image(tmp_path / "d" / "chip.cimg").program(seed=0) is not None


def test_pictures_are_of_a_seed() -> None:
    one, same, other = demo_parts.pictures(1, 50, 20), demo_parts.pictures(1, 50, 20), demo_parts.pictures(2, 50, 20)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["x_test"], other["x_test"])


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("demo", "-o", tmp_path / "file" / "d")
    assert done.code == 1
    assert "is no folder" in done.err
