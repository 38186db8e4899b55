"""A hint in the placement report helps: who follows it gets the product onto crossbars, with ONNX Runtime's result."""

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
from cimc.passes import selection

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


def real(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


#: A graph, its initializers, and its inputs; one product stays digital, with a hint.
CASES: dict[str, tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]] = {
    "depthwise": (
        "(float[N, 4, 6] x) => (float[N, 4, M] y) { y = Conv <group = 4> (x, w) }", {"w": real(4, 1, 3)}, {"x": real(2, 4, 6)},
    ),
    "a long sequence": (
        "(float[40, N, 3] x) => (float[40, 1, N, 4] y) { y = LSTM <hidden_size = 4> (x, w, r) }",
        {"w": real(1, 16, 3), "r": real(1, 16, 4)}, {"x": real(40, 1, 3)},
    ),
    "a sequence of open length": (
        "(float[T, N, 3] x) => (float[T, 1, N, 4] y) { y = GRU <hidden_size = 4> (x, w, r) }",
        {"w": real(1, 12, 3), "r": real(1, 12, 4)}, {"x": real(5, 1, 3)},
    ),
    "an axis that may broadcast": (
        "(float[N, 4, 6] x) => (float[2, 4, 5] y) { y = MatMul (x, w) }", {"w": real(2, 6, 5)}, {"x": real(2, 4, 6)},
    ),
    "a weight that is an input": ("(float[N, 6] x, float[6, 5] w) => (float[N, 5] y) { y = MatMul (x, w) }", {},
                                  {"x": real(2, 6), "w": real(6, 5)}),
    "a weight that may be replaced": (
        "(float[N, 6] x, float[6, 5] w) => (float[N, 5] y) { y = MatMul (x, w) }", {"w": real(6, 5)}, {"x": real(2, 6)},
    ),
    "a branch on a value": (
        "(float[N, 6] x, bool b) => (float[N, 5] y) { y = If (b) <then_branch = t () => (float[N, 5] p) { p = MatMul (x, w) }, "
        "else_branch = f () => (float[N, 5] q) { q = MatMul (x, v) }> }",
        {"w": real(6, 5), "v": real(6, 5)}, {"x": real(2, 6), "b": np.array(True)},
    ),
    "a branch on a size": (
        """(float[N, 6] x) => (float[N, 5] y) { s = Size (x)  b = Greater (s, k)
        y = If (b) <then_branch = t () => (float[N, 5] p) { p = MatMul (x, w) },
                    else_branch = f () => (float[N, 5] q) { q = MatMul (x, v) }> }""",
        {"w": real(6, 5), "v": real(6, 5), "k": np.array(6)}, {"x": real(2, 6)},
    ),
}  # fmt: skip


def follow(why: str, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """The options that a reason names, its placeholders filled in from the inputs."""
    options: dict[str, Any] = {"settings": re.findall(r"--set ([\w.]+=\w+)", why), "bind": {}, "shapes": {}}
    for name, equals in re.findall(r"--bind (\w+)(=?)", why):
        options["bind"][name] = feeds[name] if equals else None
    for name in re.findall(r"--shape (\w+)=", why):
        names = re.findall(r"'(\w+)'", why.split("fixes the sizes of")[1]) if name == "NAME" else [name]
        options["shapes"] |= {one: list(feeds[one].shape) for one in names}
    return options


@pytest.mark.parametrize("case", CASES)
def test_a_hint_helps(case: str) -> None:
    text, weights, feeds = CASES[case]
    made = onnx.parser.parse_model(HEAD + text)
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    before = cimc.compile(made, "ideal")
    assert not before.layers
    hints = [place.why for place in before.placements if "--s" in place.why or "--b" in place.why]
    assert hints
    program = cimc.compile(made, "ideal", **follow(hints[0], feeds))
    assert program.layers
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    runner = ort.InferenceSession(made.SerializeToString(), session_options, providers=["CPUExecutionProvider"])
    got = cimc.Chip(program).run({spec.name: feeds[spec.name] for spec in program.inputs})
    np.testing.assert_allclose(got["y"], runner.run(["y"], feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_size_that_the_data_make_has_no_hint() -> None:
    """No size of an input tells how many entries are not zero."""
    made = onnx.parser.parse_model(
        HEAD + "(float[N, 3] x) => (float[T, 1, 2, 4] y) { i = NonZero (x)  t = Transpose (i)  f = Cast <to = 1> (t)  "
        "u = Reshape (f, s)  y = LSTM <hidden_size = 4> (u, w, r) }"
    )
    arrays = {"w": real(1, 16, 1), "r": real(1, 16, 4), "s": np.array([-1, 2, 1])}
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    (place,) = (p for p in cimc.compile(made, "ideal").placements if p.op_type == "LSTM")
    assert place.where == "digital"
    assert "--" not in place.why.split("; its last bits")[0]


def test_every_option_that_selection_names_has_a_case_here() -> None:
    """Another option in a reason wants another case above."""
    folder = Path(selection.__path__[0])
    named = {word for path in folder.glob("*.py") for word in re.findall(r"--(\w+)[ ={]", path.read_text())}
    assert named == {"set", "bind", "shape"}
