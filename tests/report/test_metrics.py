"""Metrics against their formulas written out for whole arrays, on a model that gives its input back and on real chips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cimc
from cimc.errors import CimcError, DataError
from cimc.ir.classes import Classes
from cimc.report.evaluate import evaluate, measure
from cimc.report.metrics import Meter
from tests.cli.conftest import cimc as command

Array = np.ndarray[Any, Any]


def program(outputs: str = "float[N, 8] y") -> cimc.Program:
    """Digital: the scores are the inputs."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> m (float[N, 8] x) => ({outputs}) {{ y = Identity (x) }}'
    )
    return cimc.compile(proto, target="ideal")


def dense() -> onnx.ModelProto:
    weight = np.random.default_rng(1).standard_normal((12, 3)).astype(np.float32)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> m (float[N, 12] x) => (float[N, 3] y) { y = MatMul (x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 50), st.sampled_from([0, 1, 5]))
def test_classes_as_the_formulas_say(seed: int, count: int, batch: int, ties: int) -> None:
    """Labels may lack classes; scores may be equal, and then the first class counts as the higher."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((count, 8)).astype(np.float32)
    if ties:
        scores = np.round(scores * ties) / ties
    labels = random.integers(0, random.integers(1, 9), count)
    meter = Meter(["accuracy", "top5", "confusion", "per-class"])
    for first in range(0, count, batch):
        measure(meter, scores[first : first + batch], labels[first : first + batch], Classes())
    found = meter.values()
    order = np.argsort(-scores, axis=1, kind="stable")
    assert found["accuracy"] == (order[:, 0] == labels).mean()
    assert found["top5"] == (order[:, :5] == labels[:, None]).any(1).mean()
    table = np.zeros((8, 8), int)
    np.add.at(table, (labels, order[:, 0]), 1)
    assert found["confusion"] == table.tolist()
    for number, row in enumerate(found["per-class"]):
        true, said, both = (labels == number).sum(), (order[:, 0] == number).sum(), table[number, number]
        assert row["count"] == true
        assert row["precision"] == (both / said if said else None)
        assert row["recall"] == (both / true if true else None)
        assert row["f1"] == (2 * both / (true + said) if true + said else None)


def test_places_that_are_ignored_do_not_count() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.standard_normal((4, 7, 5)), random.integers(0, 7, (4, 5))
    labels[0] = -100
    meter = Meter(["accuracy", "top5", "per-class"])
    measure(meter, scores, labels, Classes(1, ignore=-100))
    order = np.argsort(-scores[1:], axis=1)
    assert meter.values()["accuracy"] == (order[:, 0] == labels[1:]).mean()
    assert meter.values()["top5"] == (order[:, :5] == labels[1:, None]).any(1).mean()
    assert sum(row["count"] for row in meter.values()["per-class"]) == 15


def test_nothing_is_told_before_a_label_counts() -> None:
    meter, scores = Meter(["accuracy", "top5"]), np.eye(7)[:4]
    measure(meter, scores, np.full(4, -100), Classes(1, ignore=-100))
    assert meter.told() == ""
    measure(meter, scores, np.array([0, 1, 3, -100]), Classes(1, ignore=-100))
    assert meter.told() == "accuracy 0.6667, top5 1"


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 50), st.sampled_from([0.0, 1e6]))
def test_regressions_as_the_formulas_say(seed: int, count: int, batch: int, far: float) -> None:
    random = np.random.default_rng(seed)
    targets = far + random.standard_normal((count, 3))
    output = targets + random.standard_normal((count, 3))
    meter = Meter(["mse", "mae", "r2"])
    for first in range(0, count, batch):
        measure(meter, output[first : first + batch], targets[first : first + batch], Classes())
    found = meter.values()
    assert found["mse"] == pytest.approx(np.square(output - targets).mean(), rel=1e-9)
    assert found["mae"] == pytest.approx(np.abs(output - targets).mean(), rel=1e-9)
    r2 = 1 - np.square(output - targets).sum(0) / np.square(targets - targets.mean(0)).sum(0)
    assert found["r2"] == pytest.approx(r2.mean(), rel=1e-6)


def test_equal_targets_have_no_r2() -> None:
    meter = Meter(["r2"])
    measure(meter, np.ones((4, 2)), np.ones((4, 2)), Classes())
    assert meter.values() == {"r2": None}


def test_what_makes_no_sense_is_refused() -> None:
    x = np.eye(8, dtype=np.float32)
    with pytest.raises(CimcError, match="no metric is called top3"):
        evaluate(program(), x, np.arange(8), metrics=["top3"])
    with pytest.raises(CimcError, match="are of classes and of numbers"):
        evaluate(program(), x, np.arange(8), metrics=["accuracy", "mse"])
    with pytest.raises(DataError, match=r"targets are \[8\], the output is \[8, 8\]"):
        evaluate(program(), x, np.arange(8.0), metrics=["mse"])
    with pytest.raises(DataError, match="top5 of 3 classes is always 1"):
        measure(Meter(["top5"]), np.ones((2, 3)), np.array([0, 1]), Classes())
    with pytest.raises(DataError, match="label -1 is negative"):
        measure(Meter(["confusion"]), np.ones((2, 3)), np.array([0, -1]), Classes())
    with pytest.raises(CimcError, match="confusion is not one number for a chip"):
        cimc.evaluate(program(), x, np.arange(8), metric="confusion", chips=1)


def test_the_command_gives_chip_and_reference(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((40, 8)).astype(np.float32)
    labels = random.integers(0, 8, 40)
    np.savez(tmp_path / "d.npz", x=x, y=labels)
    program().save(tmp_path / "m.cim")
    words = ("evaluate", tmp_path / "m.cim", "--data", tmp_path / "d.npz", "--metric", "top5", "--metric", "confusion")
    told = command(*words, "--json").json
    top5 = (np.argsort(-x, axis=1)[:, :5] == labels[:, None]).any(1).mean()
    assert told["metrics"]["top5"] == {"chip": top5, "reference": top5}
    assert np.sum(told["metrics"]["confusion"]["chip"]) == 40
    shown = command(*words).out
    assert "top5 on the chip" in shown
    assert "what the chip said" in shown


def test_a_regression_on_dice(tmp_path: Path) -> None:
    """Each die's figure is that of its own outputs; yield counts dice whose error is small enough."""
    random = np.random.default_rng(4)
    x = random.uniform(0, 1, (32, 12)).astype(np.float32)
    weight = onnx.numpy_helper.to_array(dense().graph.initializer[0])
    y = x @ weight + random.standard_normal((32, 3)) * 0.1
    program = cimc.compile(dense(), target="bulk-rram-256", calibration={"x": x})
    outputs = [cimc.Chip(program, seed).run({"x": x}, 0)["y"] for seed in (0, 1)]
    wanted = [np.square(out - y).mean() for out in outputs]
    found = cimc.evaluate(program, x, y, chips=2, metric="mse")
    np.testing.assert_allclose(found.accuracy[0, 0], wanted, rtol=1e-6)
    assert found.reference == pytest.approx(np.square(x @ weight - y).mean(), rel=1e-5)
    assert found.yield_at(min(wanted) * 1.0001).share == 0.5
    np.savez(tmp_path / "d.npz", x=x, y=y)
    program.save(tmp_path / "m.cim")
    words = ("evaluate", tmp_path / "m.cim", "--data", tmp_path / "d.npz", "--metric", "mse", "--json")
    told = command(*words, "--chips", 2, "--journal", tmp_path / "j.jsonl", "--yield-at", 100).json
    again = command(*words, "--chips", 2, "--journal", tmp_path / "j.jsonl", "--yield-at", 100, "--resume").json
    assert told["mse"]["values"] == pytest.approx(wanted, rel=1e-6)
    assert told["yield"]["share"] == 1
    assert told == again
    one = command(*words).json
    assert one["metrics"]["mse"]["chip"] == told["mse"]["values"][0]
    assert one["accuracy"] is one["agreement"] is None
    json.dumps(told, allow_nan=False)
