"""Bound inputs, fixed sizes and the branches that follow: the program computes what ONNX Runtime computes with that value fed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import cimc
from cimc.compiler import compile_model
from cimc.passes.specialise import Specialise
from tests.passes.graph_text import new_nodes, nodes, through

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
ARRAYS = {
    "w": np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32),
    "v": np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32),
    "k": np.array(16000),
    "two": np.array(2),
    "axis": np.array([0]),
    "c": np.random.default_rng(2).standard_normal((2, 5)).astype(np.float32),
}
X = np.random.default_rng(3).uniform(0, 1, (2, 6)).astype(np.float32)
#: The rate chooses the weight, as in networks that find voices.
RATE = """(float[N, 6] x, int64 sr) => (float[N, 5] y, float[N, 5] z) { e = Equal (sr, k)
    y = If (e) <then_branch = t () => (float[N, 5] p) { p = MatMul (x, w) },
                else_branch = f () => (float[N, 5] p) { q = MatMul (x, v)  p = Neg (q) }>
    z = Relu (y) }"""
#: The batch chooses it.
SIZE = """(float[N, 6] x) => (float[N, 5] y) { s = Shape (x)  n = Gather (s, zero)  e = Greater (n, one)
    y = If (e) <then_branch = t () => (float[N, 5] p) { p = MatMul (x, w) },
                else_branch = f () => (float[N, 5] q) { q = MatMul (x, v) }> }"""
ARRAYS |= {"zero": np.array(0), "one": np.array(1)}


def model(text: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(HEAD + text)
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in ARRAYS.items() if f"{name}" in text)
    return made


def oracle(made: onnx.ModelProto, feeds: dict[str, Any]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(made: onnx.ModelProto, feeds: dict[str, Any], products: int, **options: Any) -> cimc.Program:
    """Bound inputs are fed to ONNX Runtime."""
    state = compile_model(made, "ideal", verify=True, **options)
    program = state.need_program()
    assert sum(place.where == "analog" for place in program.placements) == products, program.placements
    bound = {name: np.asarray(value) for name, value in (options.get("bind") or {}).items()}
    got = cimc.Chip(program).run(feeds)
    for (name, mine), theirs in zip(got.items(), oracle(made, feeds | bound), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
    assert list(got) == [value.name for value in made.graph.output]
    return program


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_bound_input_decides_a_branch(rate: int) -> None:
    program = check(model(RATE), {"x": X}, 1, bind={"sr": rate})
    assert [spec.name for spec in program.inputs] == ["x"]
    places = {place.name: place for place in program.placements}
    assert (places["MatMul_0"].where, places["MatMul_1"].where) == (
        ("analog", "folded") if rate == 16000 else ("folded", "analog")
    )
    assert "never taken" in places["MatMul_1" if rate == 16000 else "MatMul_0"].why


def test_without_a_value_it_stays_digital_and_says_what_to_bind() -> None:
    program = cimc.compile(model(RATE), "ideal")
    assert all("--bind sr=VALUE" in p.why for p in program.placements if p.op_type in ("If", "MatMul"))


@pytest.mark.parametrize("size", [1, 2])
def test_a_fixed_size_decides_a_branch(size: int) -> None:
    made = model(SIZE)
    assert all("--shape x=SIZE" in p.why for p in cimc.compile(made, "ideal").placements if p.op_type in ("If", "MatMul"))
    program = check(made, {"x": X[:size]}, 1, shapes={"x": [size, None]})
    assert program.inputs[0].shape == (size, 6)


OUTSIDE = {
    "an output that both branches take from outside": """(float[N, 6] x, bool b) => (float[N, 5] y) { m = MatMul (x, w)
        y = If (b) <then_branch = t () => (float[N, 5] p) { p = Identity (m) }, else_branch = f () => (float[N, 5] q)
        { q = Neg (m) }> }""",
    "names that both branches and the graph have": """(float[N, 6] x, bool b) => (float[N, 5] p, float[N, 5] r) {
        p = If (b) <then_branch = t () => (float[N, 5] a) { h = MatMul (x, w)  a = Neg (h) },
                    else_branch = f () => (float[N, 5] a) { h = MatMul (x, v)  a = Abs (h) }>
        u = If (b) <then_branch = t () => (float[N, 5] a) { h = MatMul (x, v)  a = Neg (h) },
                    else_branch = f () => (float[N, 5] a) { h = MatMul (x, w)  a = Abs (h) }>
        r = Relu (u) }""",
    "two outputs of one value": """(float[N, 6] x, bool b) => (float[N, 5] y, float[N, 5] z) {
        y, z = If (b) <then_branch = t () => (float[N, 5] p, float[N, 5] o) { p = MatMul (x, w)  o = Identity (p) },
                       else_branch = f () => (float[N, 5] q, float[N, 5] s) { q = MatMul (x, v)  s = Neg (q) }> }""",
    "one in the other": """(float[N, 6] x, bool b) => (float[N, 5] y) { n = Not (b)
        y = If (b) <then_branch = t () => (float[N, 5] p) { h = MatMul (x, w)
                p = If (n) <then_branch = tt () => (float[N, 5] i) { i = Neg (h) },
                            else_branch = tf () => (float[N, 5] j) { j = Abs (h) }> },
                    else_branch = f () => (float[N, 5] q) { q = MatMul (x, v) }> }""",
    "a constant of its own": """(float[N, 6] x, bool b) => (float[N, 5] y) {
        y = If (b)
            <then_branch = t () => (float[N, 5] p) { d = Constant <value_float = 2.0> ()  h = MatMul (x, w)  p = Mul (h, d) },
             else_branch = f () => (float[N, 5] q) { h = MatMul (x, v)  d = Constant <value_float = 3.0> ()  q = Mul (h, d) }>
        }""",
}


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("case", OUTSIDE)
def test_the_branch_takes_the_place_of_its_if(case: str, value: bool) -> None:
    check(model(OUTSIDE[case]), {"x": X}, OUTSIDE[case].count("MatMul") // 2 or 1, bind={"b": value})


@pytest.mark.parametrize("value", [True, False])
def test_a_branch_with_initializers(value: bool) -> None:
    """Both branches have one of the same name; one is an output."""
    made = model("""(float[N, 6] x, bool b) => (float[N, 5] y, float[2, 5] z) { y, z = If (b)
        <then_branch = t () => (float[N, 5] p, float[2, 5] o) { h = MatMul (x, w)  p = Add (h, o) },
         else_branch = f () => (float[N, 5] q, float[2, 5] o) { h = MatMul (x, v)  q = Mul (h, o) }> }""")
    for n, body in enumerate(made.graph.node[0].attribute):
        body.g.initializer.append(numpy_helper.from_array(ARRAYS["c"] + np.float32(n), "o"))
    check(made, {"x": X}, 1, bind={"b": value})


def test_an_if_on_constants_needs_no_option() -> None:
    made = model("""(float[N, 6] x) => (float[N, 5] y) { s = Shape (x)  r = Size (s)  e = Equal (r, two)
        y = If (e) <then_branch = t () => (float[N, 5] p) { p = MatMul (x, w) },
                    else_branch = f () => (float[N, 5] q) { q = MatMul (x, v) }> }""")
    check(made, {"x": X}, 1)


def test_a_bound_array_and_what_follows_from_it() -> None:
    made = model("(float[N, 6] x, float[6, M] m) => (float[N, M] y) { y = MatMul (x, m) }")
    check(made, {"x": X}, 1, bind={"m": ARRAYS["w"]})


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ({"rate": 16000}, ["no input 'rate'", "x, sr"]),
        ({"sr": 16000.5}, ["16000.5", "int64"]),
        ({"sr": True}, ["int64"]),
        ({"sr": "fast"}, ["no number"]),
        ({"sr": [1, 2]}, ["shape is [2]"]),
        ({"x": np.zeros((2, 7))}, ["[2, 7]", "6"]),
        ({"x": [[1e300] * 6]}, ["float32"]),
        ({"x": [[float("nan")] * 6]}, ["NaN"]),
        ({"sr": None}, ["no input of this name has a default"]),
        ({"sr": [[1], [1, 2]]}, ["cannot become an array"]),
        ({"sr": 1 << 70}, ["array"]),
    ],
)
def test_a_wrong_value_is_told(bind: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(cimc.CimcError) as caught:
        cimc.compile(model(RATE), "ideal", bind=bind)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"input": [1, 6]}, ["no input 'input'"]),
        ({"x": [1]}, ["1 sizes, but it has 2 axes"]),
        ({"x": [1, 7]}, ["a size of 7", "[N, 6]"]),
        ({"x": [-1, 6]}, ["a size of -1"]),
        ({"x": ["a", 6]}, ["shapes is a dict"]),
        ({"x": [1 << 40, 6]}, ["GB"]),
    ],
)
def test_a_wrong_shape_is_told(shapes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(cimc.CimcError) as caught:
        cimc.compile(model(RATE), "ideal", shapes=shapes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_one_name_of_a_size_is_one_size() -> None:
    made = model("(float[N, 6] x, float[N, 6] u) => (float[N, 5] y) { s = Add (x, u)  y = MatMul (s, w) }")
    program = cimc.compile(made, "ideal", shapes={"x": [2, 6]})
    assert [spec.shape for spec in (*program.inputs, *program.outputs)] == [(2, 6), (2, 6), (2, 5)]
    with pytest.raises(cimc.CimcError, match="'N' is 2 and 3"):
        cimc.compile(made, "ideal", shapes={"x": [2, 6], "u": [3, 6]})


def test_data_for_a_bound_input_must_agree(tmp_path: Path) -> None:
    program = cimc.compile(model(RATE), "bulk-rram-256", bind={"sr": 16000}, calibration={"x": X, "sr": np.array(16000)})
    program.save(tmp_path / "m.cim")
    cimc.export_image(cimc.Chip(program), path=tmp_path / "m.cimg")
    for chip in (cimc.Chip(cimc.load(tmp_path / "m.cim")), cimc.load_image(tmp_path / "m.cimg").program(seed=0)):
        chip.run({"x": X, "sr": np.array(16000)})
        with pytest.raises(cimc.DataError, match=r"another value of sr \(16000\)"):
            chip.run({"x": X, "sr": np.array(8000)})
    with pytest.raises(cimc.DataError, match="another value of sr"):
        cimc.compile(model(RATE), "bulk-rram-256", bind={"sr": 16000}, calibration={"x": X, "sr": np.array(8000)})


@pytest.mark.parametrize("pattern", ["w", "*"])
def test_a_default_that_is_bound_is_a_weight(pattern: str) -> None:
    made = model("(float[N, 6] x, float[6, 5] w) => (float[N, 5] y) { y = MatMul (x, w) }")
    (place,) = cimc.compile(made, "ideal").placements
    assert place.where == "digital"
    assert "--bind w " in place.why
    program = cimc.compile(made, "ideal", bind={pattern: None})
    np.testing.assert_allclose(cimc.Chip(program).run({"x": X})["y"], X @ ARRAYS["w"], rtol=1e-5)
    assert program.placements[0].where == "analog"
    check(made, {"x": X}, 1, bind={"w": ARRAYS["v"]})


def test_a_bound_input_does_not_train() -> None:
    made = model("(float[N, 6] x, float[5] m, float[6, 5] w) => (float[N, 5] y) { h = MatMul (x, w)  y = Mul (h, m) }")
    program = cimc.compile(made, "bulk-rram-256", bind={"m": [1.0, 2.0, 3.0, 4.0, 5.0], "w": None}, calibration={"x": X})
    rows = {row["name"]: row["trains"] for row in cimc.Trainer(cimc.Chip(program), batch_size=2).plan()}
    assert rows == {"w": True, "m": False}
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=2)
    trainer.fit(X, np.array([0, 1]), epochs=1)
    assert trainer.program().bound == ("m",)
    np.testing.assert_array_equal(trainer.program().bound_values()["m"], np.arange(1, 6, dtype=np.float32))
    trainer.step({"x": X, "m": np.arange(1, 6)}, np.array([0, 1]))
    with pytest.raises(cimc.DataError, match="another value of m"):
        trainer.step({"x": X, "m": np.arange(5)}, np.array([0, 1]))


# A voice detector: the rate by way of several operators, nested choices, all weights outside of the branches, an LSTM with state.

#: How the condition follows from the sampling rate.
CONDITIONS = {
    "equal": "e = Equal (sr, k)",
    "cast": "a = Equal (sr, k)  b = Cast <to = 7> (a)  e = Cast <to = 9> (b)",
    "not": "a = Equal (sr, k8)  e = Not (a)",
    "and, or": """a = Equal (sr, k)  b = Greater (sr, k8)  c0 = And (a, b)  d = Equal (sr, k8)  n = Not (d)  m = And (n, c0)
        e = Or (c0, m)""",
    "quotient": "q = Div (sr, k8)  a = Equal (q, two)  e = Identity (a)",
    "a vector": """i = Reshape (sr, axis1)  a = Equal (i, k)  f = Cast <to = 1> (a)  s = ReduceSum <keepdims = 0> (f)
        e = Greater (s, nil)""",
}
#: A network; § becomes the letter of its branch. The length of the sound decides whether it is padded, the rank of the state how
#: it is split.
NETWORK = """len§ = Shape (x)  l§ = Gather (len§, one)  short§ = Less (l§, least)  fits§ = Not (short§)
    w§ = If (fits§) <then_branch = t§ () => (float[N, T] asis§) { asis§ = Identity (x) },
                    else_branch = f§ () => (float[N, T] padded§) { padded§ = Pad (x, pads) }>
    u§ = Unsqueeze (w§, axis1)  v§ = Conv <strides = [STRIDE]> (u§, wc§, bc§)  r§ = Relu (v§)
    z§ = Transpose <perm = [2, 0, 1]> (r§)  dims§ = Shape (state)  rank§ = Size (dims§)  three§ = Equal (rank§, k3)
    h0§, c0§ = If (three§) <
        then_branch = tt§ () => (float[1, N, 8] ha§, float[1, N, 8] ca§) { ha§, ca§ = Split <axis = 0> (state, halves) },
        else_branch = ff§ () => (float[1, N, 8] hb§, float[1, N, 8] cb§) { hb§ = Unsqueeze (state, axis)  cb§ = Mul (hb§, nil) }>
    seq§, hn§, cn§ = LSTM <hidden_size = 8> (z§, wl§, rl§, bl§, , h0§, c0§)  last§ = Squeeze (hn§, axis)  g§ = Relu (last§)
    o§ = Gemm (g§, wo§, bo§)  out§ = Sigmoid (o§)  next§ = Concat <axis = 0> (hn§, cn§)"""


def detector(condition: str) -> onnx.ModelProto:
    """Networks of their own for 16 and 8 kHz behind two Ifs, and zeros for any other rate."""
    one, two = (NETWORK.replace("§", f"_{name}").replace("STRIDE", stride) for name, stride in (("a", "4"), ("b", "8")))
    text = f"""(float[N, T] x, float[2, N, 8] state, int64 sr) => (float[N, 1] prob, float[2, N, 8] stateN) {{
        {CONDITIONS[condition]}
        prob, stateN = If (e) <
            then_branch = fast () => (float[N, 1] out_a, float[2, N, 8] next_a) {{ {one} }},
            else_branch = slow () => (float[N, 1] po, float[2, N, 8] pn) {{ other = Equal (sr, k8)
                po, pn = If (other) <
                    then_branch = half () => (float[N, 1] out_b, float[2, N, 8] next_b) {{ {two} }},
                    else_branch = no () => (float[N, 1] nothing, float[2, N, 8] same) {{
                        col = ReduceMax <keepdims = 1, axes = [1]> (x)  nothing = Mul (col, nil)
                        same = Identity (state) }}> }}> }}"""
    random = np.random.default_rng(5)
    numbers = {"k": 16000, "k8": 8000, "two": 2, "one": 1, "least": 32, "k3": 3, "axis": [0], "axis1": [1], "pads": [0, 4, 0, 4],
               "halves": [1, 1], "nil": np.float32(0)}  # fmt: skip
    shapes = {"wc": (6, 1, 8), "bc": (6,), "wl": (1, 32, 6), "rl": (1, 32, 8), "bl": (1, 64), "wo": (8, 1), "bo": (1,)}
    arrays = {name: np.asarray(number) for name, number in numbers.items()}
    for name, shape in shapes.items():
        arrays |= {f"{name}_{branch}": random.normal(0, 0.4, shape).astype(np.float32) for branch in "ab"}
    made = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 13]> g ' + text)
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return made


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(("rate", "length"), [(16000, 32), (16000, 24), (8000, 40)])
def test_a_voice_detector_behind_nested_choices_is_on_crossbars(condition: str, rate: int, length: int) -> None:
    random = np.random.default_rng(9)
    feeds = {"x": random.normal(size=(1, length)).astype(np.float32), "state": random.normal(size=(2, 1, 8)).astype(np.float32)}
    options = {"bind": {"sr": rate}, "shapes": {"x": [1, length], "state": [2, 1, 8]}}
    program = check(detector(condition), feeds, 3, **options)  # convolution, LSTM, dense
    assert not any(place.op_type == "If" and place.where == "digital" for place in program.placements)


def test_text() -> None:
    """As in the module's text: the branch of a bound rate is in the place of its If."""
    text = """g (float[N, 6] x, int64 sr) => (float[N, 5] y) { e = Equal (sr, k)
        [choice] y = If (e) <then_branch = t () => (float[N, 5] p) { [wide] p = MatMul (x, w) },
                             else_branch = f () => (float[N, 5] q) { [narrow] q = MatMul (x, v) }> }"""
    assert new_nodes(model(text.removeprefix("g ")), Specialise({"sr": 16000}), before=()) == ["[wide] y = MatMul (x, w)"]
    assert nodes(through(model(text.removeprefix("g ")), Specialise({"sr": 16000})).model) == ["[wide] y = MatMul (x, w)"]


@pytest.mark.parametrize(
    ("bind", "shapes", "said"),
    [
        ({"rate": 8000}, {}, "rate"),
        ({"sr": 0.5}, {}, "is no value of int64"),
        ({}, {"x": (2, 7)}, "a size of 7 where the model has"),
        ({}, {"x": (2,)}, "1 sizes, but it has 2 axes"),
    ],
)
def test_values_and_sizes_that_do_not_fit_are_refused(bind: dict[str, Any], shapes: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=re.escape(said)):
        through(model(RATE), Specialise(bind, shapes))


def test_what_stays_has_a_reason_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cimc"):
        through(model(RATE), Specialise())
    assert any("not replaced by its branch: its condition 'e' is no constant" in line for line in caplog.messages)
    assert any(line.startswith("specialise: nothing changed: no input is bound") for line in caplog.messages)
