"""A checkpoint that is refused leaves the trainer as it was, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from tests.training import small


def shown(trainer: cimc.Trainer) -> dict[str, Any]:
    """All that a run could change."""
    chip = trainer.chip
    return {
        "tensors": {name: array.tobytes() for name, array in trainer.program().tensors.items()},
        "layers": chip.program.layers,
        "provenance": chip.program.provenance,
        "draws": dict(vars(chip.draws)),
        "notes": list(trainer.notes),
        "suits": [trainer._training.ranges.suit(form) for form in ("training", "inference")],
    }


@pytest.mark.parametrize("kind", ["another seed", "other data", "damaged", "not to be resumed", "in use"])
@pytest.mark.parametrize("trained", [False, True], ids=["new chip", "trained chip"])
def test_a_refused_checkpoint_leaves_the_trainer_as_it_was(kind: str, trained: bool, tmp_path: Path) -> None:
    """A fresh model would start from the devices as born; a trained chip would have its ranges chosen anew."""
    x, y = small.data(48)
    small.trainer(small.chip(), seed=1 if kind == "another seed" else 0).fit(x, y, epochs=1, checkpoint=tmp_path / "run")
    if kind == "damaged":
        file = tmp_path / "run" / "checkpoint.safetensors"
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    trainer, same = (small.trainer(small.chip()) for _ in range(2))
    if trained:
        for one in (trainer, same):
            one.fit(x, y, epochs=1)
    before = shown(trainer)
    data = (x[::-1], y[::-1]) if kind == "other data" else (x, y)
    options: dict[str, Any] = {"resume": kind != "not to be resumed"}
    held = None
    if kind == "in use":
        from cimc.training.folder import Folder

        held = Folder(tmp_path / "run")
    with pytest.raises(cimc.CimcError):
        trainer.fit(*data, epochs=2, checkpoint=tmp_path / "run", **options)
    if held is not None:
        held.close()
    assert shown(trainer) == before
    for one in (trainer, same):
        one.fit(x, y, epochs=1)
    assert shown(trainer) == shown(same)


HALF = """half (float16[N, 8] x) => (float16[N, 3] y) { h = MatMul (x, w)  y = Add (h, b) }"""


def half() -> cimc.Chip:
    import onnx

    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {HALF}')
    random = np.random.default_rng(2)
    for name, array in (("w", random.normal(0, 0.3, (8, 3))), ("b", np.full(3, 8.0))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float16), name))
    return cimc.Chip(cimc.compile(proto, "ideal"))


def test_small_steps_of_a_half_precision_parameter_add_up(tmp_path: Path) -> None:
    """Near 8 a float16 has steps of 0.0078; a hundred steps of at most 0.0001 move it by their float32 sum."""
    x = np.random.default_rng(3).random((16, 8)).astype(np.float16)
    y = np.arange(16) % 2  # class 2 never comes: its bias falls at every step
    trainer = cimc.Trainer(half(), optimizer="sgd", lr=3e-4, batch_size=16, schedule="constant", freeze="w")
    total = np.zeros(3, np.float64)
    for _ in range(100):
        total -= 3e-4 * trainer.gradients(x, y)["b"].astype(np.float64)
        trainer.step(x, y)
    moved = trainer.weights()["b"].astype(np.float64) - 8.0
    assert trainer.weights()["b"].dtype == np.float16
    assert abs(total[2]) > 0.004
    np.testing.assert_allclose(moved, total, atol=0.0079 / 2 + 1e-4)
    assert moved[2] < 0


def test_what_a_half_precision_parameter_is_rounded_from_is_in_the_checkpoint(tmp_path: Path) -> None:
    x = np.random.default_rng(3).random((32, 8)).astype(np.float16)
    y = np.arange(32) % 2

    def run(folder: str, epochs: int, resume: bool = False) -> list[Any]:
        trainer = cimc.Trainer(half(), optimizer="sgd", lr=3e-4, batch_size=16, schedule="constant")
        trainer.fit(x, y, epochs=epochs, checkpoint=tmp_path / folder, resume=resume)
        return [array.tobytes() for array in trainer._training.learner.masters.values()]

    whole = run("whole", 4)
    run("parts", 2)
    assert run("parts", 4, resume=True) == whole
    assert len(whole) == 1


SQUARE = "square (float[N, 3, 3] x) => (float[N, 3, 3] y) { y = MatMul (x, w) }"
"""Classes may lie along either axis of the scores."""


def square() -> cimc.Trainer:
    import onnx

    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {SQUARE}')
    w = np.random.default_rng(2).normal(0, 0.3, (3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return cimc.Trainer(cimc.Chip(cimc.compile(proto, "ideal")), batch_size=8, init="weights")


def along(axis: int, images: int = 16) -> tuple[Any, Any]:
    """Images, and probabilities that sum to 1 along one axis only."""
    random = np.random.default_rng(axis)
    p = random.dirichlet((0.5, 1.0, 2.0), (images, 3)).astype(np.float32)
    return random.random((images, 3, 3)).astype(np.float32), np.moveaxis(p, -1, axis)


@pytest.mark.parametrize("kind", ["checkpoint", "labels", "validation"])
def test_labels_of_a_refused_run_say_nothing_of_the_next(kind: str, tmp_path: Path) -> None:
    """The axis of the classes is that of the first labels that are taken."""
    trainer, same = square(), square()
    x, y = along(1)
    if kind == "checkpoint":
        square().fit(x, y, epochs=1, checkpoint=tmp_path)
        with pytest.raises(cimc.CimcError):
            trainer.fit(x, y, epochs=1, checkpoint=tmp_path)
    elif kind == "labels":
        wrong = y.copy()
        wrong[5, :2, 0] += np.float32([-2, 2])  # below 0, of the same sum
        with pytest.raises(cimc.DataError, match="below 0"):
            trainer.step(x, wrong)
    else:
        with pytest.raises(cimc.DataError):
            trainer.fit(x, y, epochs=1, validation=(x[:3], y[:2]))
    x, y = along(2)
    for one in (trainer, same):
        one.fit(x, y, epochs=1)
    assert shown(trainer) == shown(same)
