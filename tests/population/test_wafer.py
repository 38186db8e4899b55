"""Maps of a wafer: each die is that of a single evaluation with its own fields, and results know where it lies."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.cli.app import app
from cimc.pages.population_files import population_of_journal, population_of_json, population_of_rows
from cimc.population.pictures import pictures_of_population
from cimc.population.result import Population
from cimc.population.wafer import Wafer, read_wafer

Array = np.ndarray[Any, Any]
SIGMA = "device.programming.sigma_us"
MAP = f"""# wafer 7
seed, x_mm, y_mm, {SIGMA}, device.drift
5, 0, 0, 0.5,
3, 30, -40, 4.0, null
9, -60, 80, 12.0,
4, 10, 0, ,
"""


@pytest.fixture(scope="module")
def program() -> cimc.Program:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 12] x) => (float[n, 4] y) { y = MatMul (x, w) }'
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return cimc.compile(model, "bulk-rram", calibration={"x": np.random.default_rng(2).random((64, 12)).astype(np.float32)})


@pytest.fixture(scope="module")
def data() -> tuple[Array, Array]:
    random = np.random.default_rng(3)
    return random.random((90, 12)).astype(np.float32), random.integers(0, 4, 90)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "map.csv").write_text(MAP)
    return tmp_path / "map.csv"


def test_a_map_as_text(path: Path) -> None:
    wafer = read_wafer(path)
    assert wafer.seeds == (5, 3, 9, 4)
    assert (wafer.x_mm, wafer.y_mm) == ((0, 30, -60, 10), (0, -40, 80, 0))
    assert wafer.settings == ({SIGMA: 0.5}, {SIGMA: 4.0, "device.drift": None}, {SIGMA: 12.0}, {})
    assert wafer.columns()["radius_mm"] == [0, 50, 100, 10]
    assert Wafer.from_dict(json.loads(json.dumps(wafer.to_dict()))) == wafer


def test_each_die_is_that_of_a_single_evaluation(program: cimc.Program, data: tuple[Array, Array], path: Path) -> None:
    found = cimc.evaluate(program, *data, wafer=path)
    assert found.seeds == (5, 3, 9, 4)
    for number, seed in enumerate(found.seeds):
        own = read_wafer(path).of(number)
        alone = cimc.evaluate(program, *data, chips=1, seed=seed, settings=own)
        assert found.accuracy[0, 0, number] == alone.accuracy[0, 0, 0]
        assert found.agreement[0, 0, number] == alone.agreement[0, 0, 0]


def test_a_sweep_over_a_map(program: cimc.Program, data: tuple[Array, Array], path: Path) -> None:
    found = cimc.sweep(program, *data, {"device.read_sigma_us": [0.0, 3.0]}, wafer=path)
    alone = cimc.evaluate(program, *data, chips=1, seed=9, settings={SIGMA: 12.0, "device.read_sigma_us": 3.0})
    assert found.accuracy[1, 0, 2] == alone.accuracy[0, 0, 0]


def test_correlation_over_the_wafer() -> None:
    """Ranks by hand: the figure falls with the radius in each step, and rises with y in part."""
    wafer = Wafer((0, 1, 2, 3), (0.0, 3.0, 0.0, 9.0), (0.0, 4.0, -8.0, 12.0), ({SIGMA: 1}, {SIGMA: 1}, {SIGMA: 1}, {SIGMA: 1}))
    accuracy = np.array([[[0.9, 0.8, 0.7, 0.6]]])
    found = Population(({},), (0.0,), (0, 1, 2, 3), accuracy, accuracy, 1.0, 10, wafer=wafer)
    correlation = found.over_wafer()
    assert correlation["radius_mm"] == pytest.approx(-1)
    assert correlation["y_mm"] == pytest.approx(_spearman([2, 3, 1, 4]))
    assert correlation[SIGMA] is None
    assert any("wafer" in picture.title for picture in pictures_of_population(found))


def _spearman(ranks: list[int]) -> float:
    """Of ranks without ties against 4, 3, 2, 1: one minus six times the squared differences over n (n² - 1)."""
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(ranks, (4, 3, 2, 1), strict=True)) / (4 * 15)


def test_results_know_places_again(program: cimc.Program, data: tuple[Array, Array], path: Path, tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    found = cimc.evaluate(program, *data, wafer=path, journal=journal)
    found.save(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["x_mm"]) for row in rows] == [("5", "0.0"), ("3", "30.0"), ("9", "-60.0"), ("4", "10.0")]
    first, *records = [json.loads(line) for line in journal.read_text().splitlines()]
    read = {
        "table": population_of_rows(rows),
        "json": population_of_json(json.loads(json.dumps(found.to_dict()))),
        "journal": population_of_journal(first["about"], records)[0],
    }
    for name, again in read.items():
        assert again.wafer is not None, name
        assert again.over_wafer()["radius_mm"] == found.over_wafer()["radius_mm"], name
    resumed = cimc.evaluate(program, *data, wafer=path, journal=journal, resume=True)
    np.testing.assert_array_equal(resumed.accuracy, found.accuracy)
    with pytest.raises(cimc.CimcError, match="wafer differ"):
        cimc.evaluate(program, *data, wafer=Wafer((5, 3, 9, 4)), journal=journal, resume=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed,x_mm\n1,2\n", "lacks a column"),
        ("x_mm,y_mm\n1,2\n", "lacks a column"),
        ("seed,seed\n1,2\n", "twice"),
        ("seed\n1\n1\n", "die 1 is there twice"),
        ("seed\n-1\n", "no seed"),
        ("seed,x_mm,y_mm\n1,2,far\n", "row 2, column y_mm"),
        ("seed,x_mm,y_mm\n1,2\n", "2 cells under 3 columns"),
        ("seed,device.nothing\n1,2\n", "row 2"),
        (f"seed,{SIGMA}\n1,much\n", "sigma_us"),
        ("seed,adc.bits\n1,4\n", "changes the program"),
        ("seed\n", "no die"),
        ("\x00\xff", "map.csv"),
    ],
)
def test_what_is_refused(program: cimc.Program, data: tuple[Array, Array], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "map.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(cimc.CimcError, match=said):
        cimc.evaluate(program, *data, wafer=tmp_path / "map.csv")


def test_a_field_is_varied_in_one_place(program: cimc.Program, data: tuple[Array, Array], path: Path) -> None:
    with pytest.raises(cimc.CimcError, match="is in the settings, and each die has its own"):
        cimc.sweep(program, *data, {SIGMA: [1.0]}, wafer=path)


def test_the_command(
    program: cimc.Program, data: tuple[Array, Array], path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    command = ["evaluate", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz"), "--wafer", str(path)]
    assert app([*command, "--json"], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chips"] == 4
    assert told["accuracy"]["values"] == cimc.evaluate(program, *data, wafer=path).accuracy[0, 0].tolist()
    assert told["wafer"]["dice"][1] == {"seed": 3, "x_mm": 30, "y_mm": -40, "settings": {SIGMA: 4.0, "device.drift": None}}
    assert app(command, standalone_mode=False) == 0
    assert "radius_mm" in capsys.readouterr().out
    assert app([*command, "--chips", "2"], standalone_mode=False) == 2
    assert app([*command, "--seed", "2"], standalone_mode=False) == 2
