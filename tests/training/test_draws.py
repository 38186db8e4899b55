"""Training, each evaluation and inference meet other noise; continued runs go on in it; the same seed stays the same bytes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import cimc
from cimc.runtime.draws import Draws
from cimc.training.data import Arrays

from .small import NORMED, chip, data, trainer

LINEAR = "linear (float[N, 8] x) => (float[N, 4] y) { y = MatMul (x, w) }"
IMAGES = 4096


def linear() -> cimc.Chip:
    """One product on the noisy chip."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {LINEAR}')
    w = np.random.default_rng(0).normal(0, 0.3, (8, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    x = np.random.default_rng(1).random((64, 8)).astype(np.float32)
    return cimc.Chip(cimc.compile(proto, target="bulk-rram", calibration={"x": x}), 0)


def test_training_evaluations_and_inference_meet_uncorrelated_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are the same one, so what differs among the outputs of one run is noise."""
    t = trainer(linear(), batch_size=IMAGES, loss="mse", lr=0.0, optimizer="sgd")
    x, y = np.full((IMAGES, 8), 0.5, np.float32), np.zeros((IMAGES, 4), np.float32)
    seen: list[NDArray[Any]] = []
    monkeypatch.setattr(t._training.scores, "loss", lambda outputs, _: seen.append(outputs["y"]) or 0.0)
    for _ in range(2):
        t._training.suit("inference", ({"x": x}, y))
        source = Arrays(t._feed, {"x": x}, y, IMAGES, 0)
        t._training.evaluate(source, IMAGES)
    own = t._training.step.run

    def watched(*args: Any, **options: Any) -> Any:
        result = own(*args, **options)
        seen.append(result.outputs["y"])
        return result

    monkeypatch.setattr(t._training.step, "run", watched)
    t.step(x, y)
    t.step(x, y)
    seen.append(t.chip.run({"x": x}, 0)["y"])
    assert len(seen) == 5
    noise = [(output - output.mean(axis=0)) / output.std(axis=0) for output in seen]
    for a, b in combinations(noise, 2):
        # Of independent draws the correlation has a standard deviation of 1/√n; 4 outputs, 10 pairs: 5 of them.
        assert (np.abs((a * b).mean(axis=0)) < 5 / np.sqrt(IMAGES)).all()


def test_plain_inference_is_keyed_by_image_alone() -> None:
    """What was trained or evaluated in between does not count: image n of a chip has one noise."""
    t = trainer(chip(), lr=0.0, optimizer="sgd")
    x, y = data(32)
    t.evaluate(x, y)
    before = t.chip.run({"x": x}, 5)["y"]
    t.evaluate(x, y)
    np.testing.assert_array_equal(t.chip.run({"x": x}, 5)["y"], before)


def order(t: cimc.Trainer, **options: Any) -> list[list[int]]:
    """Which images the batches of a run hold, told by the bytes of the images."""
    x, y = data(48)
    numbers = {image.tobytes(): n for n, image in enumerate(x)}
    seen: list[list[int]] = []
    run = t._training.step.run

    def watched(inputs: Any, *rest: Any, **options: Any) -> Any:
        seen.append([numbers[image.tobytes()] for image in inputs["x"]])
        return run(inputs, *rest, **options)

    t._training.step.run = watched  # type: ignore[method-assign]
    try:
        t.fit(x, y, epochs=1, **options)
    finally:
        t._training.step.run = run  # type: ignore[method-assign]
    return seen


def test_a_second_run_has_another_order_and_the_same_twice_the_same() -> None:
    t, other = trainer(chip()), trainer(chip())
    first, second = order(t), order(t)
    assert sorted(n for batch in first for n in batch) == sorted(n for batch in second for n in batch) == list(range(48))
    assert first != second
    assert [first, second] == [order(other), order(other)]


def test_a_trained_file_goes_on_where_the_chip_was(tmp_path: Path) -> None:
    """Going on from the file is going on with the chip: noise, dropout and order of the data, to the byte."""
    t = trainer(chip(text=NORMED))
    x, y = data(48)
    t.fit(x, y, epochs=1)
    t.chip.save(tmp_path / "trained.cim")
    found = []
    for source in (t.chip.trained_program(), cimc.load(tmp_path / "trained.cim")):
        again = trainer(cimc.Chip(source))
        assert again.chip.draws == t.chip.draws
        assert again.chip.draws.trained == 48
        losses = again.fit(x, y, epochs=1)["loss"]
        found.append((losses, order(again), again.program().tensors["state/draws"].tolist()))
    assert found[0] == found[1]
    fresh = trainer(chip(text=NORMED))
    assert found[0][1] != order(fresh)


def test_another_counter_is_another_dropout_mask() -> None:
    """On the ideal chip nothing but dropout is random."""
    t = trainer(chip("ideal", text=NORMED), optimizer="sgd", lr=0.0)
    x, y = data(16)
    assert t.step(x, y) != t.step(x, y)
    again = trainer(chip("ideal", text=NORMED), optimizer="sgd", lr=0.0)
    again.chip.draws = Draws(trained=16)
    t.chip.draws = Draws(trained=16)
    assert t.step(x, y) == again.step(x, y)


@pytest.mark.parametrize("state", [np.array([1, 2]), np.array([1, 2, -1]), np.array([1.0, 2, 3]), np.array([1, 2, 1 << 60])])
def test_counters_that_are_none_are_refused(state: NDArray[Any]) -> None:
    program = trainer(chip()).program()
    damaged = program.model_copy(update={"tensors": {**program.tensors, "state/draws": state}})
    with pytest.raises(cimc.ArtifactError, match="not three counts"):
        cimc.Chip(damaged)
