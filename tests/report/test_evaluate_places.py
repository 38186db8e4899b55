"""Accuracy of models that give a class a place (tokens, pixels), of which some are ignored; by numpy on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.ir.classes import Classes
from cimc.report.evaluate import evaluate
from tests.cli.conftest import cimc as command

RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((4, 5)).astype(np.float32)
X = RANDOM.random((30, 7, 4), np.float32)


def tokens(then: str = "") -> cimc.Program:
    """Logits ``[batch, time, classes]``."""
    made = f"a = MatMul (x, w)  y = {then} (a)" if then else "y = MatMul (x, w)"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, T, 4] x) => (float[N, P, Q] y) {{ {made} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return cimc.compile(proto, "ideal", calibration={"x": X})


def test_tokens_are_judged_where_they_are_not_ignored() -> None:
    said = (X @ W).argmax(2)
    y = np.where(RANDOM.random(said.shape) < 0.6, said, (said + 1) % 5)
    y[RANDOM.random(said.shape) < 0.3] = -100
    found = evaluate(tokens(), X, y, batch=8, classes=Classes(ignore=-100))
    judged = y != -100
    assert (found.images, found.labels) == (30, judged.sum())
    assert found.accuracy == pytest.approx((said == y)[judged].mean())
    assert found.reference_accuracy == found.accuracy
    assert found.agreement == 1.0


@pytest.mark.parametrize("axis", [None, 1, -2])
def test_classes_may_lie_along_another_axis(axis: int | None) -> None:
    said = (X @ W).argmax(2)
    assert evaluate(tokens("Transpose <perm = [0, 2, 1]>"), X, said, classes=Classes(axis)).accuracy == 1.0


@pytest.mark.parametrize(
    ("y", "classes", "said"),
    [
        (np.zeros((30, 7), int), Classes(ignore=0), "every label is ignored"),
        (np.full((30, 7), 5), Classes(), "label 5, but the model has 5 classes"),
        (np.zeros((30, 6), int), Classes(), "shape"),
        (np.zeros((30, 7), int), Classes(0), "cannot lie along axis 0"),
        (np.zeros((30, 7), int), Classes(3), "cannot lie along axis 3"),
        (np.zeros((30, 7, 5), int), Classes(), "one-hot"),
    ],
)
def test_labels_that_do_not_suit_are_refused(y: Any, classes: Classes, said: str) -> None:
    with pytest.raises(cimc.DataError) as error:
        evaluate(tokens(), X, y, classes=classes)
    assert said in str(error.value)


def test_two_axes_that_fit_are_refused_with_the_option_that_chooses() -> None:
    x = X[:, :5]
    with pytest.raises(cimc.DataError, match="--class-axis 2"):
        evaluate(tokens(), x, np.zeros((30, 5), int))
    said = (x @ W).argmax(2)
    assert evaluate(tokens(), x, said, classes=Classes(2)).accuracy == 1.0


def test_the_command_takes_them(tmp_path: Path) -> None:
    said = (X @ W).argmax(2)
    y = said.copy()
    y[:, 0] = -100
    tokens().save(tmp_path / "m.cim")
    np.savez(tmp_path / "d.npz", x=X, y=y)
    run = ("evaluate", tmp_path / "m.cim", "--data", tmp_path / "d.npz")
    found = command(*run, "--ignore-index", -100, "--json").json
    assert (found["accuracy"], found["labels"], found["images"]) == (1.0, 180, 30)
    refused = command(*run)
    assert refused.code == 2
    assert "--ignore-index -100" in refused.err


def test_a_reference_of_another_number_of_classes_is_refused() -> None:
    """Of the same names and axes: its predictions are those of another network."""

    def model(classes: int) -> onnx.ModelProto:
        text = f"g (float[N, 4] x) => (float[N, {classes}] y) {{ y = MatMul (x, w) }}"
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        w = np.random.default_rng(0).normal(size=(4, classes)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
        return proto

    program = cimc.compile(model(3), "ideal")
    x, y = np.random.default_rng(1).random((6, 4)).astype(np.float32), np.arange(6) % 3
    assert evaluate(program, x, y, reference=model(3)).agreement == 1
    with pytest.raises(cimc.DataError, match="another network"):
        evaluate(program, x, y, reference=model(5))
