"""`cimc train`: from the command line to a trained chip that the other commands take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from .conftest import cimc


@pytest.fixture(scope="module")
def stripes(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.onnx and a task that it can learn."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "small.onnx").write_bytes((made / "small.onnx").read_bytes())
    random = np.random.default_rng(1)
    arrays = {}
    for part, images in (("train", 160), ("test", 60)):
        y = random.integers(0, 3, images)
        x = random.integers(0, 128, (images, 6, 6)).astype(np.uint8)
        for n, label in enumerate(y):
            x[n, 2 * label : 2 * label + 2] += 120
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(folder / "data.npz", **arrays)
    return folder


def train(folder: Path, *arguments: object, model: str = "small.onnx", out: str = "trained.cim") -> tuple[object, ...]:
    options = ("--data", folder / "data.npz", "--batch", 16, "--lr", 0.02, "-o", folder / out)
    return ("train", folder / model, *options, *arguments)


def test_a_model_is_trained_and_the_chip_serves_the_other_commands(stripes: Path) -> None:
    checkpoint = stripes / "run"
    done = cimc(
        *train(
            stripes, "--epochs", 15, "--init", "devices", "--checkpoint", checkpoint, "--onnx", stripes / "trained.onnx", "--json"
        )
    )
    assert done.code == 0, done.err
    result = done.json
    assert [row["epoch"] for row in result["epochs"]] == list(range(1, 16))
    accuracy = result["epochs"][-1]["validation_accuracy"]
    assert accuracy > 0.9
    assert result["cost"]["writes"]["device_writes"] == sum(row["device_writes"] for row in result["epochs"])
    lines = [json.loads(line) for line in (checkpoint / "metrics.jsonl").read_text().splitlines()]
    assert lines == result["epochs"]

    found = cimc(
        "evaluate", stripes / "trained.cim", "--data", stripes / "data.npz", "--model", stripes / "trained.onnx", "--json"
    )
    assert found.code == 0, found.err
    assert abs(found.json["accuracy"] - accuracy) < 0.1
    assert found.json["reference_accuracy"] > 0.7
    before, after = (onnx.load(stripes / name) for name in ("small.onnx", "trained.onnx"))
    assert [i.name for i in before.graph.initializer] == [i.name for i in after.graph.initializer]
    assert all(a.raw_data != b.raw_data for a, b in zip(before.graph.initializer, after.graph.initializer, strict=True))

    np.savez(stripes / "x.npz", x=np.load(stripes / "data.npz")["x_test"])
    assert cimc("run", stripes / "trained.cim", "--input", stripes / "x.npz", "-o", stripes / "y.npz").code == 0
    assert cimc("inspect", stripes / "trained.cim", "--json").json["layers"][0]["weight_error"] is None

    more = cimc(*train(stripes, "--epochs", 1, model="trained.cim", out="more.cim"), "--lr", 1e-4, "--json")
    assert more.code == 0, more.err
    assert more.json["epochs"][0]["validation_accuracy"] > 0.85


def test_resume_goes_on_and_says_so(stripes: Path) -> None:
    options = ("--epochs", 2, "--checkpoint", stripes / "resumed", "--resume")
    assert cimc(*train(stripes, *options, out="a.cim")).code == 0
    again = cimc(*train(stripes, *options, out="b.cim"))
    assert again.code == 0
    assert "resumed after 20 steps" in again.err
    assert (stripes / "a.cim").read_bytes() == (stripes / "b.cim").read_bytes()
    without = cimc(*train(stripes, *options[:-1]))
    assert without.code == 2
    assert "--resume" in without.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--lr", 1e30, "--optimizer", "sgd", "--target", "ideal"), 1, "epoch 1, step"),
        (("--resume",), 2, "no folder to resume from"),
        (("--backward", "analog"), 2, "--backward digital"),
        (("--freeze", "nothing*"), 2, "names no initializer and no layer"),
        (("--loss", "mse"), 2, "labels"),
        (("--set", "device.levels=1"), 2, "device.levels"),
        (("--target", "isaac"), 2, "weights.cells"),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_nothing(stripes: Path, arguments: tuple[object, ...], code: int, said: str) -> None:
    done = cimc(*train(stripes, "--epochs", 1, *arguments, out="never.cim"))
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err
    assert not (stripes / "never.cim").exists()


def test_bad_labels_and_missing_arrays_are_bad_input(stripes: Path, tmp_path: Path) -> None:
    data = dict(np.load(stripes / "data.npz"))
    for change, said in (
        ({"y_train": data["y_train"] + 7}, "4 classes"),
        ({"y_train": None}, "labels"),
        ({"x_train": None}, "save x"),
    ):
        arrays = {name: array for name, array in {**data, **change}.items() if array is not None and "test" not in name}
        np.savez(tmp_path / "data.npz", **arrays)
        (tmp_path / "small.onnx").write_bytes((stripes / "small.onnx").read_bytes())
        done = cimc(*train(tmp_path, "--epochs", 1))
        assert done.code == 2
        assert said in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "a_folder"), "is a folder"),
        (("--onnx", "a_folder"), "is a folder"),
        (("-o", "same", "--onnx", "same"), "one name"),
        (("--checkpoint-steps", 1), "--checkpoint DIR"),
        (("--optimizer-option", "momentum"), "NAME=VALUE"),
        (("--optimizer", "momentum", "--optimizer-option", "momentun=0.5"), "no option 'momentun'"),
        (("--schedule-option", "every=2"), "no option 'every'"),
        (("--threshold", "nan"), "threshold"),
        (("--clip-norm", 0), "clip_norm"),
        (("--clip-norm", "nan"), "clip_norm"),
    ],
)
def test_what_would_lose_the_work_is_refused_before_it(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_folder").mkdir()
    done = cimc(*train(stripes, "--epochs", 1, "--steps-per-epoch", 1, out="never.cim"), *arguments)
    assert (done.code, done.out) == (2, ""), done.err
    assert said in done.err
    assert "epoch 1:" not in done.err
    assert not (stripes / "never.cim").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "t.cim"), "--data and --epochs: training wants both --data and --epochs"),
        (("-o", "t.cim", "--data", "DATA"), "--epochs: training wants both"),
        (("-o", "t.cim", "--epochs", 1), "--data: training wants both"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--loss", "hinge"), "no loss is called hinge"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--loss", "mse", "--ignore-index", 1), "has no classes"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--optimizer-option", "momentum"), "NAME=VALUE"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--optimizer-option", "beta=1"), "no option 'beta'"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--schedule-option", "final=1"), "final"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--window", 1, "--w-max", 1), "both window and w_max"),
        (("-o", "t.cim", "--data", "DATA", "--epochs", 1, "--lr", "nan"), "lr"),
        (("-o", "t.cim", "--data", "OTHER", "--epochs", 1), "save x and y"),
    ],
)
def test_what_needs_no_program_is_told_before_one_is_compiled(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], said: str
) -> None:
    def compiled(*_: object, **__: object) -> None:
        raise AssertionError("the model is compiled")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cimc.compiler.compile_model", compiled)
    np.savez(tmp_path / "OTHER.npz", z=np.zeros(3))
    files = {"DATA": stripes / "data.npz", "OTHER": tmp_path / "OTHER.npz"}
    done = cimc("train", stripes / "small.onnx", *(files.get(str(a), a) for a in arguments))
    assert (done.code, done.out) == (2, ""), done.err
    assert said in " ".join(done.err.split())


def test_metrics_are_always_written(stripes: Path) -> None:
    """Without a checkpoint's folder beside the result; the run before leaves nothing in them."""
    for epochs in (2, 1):
        done = cimc(*train(stripes, "--epochs", epochs, "--steps-per-epoch", 2, out="watched.cim"), "--json")
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in (stripes / "watched.metrics.jsonl").read_text().splitlines()]
        assert lines == done.json["epochs"]
        assert len(lines) == epochs


def test_the_training_step_is_emitted_and_nothing_trained(stripes: Path) -> None:
    step = stripes / "step.onnx"
    done = cimc("train", stripes / "small.onnx", "--emit", "onnx", "-o", step, "--freeze", "w1")
    assert done.code == 0, done.err
    assert "softmax cross-entropy" in done.err
    model = onnx.load(step)
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node if node.domain == "cimc"]
    assert {"Vmm", "VmmBackward", "Outer", "Update"} >= set(operators)
    assert operators.count("Outer") == 1
    for form, start in (("text", "program"), ("json", "{")):
        assert cimc("train", stripes / "small.onnx", "--emit", form, "-o", stripes / form).code == 0
        assert (stripes / form).read_text().startswith(start)
    without = cimc("train", stripes / "small.onnx", "-o", stripes / "never.cim", "--epochs", 1)
    assert without.code == 2
    assert "--data" in without.err


def test_options_of_optimizer_and_schedule_by_name(stripes: Path) -> None:
    options = ("--optimizer", "momentum", "--optimizer-option", "nesterov=true", "--schedule", "step")
    done = cimc(
        *train(stripes, "--epochs", 3, "--steps-per-epoch", 1, out="options.cim"), *options,
        "--schedule-option", "every=1", "--schedule-option", "factor=0.1", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [row["lr"] for row in done.json["epochs"]] == pytest.approx([0.02, 0.002, 0.0002])


def test_cost_names_what_the_target_does_not_give(stripes: Path) -> None:
    done = cimc(*train(stripes, "--epochs", 1, "--set", "update.programming=write_verify", "--threshold", 0.01, out="cost.cim"))
    assert done.code == 0, done.err
    assert "pulses" in done.out
    assert "verify reads" in done.out
    assert "not given by the target, so not counted: time or energy of writes, digital work" in done.out


def test_several_inputs_have_a_test_part_too(stripes: Path, tmp_path: Path) -> None:
    """Two inputs by name, of data around 0; a test part of half the images."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] a, float[N, 4] b) => (float[N, 3] y)
        <float[4, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0}> { c = Add (a, b)  y = MatMul (c, w) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "two.onnx")
    random = np.random.default_rng(0)
    arrays = {}
    for part, images in (("train", 32), ("test", 16)):
        a, b = (random.normal(0, 2, (images, 4)).astype(np.float32) for _ in range(2))
        arrays |= {f"a_{part}": a, f"b_{part}": b, f"y_{part}": random.integers(0, 3, images)}
    np.savez(tmp_path / "data.npz", **arrays)
    options = ("--epochs", 1, "--batch", 8, "-o", tmp_path / "two.cim", "--json")
    done = cimc("train", tmp_path / "two.onnx", "--data", tmp_path / "data.npz", *options)
    assert done.code == 0, done.err
    assert done.json["epochs"][0]["validation_accuracy"] is not None
    np.savez(tmp_path / "data.npz", **{**arrays, "y_test": arrays["y_test"] + 2})
    done = cimc("train", tmp_path / "two.onnx", "--data", tmp_path / "data.npz", *options)
    assert done.code == 2
    assert "validation data" in done.err


def test_what_trains_is_listed_and_nothing_trained(stripes: Path) -> None:
    done = cimc("train", stripes / "small.onnx", "--plan", "--freeze", "w1", "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.json["parameters"]}
    weights = {i.name for i in onnx.load(stripes / "small.onnx").graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    assert set(rows) == weights
    assert (rows["w1"]["trains"], rows["w1"]["why"]) == (False, "frozen")
    assert all(set(row) == {"name", "where", "shape", "trains", "why", "shared_by", "into"} for row in rows.values())
    assert cimc("train", stripes / "small.onnx").code == 2
    table = cimc("train", stripes / "small.onnx", "--plan")
    assert table.code == 0
    assert all(name in table.out for name in weights)
