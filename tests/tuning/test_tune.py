"""`cimc.tune`: what the search chooses, what it spends, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.cli.app import app
from cimc.compiler import compile_model
from cimc.passes.forecast import output_errors
from cimc.tuning.bench import Images
from cimc.tuning.costs import Cost, Limits, parse_budget
from cimc.tuning.trace import front
from cimc.tuning.tune import _Parts, settled

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def teacher() -> tuple[onnx.ModelProto, Array, Array]:
    """Two dense layers, and images with the classes that they say: ONNX Runtime is always right."""
    rng = np.random.default_rng(0)
    w1, w2 = (rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[0]) for shape in ((16, 24), (24, 5)))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes, "teacher", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(np.asarray(w, np.float32), name) for w, name in ((w1, "w1"), (w2, "w2"))],
    )  # fmt: skip
    x = np.abs(rng.standard_normal((1500, 16))).astype(np.float32)
    y = (np.maximum(x @ w1, 0) @ w2).argmax(1)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), x, y


def _tune(teacher: tuple[onnx.ModelProto, Array, Array], target: str = "bulk-rram-256", **options: Any) -> Any:
    model, x, y = teacher
    return cimc.tune(model, target, x, y, **({"dice": 2, "images": 300} | options))


def test_it_loses_less_and_says_what_that_costs(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    result = _tune(teacher, goal=8.0)
    assert result.met
    assert result.stopped == "the goal is met"
    assert result.report.lost_points <= 8.0 < result.before.lost_points
    assert result.trace[0].what == "the defaults"
    assert f"tuned: {result.best.candidate.words()}" in result.program.provenance.notes
    # The program is what the report is of: its accuracy on a die of the report, counted here.
    _, x, y = teacher
    chip = cimc.Chip(result.program, 2)  # the search has dice 0 and 1
    if not result.best.candidate.fitted:
        said = chip.run({"x": x[1000:1300]}, 0)["y"].argmax(1)
        assert float((said == y[1000:1300]).mean()) == result.report.accuracies[0]
    assert result.best.cost == Cost.of(result.program, 16 * 24 + 24 * 5)


def test_an_accurate_chip_needs_no_search(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    result = _tune(teacher, "isaac", goal=0.5)
    assert result.met
    assert len(result.trace) == 1
    assert result.best.candidate.words() == "the defaults"


def test_the_budget_holds(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    result = _tune(teacher, goal=0.0, budget={"arrays": 0.0, "latency": 0.0, "energy": 0.0})
    base = result.trace[0].cost
    assert not result.met
    for trial in result.trace:
        assert all(share <= 1e-9 for share in trial.cost.added(base).values())
        assert trial.cost.digital_share == 0


def test_layers_become_digital_within_their_share(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    """The last layer is 120 of 504 multiply-accumulates."""
    budget = {"arrays": 0.0, "latency": 0.0, "energy": 0.0}
    none, last = (_tune(teacher, goal=0.0, budget=budget, digital_share=share) for share in (0.2, 0.25))
    assert all(not trial.candidate.digital for trial in none.trace)
    assert any(trial.candidate.digital == ("last",) for trial in last.trace)
    assert max(trial.cost.digital_share for trial in last.trace) == pytest.approx(120 / 504)


def test_the_front_is_what_nothing_beats(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    trials = _tune(teacher, goal=0.0, digital_share=1.0).trace
    kept = front(trials)
    figures = [(t.measured.lost_points, t.cost.arrays, t.cost.latency, t.cost.energy, t.cost.digital_share) for t in trials]
    best = {f for f in figures if not any(all(a <= b for a, b in zip(o, f, strict=True)) and o != f for o in figures)}
    shown = {(t.measured.lost_points, t.cost.arrays, t.cost.latency, t.cost.energy, t.cost.digital_share) for t in kept}
    assert shown == best


def test_a_search_goes_on_from_its_trace(
    teacher: tuple[onnx.ModelProto, Array, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.jsonl"
    first = _tune(teacher, goal=8.0, trace=path)
    with path.open("a") as file:
        file.write('{"what": "kil')  # the line of a search that was killed
    measured = []
    from cimc.tuning.bench import Bench

    own = Bench.measured
    monkeypatch.setattr(Bench, "measured", lambda self, *a, **k: measured.append(a[2]) or own(self, *a, **k))
    again = _tune(teacher, goal=8.0, trace=path, resume=True)
    assert again.to_dict() == first.to_dict()
    assert all(seeds.start == 2 for seeds in measured)  # the report alone
    with pytest.raises(cimc.ArtifactError, match="of other work: dice differ"):
        _tune(teacher, goal=8.0, trace=path, resume=True, dice=3)
    head, line, *rest = path.read_text().splitlines()
    damaged = json.dumps(json.loads(line) | {"images": 0})
    path.write_text("\n".join([head, damaged, *rest]) + "\n")
    with pytest.raises(cimc.ArtifactError, match="a record is no trial"):
        _tune(teacher, goal=8.0, trace=path, resume=True)
    path.write_text("no trace")
    with pytest.raises(cimc.ArtifactError, match="no journal of such work"):
        _tune(teacher, goal=8.0, trace=path, resume=True)


def test_a_resumed_search_has_its_own_budget(teacher: tuple[onnx.ModelProto, Array, Array], tmp_path: Path) -> None:
    """Trials that an earlier budget allowed are judged by the present one."""
    path = tmp_path / "trace.jsonl"
    free = _tune(teacher, goal=0.0, trace=path, digital_share=1.0)
    assert any(trial.cost.energy > free.trace[0].cost.energy or trial.cost.digital_share for trial in free.trace)
    bound = {"arrays": 0.0, "latency": 0.0, "energy": 0.0}
    again, anew = _tune(teacher, goal=0.0, trace=path, resume=True, budget=bound), _tune(teacher, goal=0.0, budget=bound)
    assert again.to_dict() == anew.to_dict()


def test_a_model_of_a_fixed_batch(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    """Every part of the images is whole batches."""
    model, x, y = teacher
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    result = cimc.tune(fixed, "bulk-rram-256", x, y, goal=8.0, dice=1, images=101)
    assert result.report.images == 96
    with pytest.raises(cimc.DataError, match="too few"):
        cimc.tune(fixed, "bulk-rram-256", x, y, dice=1, images=7)


def test_no_trial_begins_after_the_time_limit(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    result = _tune(teacher, goal=0.0, time_limit_s=0)
    assert len(result.trace) == 1
    assert result.stopped == "the time is up"
    assert not result.met


def test_the_same_seed_gives_the_same_search(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    one, other = (_tune(teacher, goal=8.0) for _ in range(2))
    assert one.to_dict() == other.to_dict()


def test_training_that_knows_the_errors_helps(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    result = _tune(teacher, goal=0.0, fine_tune=4, budget={"arrays": 0.0, "latency": 0.0, "energy": 0.0})
    trained = next(trial for trial in result.trace if trial.candidate.tuned_epochs == 4)
    before = [trial for trial in result.trace if not trial.candidate.tuned_epochs]
    assert trained.measured.lost_points < min(trial.measured.lost_points for trial in before)


def test_statistics_are_taken_anew_in_exact_execution() -> None:
    """After noise-aware training those of batch normalisation are of noisy values."""
    text = """normed (float[N, 6] x) => (float[N, 3] y) {
        a = MatMul (x, w1)  n = BatchNormalization (a, s, b, mean, var)  r = Relu (n)  y = MatMul (r, w2) }"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(0)
    held = {"w1": rng.normal(size=(6, 4)), "w2": rng.normal(size=(4, 3)), "s": np.ones(4), "b": np.zeros(4)}
    held |= {"mean": np.full(4, 5.0), "var": np.full(4, 30.0)}
    model.graph.initializer.extend(numpy_helper.from_array(array.astype(np.float32), name) for name, array in held.items())
    x, y = rng.normal(1, 2, (2000, 6)).astype(np.float32), rng.integers(0, 3, 2000)
    made = settled(model, Images(x, y), None, 0)
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    exact = x.astype(np.float64) @ held["w1"]
    # The mean of about (1 + 0.9) / (1 - 0.9) batches of 64; five standard errors.
    error, deviation = 5 / np.sqrt(19 * 64), exact.std(axis=0)
    assert (np.abs(after["mean"] - exact.mean(axis=0)) < error * deviation).all()
    np.testing.assert_allclose(after["var"], deviation**2, rtol=np.sqrt(2) * error)
    (found,) = ort.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    normed = (exact - after["mean"]) / np.sqrt(after["var"] + 1e-5)
    np.testing.assert_allclose(found, np.maximum(normed, 0) @ held["w2"], rtol=1e-3, atol=1e-4)  # nothing else has changed
    plain = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }')
    assert settled(plain, Images(x, y), None, 0) is plain


def test_images_have_one_use(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    model, x, y = teacher
    program = compile_model(model, "ideal").need_program()
    numbered = np.arange(len(x), dtype=np.float32)[:, None].repeat(16, 1)
    parts = _Parts.of(program, numbered, y, None, 300, None)
    used = [set(part.x[:, 0].tolist()) for part in (parts.calibration, parts.fit, parts.choice, parts.report)]
    assert sum(map(len, used)) == len(set.union(*used))
    assert not set(parts.train.x[:, 0].tolist()) & (used[2] | used[3])


def test_parts_of_the_error_add_up_to_the_forecast(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    """Layers err independently: while errors are small, the sum over the layers alone is what all have together."""
    model, x, _ = teacher
    small = {"device.programming.sigma_us": 0.3, "device.read_sigma_us": 0.1, "adc.sigma_lsb": 0.1}
    state = compile_model(model, "bulk-rram-256", calibration={"x": x[:512]}, settings=small)
    (output,) = state.need_program().forecast().outputs
    assert output.sqnr_db is not None
    assert -10 * np.log10(sum(output_errors(state).values())) == pytest.approx(output.sqnr_db, abs=1.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal": -1.0}, "goal"),
        ({"budget": {"money": 1.0}}, "no budget is called money"),
        ({"budget": {"arrays": -0.1}}, "no share from 0"),
        ({"digital_share": 1.5}, "no share from 0 to 1"),
        ({"dice": 0}, "dice"),
        ({"test": (np.zeros((4, 16), np.float32), np.zeros(3, np.int64))}, "labels are"),
    ],
)
def test_what_is_refused(teacher: tuple[onnx.ModelProto, Array, Array], options: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        _tune(teacher, **options)


def test_too_few_images(teacher: tuple[onnx.ModelProto, Array, Array]) -> None:
    model, x, y = teacher
    with pytest.raises(cimc.DataError, match="too few"):
        cimc.tune(model, "bulk-rram-256", x[:20], y[:20])


def test_budgets_as_text() -> None:
    assert parse_budget("arrays=+20%,latency=0.5") == {"arrays": 0.2, "latency": 0.5}
    for text in ("arrays", "arrays=-5%", "weight=3%", "arrays=nan", "arrays=x%"):
        with pytest.raises(cimc.CimcError, match="--budget"):
            parse_budget(text)
    assert Limits.of(parse_budget("energy=+10%"), 0.0).energy == pytest.approx(0.1)


def test_the_command(teacher: tuple[onnx.ModelProto, Array, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, x, y = teacher
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x_train=x[:1000], y_train=y[:1000], x_test=x[1000:], y_test=y[1000:])
    command = ["tune", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "m.cim")]
    options = ["--target", "bulk-rram-256", "--goal", "8", "--dice", "2", "--images", "300", "--budget", "arrays=+100%"]
    app([*command, *options, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["images"] == 300
    assert {"accuracy", "lost_points", "cost", "candidate"} <= told["front"][0].keys()
    assert cimc.load(tmp_path / "m.cim").layers[0].name == "first"
    alone = cimc.tune(model, "bulk-rram-256", tmp_path / "d.npz", goal=8, dice=2, images=300, budget={"arrays": 1.0})
    assert alone.to_dict()["trace"] == told["trace"]
    with pytest.raises(cimc.DataError, match="labels beside the data"):
        cimc.tune(model, "bulk-rram-256", tmp_path / "d.npz", y)
    np.savez(tmp_path / "e.npz", x_train=x, y_train=y, x_test=x)
    with pytest.raises(cimc.DataError, match="holds no array y_test"):
        cimc.tune(model, "bulk-rram-256", str(tmp_path / "e.npz"))
    assert app([*command, *options, "--digital-share", "x"], standalone_mode=False) == 2
    assert app([*command, "--resume"], standalone_mode=False) == 2
