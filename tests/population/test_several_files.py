"""Several programs in one study: each on the same dice, then all of them together."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.cli.app import app
from cimc.pages.report import read_artefact

Array = np.ndarray[Any, Any]
SIGMA = "device.programming.sigma_us"


def model(seed: int, inputs: int = 12, outputs: int = 4) -> onnx.ModelProto:
    weight = np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def data() -> tuple[Array, Array]:
    """Images, and the classes that the model of seed 1 says."""
    x = np.random.default_rng(2).random((120, 12)).astype(np.float32)
    return x, (x @ numpy_helper.to_array(model(1).graph.initializer[0])).argmax(1)


@pytest.fixture(scope="module")
def files(data: tuple[Array, Array], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three programs of other weights; the last one is trained, so that it holds a chip."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"t{seed}.cim" for seed in (1, 2, 3)]
    programs = [cimc.compile(model(seed), "bulk-rram", calibration={"x": data[0]}) for seed in (1, 2, 3)]
    trainer = cimc.Trainer(cimc.Chip(programs[2]), lr=0.05, batch_size=40)
    trainer.fit(*data, epochs=1)
    for path, program in zip(paths, [*programs[:2], trainer.program()], strict=True):
        program.save(path)
    return paths


def test_each_file_is_evaluated_as_it_is_alone(files: list[Path], data: tuple[Array, Array]) -> None:
    grid = {SIGMA: [1.0, 6.0]}
    found = cimc.sweep(files, *data, grid, chips=4, seed=3)
    alone = [cimc.sweep(path, *data, grid, chips=4, seed=3) for path in files]
    np.testing.assert_array_equal(found.accuracy, np.concatenate([one.accuracy for one in alone]))
    np.testing.assert_array_equal(found.agreement, np.concatenate([one.agreement for one in alone]))
    assert found.files == {str(path): one.reference for path, one in zip(files, alone, strict=True)}
    assert found.reference == np.median([one.reference for one in alone])
    assert [row["file"] for row in found.quantiles()] == [str(path) for path in files for _ in range(2)]
    assert found.seeds == (3, 4, 5, 6)
    programs = [cimc.load(path) for path in files]
    np.testing.assert_array_equal(cimc.sweep(programs, *data, grid, chips=4, seed=3).accuracy, found.accuracy)


def test_all_files_together(files: list[Path], data: tuple[Array, Array]) -> None:
    found = cimc.sweep(files, *data, {SIGMA: [1.0, 6.0]}, chips=4)
    pooled = found.pooled()
    assert pooled.accuracy.shape == (2, 1, 12)
    for point, value in enumerate((1.0, 6.0)):
        dice = [row["accuracy"] for row in found.table() if row[SIGMA] == value]
        assert sorted(pooled.accuracy[point, 0]) == sorted(dice)
        assert pooled.quantiles()[point]["median"] == float(np.median(dice))
        share = pooled.yield_at(0.5, point)
        assert share.share == np.mean([one >= 0.5 for one in dice])
        assert share.chips == 4  # each seed counts once: the files' dice draw the same numbers
    assert found.sensitivity() == pooled.sensitivity()
    assert pooled.pooled() is pooled


def test_the_command_with_several_files(
    files: list[Path], data: tuple[Array, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    table, journal = tmp_path / "t.csv", tmp_path / "j.jsonl"
    command = ["evaluate", *map(str, files), "--data", str(tmp_path / "d.npz")]
    options = ["--chips", "3", "--sweep", f"{SIGMA}=1,8", "--yield-at", "0.5", "--csv", str(table), "--journal", str(journal)]
    assert app([*command, *options, "--json"], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    expected = cimc.sweep(files, *data, {SIGMA: [1, 8]}, chips=3)
    assert [point["file"] for point in told["points"]] == [str(path) for path in files for _ in range(2)]
    assert [point["accuracy"]["values"] for point in told["points"]] == expected.accuracy[:, 0].tolist()
    assert [len(point["accuracy"]["values"]) for point in told["over_files"]] == [9, 9]
    assert told["accuracy"] == told["over_files"][0]["accuracy"]
    assert told["yield"] == told["over_files"][0]["yield"]
    assert list(told["files"]) == [str(path) for path in files]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["seed"]) for row in rows[:4]] == [(str(files[0]), str(seed)) for seed in (0, 1, 2, 0)]
    assert read_artefact(journal).facts["files"] == 3
    assert app([*command, *options, "--resume"], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    assert "all 3 files" in shown
    assert "by file" in shown
    cimc.load(files[1]).save(tmp_path / "other.cim")
    changed = ["evaluate", str(files[0]), str(tmp_path / "other.cim"), str(files[2]), *command[4:]]
    assert app([*changed, *options, "--resume"], standalone_mode=False) == 2
    assert app(command, standalone_mode=False) == 2
    assert app(["evaluate", str(files[0]), str(files[0]), *command[4:], "--chips", "2"], standalone_mode=False) == 2


def test_programs_that_differ_are_refused(files: list[Path], data: tuple[Array, Array]) -> None:
    calibration = {"x": np.ones((4, 12), np.float32)}
    wide = cimc.compile(model(1, outputs=5), "bulk-rram", calibration=calibration)
    long = cimc.compile(model(1, inputs=13), "bulk-rram", calibration={"x": np.ones((4, 13), np.float32)})
    for other, what in ((wide, "outputs"), (long, "inputs")):
        with pytest.raises(cimc.CimcError, match=rf"program 1: {what} differ from those of .*t1\.cim"):
            cimc.evaluate([files[0], other], *data, chips=1)
    with pytest.raises(cimc.CimcError, match="no program"):
        cimc.evaluate([], *data, chips=1)
    with pytest.raises(cimc.CimcError, match="changes the program itself"):
        cimc.sweep(files, *data, {"adc.bits": [4]}, chips=1)
    with pytest.raises(cimc.CimcError, match="is no program"):
        cimc.evaluate([files[0], 3], *data, chips=1)  # type: ignore[list-item]
    image = cimc.export_image(cimc.load(files[0]))
    assert cimc.evaluate([image, files[1]], *data, chips=1).accuracy.shape == (2, 1, 1)
    with pytest.raises(cimc.CimcError, match="program 1: an image is for the chip"):
        cimc.sweep([files[1], image], *data, {SIGMA: [1.0]}, chips=1)  # type: ignore[list-item]


def test_files_on_the_dice_of_a_wafer(files: list[Path], data: tuple[Array, Array], tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(f"seed,x_mm,y_mm,{SIGMA}\n5,0,0,1\n2,10,0,8\n9,0,20,4\n")
    found = cimc.evaluate(files[:2], *data, wafer=tmp_path / "w.csv")
    for number, path in enumerate(files[:2]):
        alone = cimc.evaluate(path, *data, wafer=tmp_path / "w.csv")
        np.testing.assert_array_equal(found.accuracy[number], alone.accuracy[0])
        assert found.over_wafer(number) == alone.over_wafer()
    assert (found.seeds, found.pooled().seeds) == ((5, 2, 9), (5, 2, 9, 5, 2, 9))
    for ending in ("csv", "json"):
        found.save(tmp_path / f"p.{ending}")
        titles = [one.title for one in read_artefact(tmp_path / f"p.{ending}").sections[0].pictures]
        assert titles[-2:] == ["Accuracy over dice, by file", "Accuracy over the wafer"]


def test_a_spread_between_dice_is_that_of_each_file_alone(files: list[Path], data: tuple[Array, Array]) -> None:
    options: dict[str, Any] = {"chips": 3, "between_dice": {SIGMA: 0.3}}
    found = cimc.evaluate(files[:2], *data, **options)
    for number, path in enumerate(files[:2]):
        np.testing.assert_array_equal(found.accuracy[number], cimc.evaluate(path, *data, **options).accuracy[0])
    other = cimc.compile(model(1), "bulk-rram-256", calibration={"x": data[0]})
    with pytest.raises(cimc.CimcError, match="different targets"):
        cimc.evaluate([files[0], other], *data, **options)
