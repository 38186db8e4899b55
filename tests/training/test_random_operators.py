"""Models that draw random numbers train with keyed draws: they repeat, go on from a checkpoint, and differ from step to step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.training.step import Step, training_program
from tests.training import small

BODIES = {
    "RandomNormalLike": "e = RandomNormalLike <scale = 0.3> (h)  z = Add (h, e)",
    "RandomUniformLike": "e = RandomUniformLike (h)  z = Mul (h, e)",
    "RandomNormal": "e = RandomNormal <shape = [1, 8]> ()  z = Add (h, e)",
    "RandomUniform": "e = RandomUniform <shape = [1, 8]> ()  z = Mul (h, e)",
    "Bernoulli": "p = Sigmoid (h)  e = Bernoulli (p)  z = Mul (h, e)",
    "Multinomial": "l = LogSoftmax (h)  k = Multinomial (l)  e = Cast <to = 1> (k)  z = Add (h, e)",
}


def chip(body: str, target: str = "ideal", opset: int = 17) -> cimc.Chip:
    text = f"""g (float[N, 1, 6, 6] x) => (float[N, 3] y, float[N, 8] z) {{
        f = Flatten (x)  h = MatMul (f, v)  {body}  y = MatMul (z, w) }}"""
    proto = small.model(text)
    proto.opset_import[0].version = opset
    random = np.random.default_rng(5)
    for name, shape in (("v", (36, 8)), ("w", (8, 3))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name))
    return cimc.Chip(cimc.compile(proto, target, calibration={"x": small.data(32)[0]}))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("opset", [15, 21])
def test_the_backward_pass_goes_through_what_was_drawn(opset: int, body: str) -> None:
    """In closed form: dW = zᵀ (softmax(y) - onehot) / n, with the z of this step."""
    made = chip(body, opset=opset)
    x, labels = small.data(16)
    found = Step(training_program(made.program), made).run({"x": x}, labels, 3)
    z, y = (found.outputs[name].astype(np.float64) for name in ("z", "y"))
    np.testing.assert_allclose(y, z @ made.program.tensors["initializer/w"], rtol=1e-4, atol=1e-5)
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    expected = z.T @ (p - np.eye(3)[labels]) / 16
    np.testing.assert_allclose(found.gradients["w"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_same_seed_draws_the_same_and_each_step_anew(body: str) -> None:
    x, y = small.data(16)
    trainers = [small.trainer(chip(body)) for _ in range(2)]
    first, again = (trainers[0].gradients(x, y)["w"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, trainers[1].gradients(x, y)["w"])
    trainers[0].chip.draws.trained += 16  # as a step would leave it, with no weight changed
    assert (trainers[0].gradients(x, y)["w"] != first).any()


def test_a_resumed_run_draws_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    x, y = small.data(48)

    def run(folder: str, epochs: int, resume: bool = False) -> dict[str, Any]:
        trainer = small.trainer(chip(BODIES["RandomNormalLike"], "bulk-rram"), schedule="constant")
        trainer.fit(x, y, epochs=epochs, validation=(x, y), checkpoint=tmp_path / folder, resume=resume)
        return {name: array.tobytes() for name, array in trainer.program().tensors.items()}

    whole = run("whole", 3)
    run("parts", 1)
    assert run("parts", 3, resume=True) == whole
    lines = [(tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("whole", "parts")]
    assert [line.split('"seconds"')[0] for line in lines[0]] == [line.split('"seconds"')[0] for line in lines[1]]


def test_a_draw_that_no_key_reaches_is_refused_by_name() -> None:
    then = "then_branch = a () => (float[M, 8] q) { e = RandomNormalLike (h)  q = Add (h, e) }"
    otherwise = "else_branch = b () => (float[M, 8] r) { r = Identity (h) }"
    body = f"t = ReduceSum <keepdims = 0> (h)  o = Sub (t, t)  c = Greater (t, o)  z = If <{then}, {otherwise}> (c)"
    with pytest.raises(cimc.CimcError, match="ONNX Runtime draws it from a generator of its own") as error:
        small.trainer(chip(body))
    assert "RandomNormalLike" in str(error.value)
