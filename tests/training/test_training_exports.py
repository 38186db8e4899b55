"""Models that were exported for training, or with open sizes: they train, and what comes out is in inference form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import cimc
from cimc.passes.training import upgrade
from cimc.training.step import training_program
from tests.training import small

EXPORTED = """exported (float[N, 1, 6, 6] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3]> (x, w1)
    n, new_mean, new_var = BatchNormalization <training_mode = 1> (a, s, b, mean, var)  c = Relu (n)
    r = Constant <value_float = 0.25> ()  on = Constant <value = bool {1}> ()  d = Dropout (c, r, on)
    f = Flatten (d)  y = Gemm <transB = 1> (f, w2)
}"""
OPEN = """open (float[N, C, H, W] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3]> (x, w1, b1)  c = Relu (a)  f = Flatten (c)  y = Gemm <transB = 1> (f, w2)
}"""


def at(opset: int, text: str) -> onnx.ModelProto:
    proto = small.model(text)
    proto.opset_import[0].version, proto.ir_version = opset, 11 if opset > 22 else 8
    return proto


def test_what_was_exported_for_training_trains_as_the_inference_export_does(tmp_path: Path) -> None:
    """The trained chip, in its file too, computes what ONNX Runtime does of the inference model with the trained parameters."""
    x, y = small.data(32)
    found = []
    for text in (EXPORTED, small.NORMED):
        trainer = small.trainer(cimc.Chip(cimc.compile(at(17, text), "ideal")))
        trainer.fit(x, y, epochs=2)
        found.append(trainer.weights())
    assert (
        "exported for training: 1 BatchNormalization and 1 Dropout" in small.trainer(small.chip("ideal", text=EXPORTED)).notes[0]
    )
    plain = at(17, small.NORMED)
    for tensor in plain.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(found[0][tensor.name], tensor.name))
    trainer = small.trainer(cimc.Chip(cimc.compile(at(17, EXPORTED), "ideal")))
    assert "exported for training: 1 BatchNormalization and 1 Dropout" in trainer.notes[0]
    trainer.fit(x, y, epochs=2)
    (expected,) = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    trainer.chip.save(tmp_path / "t.cim")
    for chip in (trainer.chip, cimc.Chip(cimc.load(tmp_path / "t.cim"))):
        np.testing.assert_allclose(chip.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


def test_active_dropout_is_compared_with_the_same_draws() -> None:
    """The step by itself takes the graph as it was exported."""
    step = training_program(cimc.compile(at(17, EXPORTED), "ideal"))
    assert "training form: 1 Dropout active" in step.provenance.notes


@pytest.mark.parametrize("opset", [13, 17])
def test_open_axes_beside_the_batch_train_as_at_the_training_opset(opset: int) -> None:
    x, y = small.data(32)
    weights = []
    for version in (opset, 23):
        trainer = small.trainer(cimc.Chip(cimc.compile(at(version, OPEN), "ideal")))
        assert (upgrade.UNCHECKED in trainer.notes) == (version != 23)
        trainer.fit(x, y, epochs=1)
        weights.append(trainer.weights())
    for name, array in weights[1].items():
        np.testing.assert_allclose(weights[0][name], array, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_wrong_conversion_is_found_on_the_first_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """No synthetic input runs through this model, so the first batch tells."""
    honest: Any = upgrade.converted

    def wrong(proto: onnx.ModelProto, opset: int) -> bytes:
        made = onnx.ModelProto.FromString(honest(proto, opset))
        next(node for node in made.graph.node if node.op_type == "Relu").op_type = "Softplus"
        return made.SerializeToString()

    monkeypatch.setattr(upgrade, "converted", wrong)
    trainer = small.trainer(cimc.Chip(cimc.compile(at(17, OPEN), "ideal")))
    with pytest.raises(cimc.CimcError, match="its output y is another after conversion"):
        trainer.fit(*small.data(32), epochs=1)


def test_data_that_the_model_does_not_run_on_are_told_with_their_shape() -> None:
    trainer = small.trainer(cimc.Chip(cimc.compile(at(17, OPEN), "ideal")))
    with pytest.raises(cimc.CimcError, match=r"the model does not run on it \(x \[16, 1, 9, 9\]\)"):
        trainer.step(np.zeros((16, 1, 9, 9), np.float32), np.zeros(16, np.int64))
