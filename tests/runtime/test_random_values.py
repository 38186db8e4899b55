"""Random operators draw the distributions that ONNX defines, keyed by seed, node and image."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.ir.program import RandomStep
from tests.training import small

#: Body of a model of ``float[N, 50] x``, with mean and deviation of an element of ``y``.
DRAWS = {
    "RandomNormalLike": ("y = RandomNormalLike <mean = 2.0, scale = 3.0> (x)", 2.0, 3.0),
    "RandomUniformLike": ("y = RandomUniformLike <low = -1.0, high = 3.0> (x)", 1.0, 4 / np.sqrt(12)),
    "RandomNormal": ("y = RandomNormal <mean = -1.0, scale = 0.5, shape = [400, 50]> ()", -1.0, 0.5),
    "RandomUniform": ("y = RandomUniform <shape = [400, 50]> ()", 0.5, 1 / np.sqrt(12)),
    "Bernoulli": ("h = Constant <value_float = 0.3> ()  z = Sub (x, x)  p = Add (z, h)  y = Bernoulli (p)", 0.3, np.sqrt(0.21)),
    "Dropout": (
        "r = Constant <value_float = 0.25> ()  on = Constant <value = bool {1}> ()  z = Sub (x, x)  o = Exp (z)"
        "  y = Dropout (o, r, on)",
        1.0,
        np.sqrt(0.25 / 0.75),
    ),
}


def program(body: str, opset: int = 17, outputs: str = "float[M, K] y", inputs: str = "float[N, 50] x") -> cimc.Program:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return cimc.compile(onnx.parser.parse_model(text), "ideal")


def noisy() -> onnx.ModelProto:
    """A crossbar layer behind noise."""
    text = """g (float[N, 1, 6, 6] x) => (float[N, 3] y) {
        f = Flatten (x)  e = RandomNormalLike (f)  h = Add (f, e)  y = MatMul (h, w) }"""
    proto = small.model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((36, 3), np.float32), "w"))
    return proto


@pytest.mark.parametrize(("body", "mean", "deviation"), DRAWS.values(), ids=DRAWS)
def test_moments_are_those_of_the_definition(body: str, mean: float, deviation: float) -> None:
    """Bounds of five deviations of the sample's mean, and of the mean of its squares by its own fourth moments."""
    y = cimc.Chip(program(body), 3).run({"x": np.zeros((400, 50), np.float32)})["y"].astype(np.float64)
    assert y.shape == (400, 50)
    assert abs(y.mean() - mean) < 5 * deviation / np.sqrt(y.size)
    squares = (y - mean) ** 2
    assert abs(squares.mean() - deviation**2) < 5 * squares.std() / np.sqrt(y.size)
    rows = np.corrcoef(y[:-1].ravel(), y[1:].ravel())[0, 1]
    assert abs(rows) < 5 / np.sqrt(y.size)


def test_classes_come_with_the_probabilities_of_a_softmax() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4])) + 7.0
    body = "y = Multinomial <sample_size = 2000> (x)"
    made = program(body, outputs="int32[N, 2000] y", inputs="float[N, 4] x")
    y = cimc.Chip(made).run({"x": np.tile(logits, (10, 1)).astype(np.float32)})["y"]
    assert y.dtype == np.int32
    share = np.bincount(y.ravel(), minlength=4) / y.size
    p = np.array([0.1, 0.2, 0.3, 0.4])
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / y.size)).all()


@pytest.mark.parametrize("body", [DRAWS[name][0] for name in ("RandomNormalLike", "RandomUniformLike", "Bernoulli", "Dropout")])
def test_an_image_gets_its_draws_in_any_batch_and_others_get_others(body: str) -> None:
    x = np.random.default_rng(0).random((12, 50), np.float32)
    made = program(body)
    chip = cimc.Chip(made, 1)
    whole = chip.run({"x": x}, first_image=5)["y"]
    parts = [chip.run({"x": x[:3]}, first_image=5)["y"], chip.run({"x": x[3:]}, first_image=8)["y"]]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (cimc.Chip(made, 1).run({"x": x}, first_image=5)["y"] == whole).all()
    assert (cimc.Chip(made, 2).run({"x": x}, first_image=5)["y"] != whole).any()
    assert (chip.run({"x": x})["y"] != chip.run({"x": x})["y"]).any()


def test_each_run_of_a_static_shape_and_each_node_draws_its_own() -> None:
    chip = cimc.Chip(
        program("a = RandomNormal <shape = [4, 50]> ()  b = RandomNormal <shape = [4, 50]> ()  y = Concat <axis = 0> (a, b)")
    )
    x = np.zeros((4, 50), np.float32)
    rows = np.concatenate([chip.run({"x": x})["y"] for _ in range(3)])
    assert len({row.tobytes() for row in rows}) == 24


@pytest.mark.parametrize("dtype", [1, 10, 11, 6, 9], ids=["float", "float16", "double", "int32", "bool"])
def test_bernoulli_gives_the_type_asked_for(dtype: int) -> None:
    body = f"z = Sub (x, x)  o = Exp (z)  y = Bernoulli <dtype = {dtype}> (o)"
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    names = {1: "float", 10: "float16", 11: "double", 6: "int32", 9: "bool"}
    y = cimc.Chip(program(body, outputs=f"{names[dtype]}[N, 50] y")).run({"x": np.ones((2, 50), np.float32)})["y"]
    assert y.dtype == kind
    assert (y == 1).all()


def test_a_constant_may_be_what_an_operator_reads() -> None:
    made = program(
        "p = Constant <value = float[3] {0.0, 1.0, 1.0}> ()  e = Bernoulli (p)  y = Mul (x, e)", inputs="float[N, 3] x"
    )
    (step,) = (s for s in made.steps if isinstance(s, RandomStep))
    assert step.operator == "bernoulli"
    y = cimc.Chip(made).run({"x": np.ones((2, 3), np.float32)})["y"]
    assert y.tolist() == [[0.0, 1.0, 1.0]] * 2


def test_a_mask_that_is_used_is_that_of_the_values() -> None:
    body = "r = Constant <value_float = 0.5> ()  on = Constant <value = bool {1}> ()  y, m = Dropout (x, r, on)"
    found = cimc.Chip(program(body, outputs="float[N, 50] y, bool[N, 50] m")).run({"x": np.ones((20, 50), np.float32)})
    np.testing.assert_array_equal(found["y"], np.where(found["m"], np.float32(2), np.float32(0)))


def test_compiling_twice_gives_the_same_ranges() -> None:
    """Calibration runs the model: what it draws there is the same each time."""
    proto = noisy()
    programs = [cimc.compile(proto, "bulk-rram", calibration={"x": small.data(32)[0]}) for _ in range(2)]
    assert programs[0].layers == programs[1].layers


def test_an_image_of_such_a_model_is_refused_in_words(tmp_path: Any) -> None:
    proto = noisy()
    made = cimc.compile(proto, "bulk-rram", calibration={"x": small.data(32)[0]})
    made.save(tmp_path / "m.cim")
    assert cimc.load(tmp_path / "m.cim").steps == made.steps
    with pytest.raises(cimc.CimcError, match="draws random numbers"):
        cimc.export_image(made)
