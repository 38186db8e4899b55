"""Many dice: the figures are those of single evaluations, wherever and in whatever order they are computed."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.cli.app import app
from cimc.cli.population import parse_sweep
from cimc.ir.classes import Classes
from cimc.population import work
from cimc.population.limit import limit_of
from cimc.population.result import Population
from cimc.population.workers import results, undisturbed
from cimc.report.evaluate import evaluate as evaluate_one
from cimc.targets.load import load_target

Array = np.ndarray[Any, Any]
SIGMA = "device.programming.sigma_us"


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    weight = np.random.default_rng(1).standard_normal((12, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def data(model: onnx.ModelProto) -> tuple[Array, Array]:
    """Images, and the classes that the model says but for each tenth, which has a wrong label."""
    x = np.random.default_rng(2).random((120, 12)).astype(np.float32)
    y = (x @ numpy_helper.to_array(model.graph.initializer[0])).argmax(1)
    y[::10] = (y[::10] + 1) % 4
    return x, y


@pytest.fixture(scope="module")
def program(model: onnx.ModelProto, data: tuple[Array, Array]) -> cimc.Program:
    return cimc.compile(model, "bulk-rram", calibration={"x": data[0]})


def test_each_die_is_that_of_a_single_evaluation(program: cimc.Program, data: tuple[Array, Array]) -> None:
    found = cimc.evaluate(program, *data, chips=4, seed=7, batch=50)
    assert found.accuracy.shape == (1, 1, 4)
    assert found.seeds == (7, 8, 9, 10)
    assert found.reference == 0.9
    for n, seed in enumerate(found.seeds):
        single = evaluate_one(program, *data, seed=seed)
        assert (found.accuracy[0, 0, n], found.agreement[0, 0, n]) == (single.accuracy, single.agreement)


def test_processes_give_the_same_figures(program: cimc.Program, data: tuple[Array, Array]) -> None:
    grid = {SIGMA: [1.0, 6.0]}
    here, there = (cimc.sweep(program, *data, grid, chips=3, scheduler=scheduler) for scheduler in (None, "local:2"))
    np.testing.assert_array_equal(here.accuracy, there.accuracy)
    np.testing.assert_array_equal(here.agreement, there.agreement)
    assert here.to_dict() == there.to_dict()


def test_a_worker_that_is_killed_costs_time_only(program: cimc.Program, data: tuple[Array, Array]) -> None:
    expected = data[1]
    shared = work.Work((program,), *data, (expected,), Classes(), (0.0,), 256)
    pieces = work.pieces_of([(0, {})], range(6))
    found = results(shared, pieces, "local:2")
    kept = [next(found)]
    for child in multiprocessing.active_children():
        child.kill()
    kept += list(found)
    here = {piece.seed: work.run_piece(shared, piece) for piece in pieces}
    assert {one.seed: one for one in kept} == here


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_processes_are_started(number: signal.Signals) -> None:
    """Else the one that is being started gets half of what it is told, and ends in a traceback."""
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        with undisturbed():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert heard == []
        assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_a_dask_cluster_gives_the_same_figures(program: cimc.Program, data: tuple[Array, Array]) -> None:
    distributed = pytest.importorskip("distributed")
    here = cimc.evaluate(program, *data, chips=4)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            np.testing.assert_array_equal(cimc.evaluate(program, *data, chips=4, scheduler=client).accuracy, here.accuracy)
        there = cimc.evaluate(program, *data, chips=4, scheduler=cluster.scheduler_address)
    np.testing.assert_array_equal(there.accuracy, here.accuracy)


def test_a_sweep_changes_the_dice_and_not_the_program(program: cimc.Program, data: tuple[Array, Array]) -> None:
    quiet = {"device.read_sigma_us": 0.0, "adc.sigma_lsb": 0.0}
    exact = cimc.evaluate(program, *data, chips=5, settings={SIGMA: 0.0, **quiet})
    assert len(set(exact.accuracy.reshape(-1))) == 1  # nothing is drawn
    found = cimc.sweep(program, *data, {SIGMA: [0.0, 4.0, 16.0], "device.read_sigma_us": [0.0, 1.0]}, chips=8)
    assert [tuple(row.values()) for row in found.settings] == [(a, b) for a in (0.0, 4.0, 16.0) for b in (0.0, 1.0)]
    medians = np.median(found.accuracy, axis=2)[:, 0]
    assert medians[0] > medians[2] > medians[4]
    # A die of the sweep is a chip of the same program with another target.
    target = load_target("bulk-rram", {SIGMA: 4.0})
    chip = cimc.Chip(program.model_copy(update={"target": target}), 3)
    said = chip.run({"x": data[0]}, 0)["y"].argmax(1)
    own = cimc.evaluate(program, *data, chips=1, seed=3, settings={SIGMA: 4.0})
    assert own.accuracy[0, 0, 0] == float((said == data[1]).mean())


def test_what_changes_the_program_is_compiled_for_each_value(
    model: onnx.ModelProto, program: cimc.Program, data: tuple[Array, Array]
) -> None:
    with pytest.raises(cimc.CimcError, match=r"adc\.bits changes the program"):
        cimc.sweep(program, *data, {"adc.bits": [4, 8]})
    options = {"target": "bulk-rram-256", "calibration": {"x": data[0]}}
    found = cimc.sweep(model, *data, {"adc.bits": [3, 10], SIGMA: [0.5]}, chips=4, **options)
    for n, bits in enumerate((3, 10)):
        alone = cimc.compile(model, settings={"adc.bits": bits}, **options)
        own = cimc.evaluate(alone, *data, chips=4, settings={SIGMA: 0.5})
        np.testing.assert_array_equal(found.accuracy[n], own.accuracy[0])


def test_dice_age(data: tuple[Array, Array], model: onnx.ModelProto) -> None:
    program = cimc.compile(model, "hermes-pcm", calibration={"x": data[0]})
    found = cimc.evaluate(program, *data, chips=2, time_s=[0.0, 3600.0])
    for n, seed in enumerate(found.seeds):
        single = evaluate_one(program, *data, seed=seed, time_s=(0.0, 3600.0))
        assert tuple(found.accuracy[0, :, n]) == tuple(aged.accuracy for aged in single.times)
    with pytest.raises(cimc.CimcError, match="fall"):
        cimc.evaluate(program, *data, chips=2, time_s=[10.0, 0.0])


def test_dice_of_an_image(program: cimc.Program, data: tuple[Array, Array], tmp_path: Path) -> None:
    image = cimc.export_image(program)
    image.save(tmp_path / "m.cimg")
    found = cimc.evaluate(tmp_path / "m.cimg", *data, chips=2)
    for n in range(2):
        said = image.program(seed=n).run({"x": data[0]}, 0)["y"].argmax(1)
        assert found.accuracy[0, 0, n] == float((said == data[1]).mean())
    with pytest.raises(cimc.CimcError, match="an image is for the chip"):
        cimc.evaluate(image, *data, chips=1, settings={SIGMA: 1.0})


def test_outputs_of_each_die_are_fitted(program: cimc.Program, data: tuple[Array, Array]) -> None:
    x, y = data
    found = cimc.evaluate(program, x, y, chips=2, fit=x[:70])  # the last batch is not a whole one
    for n in range(2):
        chip = cimc.Chip(program, n)
        chip.fit_outputs([{"x": x[:32]}, {"x": x[32:64]}, {"x": x[64:70]}])
        assert found.accuracy[0, 0, n] == float((chip.run({"x": x}, 0)["y"].argmax(1) == y).mean())


def test_trained_weights_are_written_into_each_die(program: cimc.Program, data: tuple[Array, Array]) -> None:
    x, y = data
    trainer = cimc.Trainer(cimc.Chip(program), lr=0.05, batch_size=40)
    trainer.fit(x, y, epochs=1)
    trained = trainer.program()
    found = cimc.evaluate(trained, x, y, chips=3)
    assert len(set(found.accuracy.reshape(-1))) > 1  # other dice, not other read noise of one
    plain = trained.model_copy(update={"tensors": {n: t for n, t in trained.tensors.items() if not n.startswith("state/")}})
    for n in range(3):
        chip = cimc.Chip(plain, n)
        assert found.accuracy[0, 0, n] == float((chip.run({"x": x}, 0)["y"].argmax(1) == y).mean())


def test_a_study_that_was_killed_goes_on(
    program: cimc.Program, data: tuple[Array, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "j.jsonl", list[int]()

    def stop(_: int) -> None:
        if len(path.read_text().splitlines()) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cimc.evaluate(program, *data, chips=6, journal=path, advance=stop)
    own = work.run_piece
    monkeypatch.setattr("cimc.population.workers.run_piece", lambda w, piece: done.append(piece.seed) or own(w, piece))
    said: list[str] = []
    found = cimc.evaluate(program, *data, chips=6, journal=path, resume=True, live=said.append)
    assert done == [3, 4, 5]
    (row,) = found.quantiles()
    assert said[2:] == [f"accuracy: median {row['median']:.4g}, {row['min']:.4g} to {row['max']:.4g}"]
    np.testing.assert_array_equal(found.accuracy, cimc.evaluate(program, *data, chips=6).accuracy)
    with pytest.raises(cimc.ArtifactError, match="of other work: seed differ"):
        cimc.evaluate(program, *data, chips=6, seed=1, journal=path, resume=True)
    name = next(name for name, tensor in program.tensors.items() if tensor.ndim == 2 and tensor.dtype == np.float32)
    other = program.model_copy(update={"tensors": {**program.tensors, name: program.tensors[name] * np.float32(0.5)}})
    with pytest.raises(cimc.ArtifactError, match="of other work: programs differ"):
        cimc.evaluate(other, *data, chips=6, journal=path, resume=True)
    path.write_text(path.read_text().replace('"accuracies"', '"others"'))
    with pytest.raises(cimc.DataError, match="is no die"):
        cimc.evaluate(program, *data, chips=6, journal=path, resume=True)


def _population(values: Array) -> Population:
    shaped = values.reshape(1, 1, -1)
    return Population(({},), (0.0,), tuple(range(shaped.size)), shaped, shaped, 1.0, 100)


def test_the_interval_of_a_yield_covers_it() -> None:
    """Wilson's interval of 95 %: of 2,000 populations of 40 dice it covers the true yield in at least 93 %."""
    random, truth, covered = np.random.default_rng(5), 0.9, 0
    for _ in range(2000):
        found = _population((random.random(40) < truth).astype(np.float64)).yield_at(0.5)
        covered += found.low <= truth <= found.high
    assert covered / 2000 > 0.93
    all_good = _population(np.ones(20)).yield_at(1.0)
    assert (all_good.share, all_good.high) == (1.0, 1.0)
    assert all_good.low == pytest.approx(20 / (20 + 1.959964**2), rel=1e-6)  # closed form at a share of 1


def test_tables(program: cimc.Program, data: tuple[Array, Array], tmp_path: Path) -> None:
    found = cimc.sweep(program, *data, {SIGMA: [1.0, 2.0]}, chips=3)
    found.save(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [float(row["accuracy"]) for row in rows] == found.accuracy.reshape(-1).tolist()
    found.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["points"][1]["settings"] == {SIGMA: 2.0}
    quartiles = found.quantiles()[1]
    assert quartiles["median"] == float(np.median(found.accuracy[1]))
    with pytest.raises(cimc.CimcError, match="no table is written as"):
        found.save(tmp_path / "t.xls")
    with pytest.raises(cimc.CimcError, match="point"):
        found.yield_at(0.5, point=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chips": 0}, "chips"),
        ({"seed": -1}, "seed"),
        ({"scheduler": "slurm"}, "no scheduler"),
        ({"scheduler": "local:0"}, "no number of processes"),
        ({"settings": {"device.programming.sigma_us": "much"}}, "sigma_us"),
        ({"settings": {"weights.scale": "layer"}}, "changes the program"),
        ({"settings": {"device.nothing": 1}}, "device.nothing"),
        ({"time_s": [-1.0]}, "time_s"),
    ],
)
def test_what_is_refused(program: cimc.Program, data: tuple[Array, Array], options: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        cimc.evaluate(program, *data, **options)


def test_grids_as_text() -> None:
    assert parse_sweep(["a.b=1,2.5", "c=x,null"]) == {"a.b": [1, 2.5], "c": ["x", None]}
    for texts in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(cimc.CimcError, match="--sweep"):
            parse_sweep(texts)


def test_the_command(
    program: cimc.Program,
    data: tuple[Array, Array],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program.save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    command = ["evaluate", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz")]
    options = ["--chips", "3", "--sweep", f"{SIGMA}=1,8", "--yield-at", "0.5", "--csv", str(tmp_path / "t.csv")]
    assert app([*command, *options, "--json"], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert [point["settings"] for point in told["points"]] == [{SIGMA: 1}, {SIGMA: 8}]
    assert {"median", "q25", "q75", "min", "max", "values"} == told["accuracy"].keys()
    assert told["yield"]["chips"] == 3
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 7
    assert app([*command, *options], standalone_mode=False) == 0
    assert "yield" in capsys.readouterr().out
    assert app([*command, "--csv", "t.csv"], standalone_mode=False) == 2
    monkeypatch.setattr("cimc.population.study.evaluate", None)  # a name that no table has is refused before the work
    assert app([*command, "--chips", "2", "--csv", "t.xls"], standalone_mode=False) == 2
    assert app([*command, "--chips", "2", "--resume"], standalone_mode=False) == 2
    assert app([*command, "--samples", "4", "--sweep", f"{SIGMA}=1,2"], standalone_mode=False) == 2


def test_samples_on_the_command_line(
    program: cimc.Program, data: tuple[Array, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = pytest.importorskip("scipy.stats")
    program.save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    command = ["evaluate", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz"), "--samples", "4", "--chips", "2"]
    command += ["--sweep", f"{SIGMA}=0.5..8:log"]
    assert app([*command, "--json"], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    points = told["points"]
    assert len(points) == 4
    medians = [point["accuracy"]["median"] for point in points]
    expected = stats.spearmanr([point["settings"][SIGMA] for point in points], medians).statistic
    assert told["sensitivity"] == {SIGMA: None if np.isnan(expected) else pytest.approx(expected)}
    for point in points:
        own = cimc.evaluate(program, *data, chips=2, settings=point["settings"])
        assert point["accuracy"]["values"] == own.accuracy[0, 0].tolist()
    assert app(command, standalone_mode=False) == 0
    assert "Spearman" in capsys.readouterr().out


def test_the_limit_of_a_field(program: cimc.Program, data: tuple[Array, Array]) -> None:
    """Beside every value of a fine grid; the dice are the same."""
    options: dict[str, Any] = {"chips": 12}
    found = limit_of(program, *data, SIGMA, 0.5, 20.0, accuracy=0.7, at_least=0.75, **options)
    assert found.bad is not None
    assert 0 < found.bad - found.good <= 0.01 * 19.5 * 1.001
    grid = cimc.sweep(program, *data, {SIGMA: [found.good, found.bad]}, **options)
    assert grid.yield_at(0.7, point=0).share >= 0.75 > grid.yield_at(0.7, point=1).share
    assert found.sure is None or found.sure <= found.good
    assert [value for value, _ in found.tried] == sorted(value for value, _ in found.tried)


def test_the_limit_in_whole_numbers_downward(model: onnx.ModelProto, data: tuple[Array, Array]) -> None:
    options: dict[str, Any] = {"target": "bulk-rram-256", "calibration": {"x": data[0]}, "settings": {SIGMA: 0.0}}
    found = limit_of(model, *data, "adc.bits", 12, 2, accuracy=0.85, at_least=0.5, chips=3, **options)
    assert found.bad == found.good - 1
    assert isinstance(found.good, int)
    with pytest.raises(cimc.CimcError, match=r"only 0 % of the dice reach an accuracy of 0\.95"):
        limit_of(model, *data, "adc.bits", 12, 2, accuracy=0.95, at_least=0.5, chips=2, **options)
    with pytest.raises(cimc.CimcError, match="no span"):
        limit_of(model, *data, "adc.bits", 3, 3, accuracy=0.9, at_least=0.5, chips=2, **options)


def test_the_limit_by_another_metric(program: cimc.Program, data: tuple[Array, Array]) -> None:
    """Of the squared error, dice at most at the goal are good. The goal is what half of the dice reach at 8 µS."""
    x, exact = data[0], data[0] @ numpy_helper.to_array(program.to_onnx().graph.initializer[0])
    options: dict[str, Any] = {"chips": 6, "at_least": 0.5}
    goal = float(np.median(cimc.evaluate(program, x, exact, settings={SIGMA: 8.0}, chips=6, metric="mse").accuracy))
    error = limit_of(program, x, exact, SIGMA, 0.5, 20.0, accuracy=goal, metric="mse", **options)
    assert error.bad is not None
    ends = cimc.sweep(program, x, exact, {SIGMA: [error.good, error.bad]}, chips=6, metric="mse")
    assert [float((row[0] <= goal).mean()) >= 0.5 for row in ends.accuracy] == [True, False]
    assert abs(error.good - 8) < 2
    for goal, fix in ((1e-9, "higher --accuracy"), (float("nan"), "")):
        with pytest.raises(cimc.CimcError) as refused:
            limit_of(program, x, exact, SIGMA, 0.5, 20.0, accuracy=goal, metric="mse", **options)
        assert fix in str(refused.value)
    with pytest.raises(cimc.CimcError, match="per-class"):
        limit_of(program, *data, SIGMA, 0.5, 20.0, accuracy=0.5, metric="per-class", **options)


def test_the_command_yield(
    program: cimc.Program, data: tuple[Array, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=data[0], y=data[1])
    command = ["yield", str(tmp_path / "m.cim"), "--data", str(tmp_path / "d.npz"), "--vary", SIGMA, "--chips", "3"]
    assert app([*command, "--accuracy", "0.5", "--good", "1", "--bad", "4", "--json"], standalone_mode=False) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"path", "good", "bad", "sure", "tried", "metric", "data"} == told.keys()
    assert app([*command, "--accuracy", "0.5", "--good", "x", "--bad", "4"], standalone_mode=False) == 2
    assert app([*command, "--accuracy", "1.5", "--good", "1", "--bad", "4"], standalone_mode=False) == 2
    np.savez(tmp_path / "d.npz", x=data[0], y=data[0] @ np.ones((12, 4), np.float32))
    regression = ["--metric", "mae", "--yield-at", "50", "--good", "1", "--bad", "2"]
    assert app([*command, *regression], standalone_mode=False) == 0
    assert "an mae of 50 or less" in capsys.readouterr().out
