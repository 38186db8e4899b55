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
