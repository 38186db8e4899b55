"""A chip made from a program and a die that its image is written into hold one distribution of errors, in both modes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import cimc
from cimc.errors import TargetError

ROWS, COLUMNS = 120, 40


def program(target: str, method: str) -> cimc.Program:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, {ROWS}] x) => (float[N, {COLUMNS}] y) {{ y = MatMul (x, w) }}'
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return cimc.compile(proto, target=target, settings={"update.programming": method})


def errors(chip: cimc.Chip, goals: cimc.Chip) -> np.ndarray:
    layer = chip.program.layers[0].name
    return np.sort((chip.conductances(layer) - goals.conductances(layer)).reshape(-1))


@pytest.mark.parametrize("method", ["gaussian", "write_verify"])
@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256", "isaac"])
def test_both_ways_to_write_give_one_distribution_of_errors(target: str, method: str) -> None:
    made = program(target, method)
    image = cimc.export_image(made)
    goals = image.program(error_free=True)
    if (target, method) == ("isaac", "write_verify"):
        for refused in (lambda: cimc.Chip(made, 1).conductances(made.layers[0].name), lambda: image.program(seed=2)):
            with pytest.raises(TargetError, match="write-verify needs figures"):
                refused()
        return
    die = image.program(seed=2)
    assert die.programming.method == method
    one, other = errors(cimc.Chip(made, 1), goals), errors(die, goals)
    if target == "isaac":
        assert not one.any()
        assert not other.any()
        return
    # Kolmogorov and Smirnov's distance of two samples of n; it lies above the bound in one of a million cases.
    n = one.size
    both = np.concatenate([one, other])
    distance = np.abs(np.searchsorted(one, both, "right") - np.searchsorted(other, both, "right")).max() / n
    assert distance < np.sqrt(-np.log(1e-6 / 2) / 2) * np.sqrt(2 / n)
    assert np.unique(one).size > n / 2


@pytest.mark.parametrize("method", ["gaussian", "write_verify"])
def test_a_report_has_one_word_for_each_write(method: str) -> None:
    report = cimc.export_image(program("bulk-rram", method)).program(seed=3).programming
    (layer,) = report.layers.values()
    assert 0 < layer.writes.failed == int((~layer.success).sum())
    assert report.to_dict()["success_share"] == pytest.approx(1 - layer.writes.failed / layer.success.size)
