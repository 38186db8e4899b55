"""Inputs and outputs other than tensors of numbers that depend on the input: lists, optionals, text, maps, constants.

Each is what ONNX Runtime gives, directly, from a saved program, and where images run one by one; or it is refused in words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc

X = np.random.default_rng(0).uniform(0, 1, (3, 6)).astype(np.float32)
TEXT = np.array(["a", "z", "b"], object)
ARRAYS = {
    "w": np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32),
    "a": np.random.default_rng(2).standard_normal(2).astype(np.float32),
    "i": np.array(0),
    "one": np.array([1]),
    "six": np.array([1, 6]),
    "none": np.zeros(0, np.float32),
    "names": np.array(["p", "q"], object),
}
OPSETS = '<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]> g '
#: A graph without its initializers, and its inputs.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("(seq(float[N, 6]) s) => (float[M, 5] y) { z = SequenceAt (s, i)  y = MatMul (z, w) }", {"s": [X, X]}),
    "a list of any length": (
        "(seq(float[N, 6]) s) => (float[M, 5] y) { z = ConcatFromSequence <axis = 0> (s)  y = MatMul (z, w) }",
        {"s": [X, X[:1], X]},
    ),
    "a list as output": (
        "(float[N, 6] x) => (seq(float[N, 5]) y) { z = MatMul (x, w)  y = SplitToSequence <axis = 1> (z) }", {"x": X},
    ),
    "an optional": (
        "(optional(float[N, 6]) o) => (float[N, 5] y) { z = OptionalGetElement (o)  y = MatMul (z, w) }", {"o": X},
    ),
    "an empty optional": (
        "(optional(float[N, 6]) o, float[N, 6] x) => (bool h, float[N, 5] y) { h = OptionalHasElement (o)  y = MatMul (x, w) }",
        {"o": None, "x": X},
    ),
    "an optional list": (
        "(optional(seq(float[N, 6])) o, float[N, 6] x) => (bool h, float[N, 5] y) "
        "{ h = OptionalHasElement (o)  y = MatMul (x, w) }",
        {"o": [X], "x": X},
    ),
    "an optional as output": ("(float[N, 6] x) => (optional(float[N, 5]) y) { z = MatMul (x, w)  y = Optional (z) }", {"x": X}),
    "text": ("(float[N, 6] x, string[K] s) => (float[N, 5] y, string[K] t) { y = MatMul (x, w)  t = Identity (s) }",
             {"x": X, "s": TEXT}),
    "text that a product follows": (
        '(string[N] s) => (float[N, 5] y) { k = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [1.0, 2.0], '
        "default_float = 0.5> (s)  u = Unsqueeze (k, one)  z = Expand (u, six)  y = MatMul (z, w) }",
        {"s": TEXT},
    ),
    "text as output": (
        "(float[N, 6] x) => (string[N] y) { z = MatMul (x, w)  m = ArgMax <axis = 1, keepdims = 0> (z) "
        'y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1, 2, 3, 4], values_strings = ["a", "b", "c", "d", "e"]> (m) }',
        {"x": X},
    ),
    "text as a constant output": ("(float[N, 6] x) => (float[N, 5] y, string[2] names) { y = MatMul (x, w) }", {"x": X}),
    "text with a default": (
        "(float[N, 6] x, string[2] names) => (float[N, 5] y, string[2] t) { y = MatMul (x, w)  t = Identity (names) }", {"x": X},
    ),
    "constants as outputs": (
        "(float[N, 6] x) => (float[N, 5] y, float[2] a, float[2] k, float[3] c, float[6, 5] t) "
        "{ y = MatMul (x, w)  k = Add (a, a)  c = Constant <value_floats = [1.0, 2.0, 3.0]> ()  t = Identity (w) }",
        {"x": X},
    ),
    "weights as outputs": (
        "(float[N, 6] x) => (float[N, 5] y, float[6, 5] w, float[5, 6] t) { y = MatMul (x, w)  t = Transpose (w) }", {"x": X},
    ),
    "constants alone": ("(float[N, 6] x) => (float[2] k, float[2] a) { k = Add (a, a) }", {"x": X}),
    "an empty constant": ("(float[N, 6] x) => (float[N, 5] y, float[0] none) { y = MatMul (x, w) }", {"x": X}),
    "an input as output": ("(float[N, 6] x) => (float[N, 5] y, float[N, 6] x) { y = MatMul (x, w) }", {"x": X}),
}  # fmt: skip


def model(text: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(OPSETS + text)
    used = {name for node in made.graph.node for name in node.input} | {value.name for value in made.graph.output}
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in ARRAYS.items() if name in used)
    return made


def oracle(made: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(got: Any, wanted: Any) -> None:
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        for mine, theirs in zip(got, wanted, strict=True):
            check(mine, theirs)
    elif isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        np.testing.assert_allclose(list(got.values()), list(wanted.values()), rtol=1e-5)
    elif wanted is None:
        assert got is None
    elif np.asarray(wanted).dtype == object:
        assert got.tolist() == wanted.tolist()
    else:
        assert (np.shape(got), np.asarray(got).dtype) == (np.shape(wanted), np.asarray(wanted).dtype)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_onnx_runtime_gives(case: str, tmp_path: Path) -> None:
    made, feeds = model(CASES[case][0]), CASES[case][1]
    wanted, program = oracle(made, feeds), cimc.compile(made, "ideal")
    program.save(tmp_path / "m.cim")
    for chip in (cimc.Chip(program), cimc.Chip(cimc.load(tmp_path / "m.cim")), cimc.Chip(program, deterministic=True)):
        check(list(chip.run(feeds).values()), wanted)


@pytest.mark.parametrize("case", [case for case in CASES if case != "constants alone"])
def test_it_compiles_for_a_noisy_chip_and_its_image_runs(case: str, tmp_path: Path) -> None:
    made, feeds = model(CASES[case][0]), CASES[case][1]
    program = cimc.compile(made, "bulk-rram-256", settings={"input.range": [0, 2]})
    cimc.export_image(cimc.Chip(program), path=tmp_path / "m.cimg")
    outputs = cimc.load_image(tmp_path / "m.cimg").program(seed=1).run(feeds).values()
    for got, wanted in zip(outputs, oracle(made, feeds), strict=True):
        assert np.shape(got) == np.shape(wanted)


def test_a_list_is_calibrated_and_its_range_is_kept() -> None:
    made = model(CASES["a list"][0])
    chip = cimc.Chip(cimc.compile(made, "bulk-rram-256", calibration={"s": [X, X]}))
    chip.run({"s": [X, X]})
    with pytest.raises(cimc.DataError, match="a list of arrays"):
        cimc.compile(made, "bulk-rram-256", calibration={"s": X})
    guessed = cimc.Chip(cimc.compile(made, "bulk-rram-256"))
    with pytest.raises(cimc.DataError, match=r"element 1: data from"):
        guessed.run({"s": [X, X * 9]})


def probabilities() -> onnx.ModelProto:
    """What sklearn-onnx writes for a classifier by default."""
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, [])))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"]),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["p"], ["probability"], domain="ai.onnx.ml", classlabels_int64s=[2, 3, 5, 7, 11]),
    ]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]), helper.make_value_info("probability", kind)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(ARRAYS["w"], "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_maps_as_outputs(tmp_path: Path) -> None:
    made = probabilities()
    program, wanted = cimc.compile(made, "ideal"), oracle(made, {"x": X})
    program.save(tmp_path / "m.cim")
    for chip in (cimc.Chip(program), cimc.Chip(cimc.load(tmp_path / "m.cim")), cimc.Chip(program, deterministic=True)):
        check(list(chip.run({"x": X}).values()), wanted)
    assert [spec.type for spec in program.outputs] == ["tensor", "map"]


def test_a_map_as_input_is_refused() -> None:
    taken = helper.make_value_info("d", helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, [])))
    node = helper.make_node("DictVectorizer", ["d"], ["v"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])
    graph = helper.make_graph([node], "g", [taken], [helper.make_tensor_value_info("v", 1, [1, 2])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    with pytest.raises(cimc.ModelError, match="'d' is a map"):
        cimc.compile(helper.make_model(graph, opset_imports=opsets, ir_version=8))
