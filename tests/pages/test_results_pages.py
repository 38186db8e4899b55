"""Figures of training runs, dice, error budgets and searches, against the results that they stand for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError, CimcError
from cimc.pages.compare import comparison
from cimc.pages.html import page
from cimc.pages.image import image_arrays, image_maps
from cimc.pages.parts import Artefact, Table
from cimc.pages.population import population_artefact
from cimc.pages.report import read_artefact, read_report
from cimc.pages.results import results_artefact
from cimc.pages.training import device_section, history_section
from cimc.pages.tuning import lower_left
from cimc.population.result import Population
from cimc.report.pictures import MOST_NAMES
from tests.cli.conftest import cimc as command
from tests.cli.conftest import made, small_model

__all__ = ["made"]


def population(settings: int = 2, times: int = 2, chips: int = 5) -> Population:
    random = np.random.default_rng(3)
    accuracy = random.integers(60, 100, (settings, times, chips)) / 100
    named = tuple({"device.read_sigma_us": float(k), "adc.bits": 8} for k in range(settings))
    return Population(named, (1.0, 3600.0)[:times], tuple(range(chips)), accuracy, accuracy * 0.9, 0.95, 50)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_saved_population_is_read_back(tmp_path: Path, ending: str) -> None:
    found = population()
    found.save(tmp_path / f"p.{ending}")
    artefact = results_artefact(tmp_path / f"p.{ending}")
    pictures = {one.title: one for one in artefact.sections[0].pictures}
    quantiles = pictures["Accuracy over dice"].boxes[0].quantiles
    rows = found.quantiles()
    assert quantiles[:, 2].tolist() == pytest.approx([100 * row["median"] for row in rows])
    assert quantiles[:, 1].tolist() == pytest.approx([100 * row["q25"] for row in rows])
    over = pictures["Accuracy over time"].lines[1]
    assert over.y.tolist() == pytest.approx([100 * row["median"] for row in rows[2:]])
    assert artefact.facts["dice"] == 5


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_population_of_several_files_is_read_back(tmp_path: Path, ending: str) -> None:
    found = population(settings=4)
    names = {"a.cim": 0.9, "b.cim": 0.8}
    found = replace(found, settings=found.settings[:2] * 2, files=names)
    found.save(tmp_path / f"p.{ending}")
    artefact = results_artefact(tmp_path / f"p.{ending}")
    assert (artefact.facts["files"], artefact.facts["dice"], artefact.facts["settings"]) == (2, 5, 2)
    (table,) = artefact.sections[0].tables
    assert [row[0] for row in table.rows] == ["a.cim"] * 4 + ["b.cim"] * 4
    assert [row[3] for row in table.rows] == pytest.approx([100 * np.median(dice) for dice in found.accuracy.reshape(-1, 5)])
    pictures = {one.title: one for one in artefact.sections[0].pictures}
    together = np.concatenate([found.accuracy[:2], found.accuracy[2:]], axis=2)
    medians = pictures["Accuracy over dice"].boxes[0].quantiles[:, 2]
    assert medians.tolist() == pytest.approx((100 * np.median(together, axis=2)).reshape(-1).tolist())
    assert len(pictures["Accuracy over dice, by file"].boxes[0].names) == 8
    if ending == "csv":
        lines = (tmp_path / "p.csv").read_text().splitlines()
        (tmp_path / "p.csv").write_text("\n".join([lines[0], *lines[1:11], *lines[11:21], *lines[21:31]]) + "\n")
        with pytest.raises(ArtifactError):
            results_artefact(tmp_path / "p.csv")


def test_a_population_plots_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its boxes are the quantiles, and a notebook has it as PNG."""
    found = population()
    figure = found.plot()
    axes = {one.get_title(): one for part in figure.subfigs for one in part.axes}
    assert list(axes)[:4] == ["Accuracy over dice", "Yield", "Accuracy over time", "Accuracy by device.read_sigma_us"]
    medians = [line.get_xdata()[0] for line in axes["Accuracy over dice"].lines if line.get_color() == "black"]
    assert set(medians) >= {100 * row["median"] for row in found.quantiles()}
    assert figure._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setattr("cimc.report.drawn.find_spec", lambda name: None)
    with pytest.raises(CimcError, match="matplotlib"):
        found.plot()


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_curve_of_yield_is_the_yield(metric: str) -> None:
    found = replace(population(), metric=metric)
    (picture,) = [one for one in population_artefact(found, "p").sections[0].pictures if one.title == "Yield"]
    scale = 100 if metric == "accuracy" else 1
    for point, line in enumerate(picture.lines):
        values = np.unique(found.accuracy[point, 0])
        steps = (line.y / 100).reshape(-1, 2)  # at each value: before it and after it
        assert line.x.tolist() == pytest.approx(np.repeat(scale * values, 2).tolist())
        for value, pair in zip(values, steps, strict=True):
            reached, other = (pair[1], pair[0]) if metric == "mse" else pair
            assert reached == pytest.approx(found.yield_at(value, point).share)
            assert other < reached
        assert (np.diff(line.y) >= 0).all() if metric == "mse" else (np.diff(line.y) <= 0).all()


def test_other_metrics_are_called_by_their_names(tmp_path: Path) -> None:
    for ending in ("csv", "json"):
        replace(population(), metric="mae", agreement=np.full((2, 2, 5), np.nan)).save(tmp_path / f"p.{ending}")
        artefact = results_artefact(tmp_path / f"p.{ending}")
        assert artefact.kind == "mae of many dice"
        assert artefact.facts["median mae"] == pytest.approx(np.median(population().accuracy[0, 0]))
        assert artefact.sections[0].pictures[0].x_label == "mae"


def test_a_journal_of_dice_has_a_page_while_the_study_runs(made: Path, tmp_path: Path) -> None:
    options = ("--chips", 3, "--sweep", "device.read_sigma_us=0,1", "--json")
    journal = tmp_path / "j.jsonl"
    done = command("evaluate", made / "small.cim", "--data", made / "data.npz", *options, "--journal", journal)
    assert done.code == 0, done.err
    expected = [point["accuracy"]["median"] for point in done.json["points"]]
    whole = read_artefact(journal)
    assert whole.sections[0].pictures[0].boxes[0].quantiles[:, 2].tolist() == pytest.approx([100 * value for value in expected])
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    begun = read_artefact(journal)
    assert begun.facts["dice"] == 2
    assert "1 of 3 dice have not ended at every setting." in begun.notes


def test_an_evaluation_of_one_chip_has_a_page(made: Path, tmp_path: Path) -> None:
    options = ("--metric", "confusion", "--metric", "per-class", "--metric", "accuracy", "--json")
    done = command("evaluate", made / "small.cim", "--data", made / "data.npz", *options)
    assert done.code == 0, done.err
    (tmp_path / "e.json").write_text(done.out)
    artefact = read_artefact(tmp_path / "e.json")
    assert artefact.facts["accuracy on the chip, %"] == pytest.approx(100 * done.json["accuracy"])
    tables = {table.caption: table.rows for table in artefact.sections[0].tables}
    wrong = sum(row[2] for row in tables["What the chip took for another class"])
    assert 1 - wrong / done.json["images"] == pytest.approx(done.json["accuracy"])
    assert sum(row[1] for row in tables["By class, on the chip"]) == done.json["images"]
    assert [row[0] for row in tables["Counts of the run, by layer"]] == list(done.json["stats"])


def test_fields_of_a_sweep_have_a_picture_with_the_correlation() -> None:
    found = population(settings=6)
    titles = {one.title: one for one in population_artefact(found, "p").sections[0].pictures}
    assert f"{found.sensitivity()['device.read_sigma_us']:+.2f}" in titles["Accuracy by device.read_sigma_us"].about


def test_a_chart_of_many_settings_keeps_the_largest_and_says_so() -> None:
    section = population_artefact(population(settings=60, times=1), "p").sections[0]
    (boxes,) = section.pictures[0].boxes
    assert len(boxes.names) == MOST_NAMES
    assert "60" in section.pictures[0].about
    assert len(section.tables[0].rows) == 60


def test_the_front_is_what_no_point_beats() -> None:
    random = np.random.default_rng(0)
    cost, lost = random.integers(0, 12, 40).astype(float), random.integers(0, 12, 40).astype(float)
    x, y = lower_left(cost, lost)
    points = set(zip(cost, lost, strict=True))
    free = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert set(zip(x, y, strict=True)) == free
    assert (np.diff(x) > 0).all()


def test_a_run_shows_its_epochs_and_devices(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(32, 1, 6, 6)).astype(np.float32), random.integers(0, 4, 32)
    program = cimc.compile(small_model(random), "bulk-rram", calibration={"input": x})
    trainer = cimc.Trainer(cimc.Chip(program, 0), lr=0.5, batch_size=8)
    history = trainer.fit(x, y, epochs=2, validation=(x, y), checkpoint=tmp_path / "run")
    trainer.program().save(tmp_path / "trained.cim")
    artefact = read_artefact(tmp_path / "run")
    curves = {one.title: one for one in artefact.sections[0].pictures}
    assert curves["Loss"].lines[0].y.tolist() == pytest.approx(history["loss"])
    assert curves["Accuracy"].lines[1].y.tolist() == pytest.approx([100 * share for share in history["validation_accuracy"]])
    assert curves["Writes"].lines[1].y.tolist() == history["device_writes"]
    trained = read_artefact(tmp_path / "trained.cim")
    devices = {section.title: section for section in trained.sections}["Devices after training"]
    boxes = devices.pictures[0].boxes[0]
    state = trainer.program().tensors
    for name, row in zip(boxes.names, boxes.quantiles, strict=True):
        updates = state[f"state/{name}/updates"]
        assert row.tolist() == [*np.quantile(updates, (0, 0.25, 0.5, 0.75, 1)).tolist()]
    shares = [line.y.sum() for line in devices.pictures[-1].lines]
    assert shares == pytest.approx([100.0] * len(shares))
    file = tmp_path / "run" / "checkpoint.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="damaged"):
        read_artefact(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": "one"}\n{}\n')
    with pytest.raises(ArtifactError, match="line 1"):
        read_artefact(tmp_path / "run")


def test_an_image_shows_the_goals_of_its_cells(made: Path, tmp_path: Path) -> None:
    image = cimc.export_image(cimc.Chip(cimc.load(made / "small.cim"), 0), target="bulk-rram-256")
    image.save(tmp_path / "small.cimg")
    artefact = read_artefact(tmp_path / "small.cimg")
    assert [section.title for section in artefact.sections][:2] == ["Model graph", "Arrays"]
    views = image_arrays(image)
    maps = image_maps(image, views)
    for place, values in maps.items():
        for row, column in ((0, 0), (3, 5), (values.shape[0] - 1, values.shape[1] - 1)):
            cell = image.cell(*place, row, column)
            held = cell["use"] in ("use", "park", "reference")
            assert np.isnan(values[row, column]) != held
            assert not held or values[row, column] == pytest.approx(cell["g_us"], rel=1e-6)
    assert sum(view.cells for view in views) == int(image.sections["SEGM"]["height"] @ image.sections["SEGM"]["width"])


def test_figures_on_data_are_those_of_evaluate(made: Path) -> None:
    program, data = cimc.load(made / "small.cim"), np.load(made / "data.npz")
    artefact = read_artefact(made / "small.cim", data=made / "data.npz")
    chip = cimc.Chip(program, 0)
    scores = chip.run({"input": data["x"][:, None].astype(np.float32) / np.float32(255)}, 0)["logits"]
    accuracy = 100 * float((scores.argmax(1) == data["y"]).mean())
    assert artefact.facts["accuracy on the chip, 12 images, %"] == pytest.approx(accuracy)
    section = {one.title: one for one in artefact.sections}["On the chip"]
    stats = chip.stats()
    assert [row[0] for row in section.tables[0].rows] == list(stats)
    shares = {one.title: dict(zip(one.names, one.bars[0].values, strict=True)) for one in section.pictures}
    for title, part, whole in (
        ("Saturated conversions by layer", "adc_saturations", "adc_conversions"),
        ("Clipped inputs by layer", "dac_clips", "dac_inputs"),
    ):
        expected = {name: 100 * counts[part] / counts[whole] for name, counts in stats.items()}
        assert shares.get(title, dict.fromkeys(stats, 0.0)) == pytest.approx(expected)
    for row in section.tables[0].rows:
        own = stats[row[0]]
        assert row[1:] == (
            own["positions"], own["tile_reads"], own["adc_conversions"],
            own["adc_saturations"], own["dac_inputs"], own["dac_clips"],
        )  # fmt: skip


def test_a_comparison_begins_with_a_table_of_all_figures(made: Path) -> None:
    report = read_report([made / "small.cim", made / "ideal.cim"])
    (table,) = report.comparison[0].tables
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["target"][:2] == ["bulk-rram", "ideal"]
    first, second = (cimc.load(made / name).cost() for name in ("small.cim", "ideal.cim"))
    assert rows["devices"][:2] == [first.devices, second.devices]
    text = report.page()
    assert text.index("Figures side by side") < text.index("Model graph</h3>")


def test_changes_are_told_in_words() -> None:
    one, two = (Artefact(name, "x", {"a": value, "b": 0, "c": "t"}, []) for name, value in (("1", 4), ("2", 5)))
    rows = {row[0]: row[3] for row in comparison([one, two])[0].tables[0].rows}
    assert rows == {"kind": None, "a": "+1 (+25 %)", "b": "the same", "c": None}


BAD = {
    "cut.json": '{"points": [{"settings": {}, "time_s": 0, "acc',
    "other.json": '{"a": 1}',
    "list.json": "[1, 2]",
    "deep.json": "[" * 100000,
    "nan.json": '{"points": [{"settings": {}, "time_s": 0, "accuracy": {"values": [NaN]}}], "chips": 1, "images": 1, '
    '"reference_accuracy": 1}',
    "cut.jsonl": '{"about": {"dice": 2}}\n{"what": "x", "candi',
    "none.jsonl": '{"about": {}}\n',
    "about.jsonl": '{"about": {"settings": [{}], "times": [0], "seed": 0, "chips": 99999999999999}}\n',
    "cut.csv": "time_s,seed,accuracy,agreement\n0,0,0.5,0.5\n0,1\n",
    "huge.json": '{"points": [{"settings": {}, "time_s": 0, "accuracy": {"values": [1]}}], "chips": 1, "images": 1e999, '
    '"reference_accuracy": 1}',
    "lacks.csv": "time_s,seed,accuracy\n" + "".join(f"{k},{k},0.5\n" for k in range(9)),
    "empty.csv": "",
    "binary.csv": "\x00\x01",
    "epochs.json": '{"epochs": [{"epoch": "a", "loss": 1}]}',
    "none.json": '{"epochs": []}',
}


@pytest.mark.parametrize("name", list(BAD))
def test_damaged_results_are_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(BAD[name])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        read_artefact(tmp_path / name)


def test_damaged_runs_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="no training run"):
        read_artefact(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ArtifactError):
        read_artefact(tmp_path / "run")


def test_devices_without_a_number_have_a_page() -> None:
    section = device_section({"a/g_us": np.full((2, 3), np.nan, np.float32), "a/updates": np.zeros((2, 3), np.uint32)})
    assert section is not None
    assert section.pictures[1].lines[0].y.sum() == 0


def test_a_journal_of_tune_and_explain_have_pages(tmp_path: Path) -> None:
    cost = {"arrays": 4, "latency": 0.5, "energy": 0.001, "digital_share": 0.0}
    candidate = {"settings": {}, "repeats": {}, "digital": [], "fitted": False, "tuned_epochs": 0}
    trial = {
        "what": "defaults", "candidate": candidate, "accuracies": [0.9, 0.8], "agreement": 0.9, "reference": 0.95, "images": 100,
        "cost": cost, "expected_db": None, "within_budget": True,
    }  # fmt: skip
    other = {**trial, "accuracies": [0.94], "cost": {**cost, "arrays": 9}}
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(one) for one in ({"about": {"dice": 2}}, trial, other)) + "\n")
    artefact = read_artefact(tmp_path / "t.jsonl")
    (picture,) = [one for one in artefact.sections[0].pictures if one.title == "Accuracy lost over arrays"]
    assert picture.lines[0].y.tolist() == pytest.approx([10.0, 1.0])
    part = {
        "layer": None,
        "cause": "read noise",
        "sqnr_db": 20.0,
        "accuracy_lost": 0.01,
        "standard_error": 0.002,
        "error_share": 0.7,
    }
    lever = {"what": "less noise", "kind": "chip", "layer": None, "brings": 0.01, "standard_error": 0.0, "gained_db": 2.0}
    total = {"images": 9, "accuracy": 0.9, "reference_accuracy": 0.95, "accuracy_lost": 0.05, "sqnr_db": 12.0}
    budget = {"total": total, "causes": [part], "rows": [{**part, "layer": "conv"}], "levers": [lever], "notes": ["n"]}
    (tmp_path / "e.json").write_text(json.dumps(budget))
    explained = read_artefact(tmp_path / "e.json")
    assert explained.sections[0].pictures[0].bars[0].values.tolist() == pytest.approx([70.0])
    assert "less noise" in page("both", [artefact, explained])


def test_curves_leave_out_what_is_not_known() -> None:
    rows = [{"epoch": 1, "loss": 2.0, "validation_loss": None}, {"epoch": 2, "loss": 1.0, "validation_loss": 0.5}]
    section = history_section(rows)
    assert section is not None
    assert section.pictures[0].lines[1].x.tolist() == [2.0]
    assert [one.title for one in section.pictures] == ["Loss"]


def test_long_tables_are_cut_and_say_so() -> None:
    table = Table("t", ["n"], [[k] for k in range(1500)]).capped()
    assert (len(table.rows), table.note) == (1000, "The first 1000 of 1500 rows.")


def test_each_figure_is_written_as_svg_and_png(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "small.cim", tmp_path / "a.cim")
    done = command("report", tmp_path / "a.cim", "-o", tmp_path / "r.html", "--figures", tmp_path / "f", "--json")
    assert done.code == 0, done.err
    files = sorted(path.name for path in (tmp_path / "f").iterdir())
    assert sorted(Path(name).name for name in done.json["figures"]) == files
    stems = {Path(name).stem for name in files}
    assert {Path(name).suffix for name in files} == {".svg", ".png"}
    assert len(files) == 2 * len(stems)
    assert {"a.cim-Model-graph-Model-graph", "a.cim-Cost-Energy-by-layer", "a.cim-Arrays-chip-0-array-0"} <= stems
    for name in files:
        data = (tmp_path / "f" / name).read_bytes()
        assert data.startswith(b"\x89PNG") if name.endswith("png") else b"<svg" in data
