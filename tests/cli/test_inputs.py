"""Inputs that need no array, and inputs that are lists, on every command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.conftest import cimc

W = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
B = np.random.default_rng(1).standard_normal(5).astype(np.float32)
X = np.random.default_rng(2).uniform(0, 1, (8, 6)).astype(np.float32)


def initializers_as_inputs(ir_version: int) -> onnx.ModelProto:
    """A Gemm as exporters write it with ``keep_initializers_as_inputs``, and all did at version 3."""
    shapes = {"x": ["n", 6], "w": [6, 5], "b": [5]}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc")],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=ir_version)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_an_initializer_that_is_an_input_needs_no_array(ir_version: int, tmp_path: Path) -> None:
    model, program, data, y = (tmp_path / name for name in ("m.onnx", "m.cim", "d.npz", "y.npz"))
    onnx.save(initializers_as_inputs(ir_version), model)
    np.savez(data, x=X, y=np.arange(8) % 5)
    for command in (
        ("compile", model, "--target", "bulk-rram-256", "--calibration", data, "-o", program),
        ("run", program, "--input", data, "-o", y, "--check", model),
        ("compare", program, model, "--input", data),
        ("evaluate", program, "--data", data, "--model", model),
        ("train", model, "--target", "bulk-rram-256", "--data", data, "--epochs", 1, "-o", tmp_path / "t.cim"),
        ("export", program, "-o", tmp_path / "m.cimg"),
        ("image", "run", tmp_path / "m.cimg", "--input", data, "-o", tmp_path / "z.npz", "--calibration", data),
    ):
        done = cimc(*command)
        assert done.code == 0, (command[0], done.err)
    assert np.load(y)["y"].shape == (8, 5)


def test_an_array_in_the_file_replaces_the_default(tmp_path: Path) -> None:
    onnx.save(initializers_as_inputs(8), tmp_path / "m.onnx")
    feeds = {"x": X, "w": -W}
    np.savez(tmp_path / "d.npz", **feeds)
    assert cimc("compile", tmp_path / "m.onnx", "--target", "ideal", "-o", tmp_path / "m.cim").code == 0
    assert cimc("run", tmp_path / "m.cim", "--input", tmp_path / "d.npz", "-o", tmp_path / "y.npz").code == 0
    wanted = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, feeds)[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], wanted, rtol=1e-5, atol=1e-5)


def test_lists_go_in_and_out_as_numbered_arrays(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (seq(float[n, 6]) s) => (seq(float[n, 5]) y)
        { z = ConcatFromSequence <axis = 0> (s)  p = MatMul (z, w)  y = SplitToSequence <axis = 1> (p) }"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(W, "w"))
    onnx.save(made, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **{"s.0": X, "s.1": X[:2]})
    assert cimc("compile", tmp_path / "m.onnx", "--target", "ideal", "-o", tmp_path / "m.cim").code == 0
    done = cimc("run", tmp_path / "m.cim", "--input", tmp_path / "d.npz", "-o", tmp_path / "y.npz")
    assert done.code == 0, done.err
    wanted = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"s": [X, X[:2]]})[0]
    got = np.load(tmp_path / "y.npz")
    assert len(got.files) == len(wanted) == 5
    for n, array in enumerate(wanted):
        np.testing.assert_allclose(got[f"y.{n}"], array, rtol=1e-5, atol=1e-5)
    np.savez(tmp_path / "e.npz", s=X)
    done = cimc("run", tmp_path / "m.cim", "--input", tmp_path / "e.npz", "-o", tmp_path / "y.npz")
    assert done.code == 2
    assert "a list of arrays" in done.err


def test_a_bound_input_on_every_command(tmp_path: Path) -> None:
    """A branch on it is taken, in the comparison with the model too; data that say otherwise are refused."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, m] x, int64 sr) => (float[n, 5] y) { e = Equal (sr, k)
        y = If (e) <then_branch = t () => (float[n, 5] p) { p = MatMul (x, w) },
                    else_branch = f () => (float[n, 5] q) { q = MatMul (x, v) }> }"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in {"w": W, "v": -W, "k": np.array(16000)}.items())
    model, program, data, y = (tmp_path / name for name in ("m.onnx", "m.cim", "d.npz", "y.npz"))
    onnx.save(made, model)
    np.savez(data, x=X, y=np.arange(8) % 5)
    np.save(tmp_path / "sr.npy", np.array(8000))
    options = ("--bind", f"sr={tmp_path / 'sr.npy'}", "--shape", "x=?,6")
    done = cimc("compile", model, "--target", "ideal", *options, "-o", program)
    assert done.code == 0, done.err
    done = cimc("run", program, "--input", data, "-o", y, "--check", model, "--json")
    assert done.code == 0, done.err
    assert done.json["check"][0]["largest_error"] < 1e-5
    np.testing.assert_allclose(np.load(y)["y"], X @ -W, rtol=1e-5, atol=1e-6)
    assert [row["layer"] for row in cimc("compare", program, model, "--input", data, "--json").json["layers"]]
    done = cimc("evaluate", program, "--data", data, "--model", model, "--json")
    assert done.json["agreement"] == 1.0
    trained = ("--data", data, "--epochs", 1, "--target", "bulk-rram-256", "-o", tmp_path / "t.cim")
    assert cimc("train", model, *options, *trained).code == 0
    assert cimc("train", program, *options, "--data", data, "--epochs", 1, "-o", tmp_path / "t.cim").code == 2
    np.savez(data, x=X, y=np.arange(8) % 5, sr=np.array(16000))
    assert "another value of sr" in cimc("train", model, *options, *trained).err
    done = cimc("run", program, "--input", data, "-o", y)
    assert (done.code, "another value of sr (8000)" in done.err) == (2, True)
    np.savez(data, x=X, sr=np.array(8000))
    assert cimc("run", program, "--input", data, "-o", y).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bind", "sr=abc"), "no number, no list"),
        (("--bind", "sr=null"), "no number, no list"),
        (("--bind", "sr=1", "--bind", "sr=2"), "twice"),
        (("--bind", "=1"), "names no input"),
        (("--bind", "x=absent.npy"), "no such file"),
        (("--bind", "x"), "has a default"),
        (("--shape", "x"), "NAME=SIZE"),
        (("--shape", "x=1,b"), "NAME=SIZE"),
        (("--shape", "x=1,2,3"), "3 sizes"),
    ],
)
def test_bad_values_are_told(options: tuple[str, ...], words: str, made: Path) -> None:
    model = made / "small.onnx"
    options = tuple(option.replace("x", "input", 1) if option.startswith("x") else option for option in options)
    done = cimc("compile", model, *options, "-o", made / "bad.cim")
    assert (done.code, words in done.err) == (2, True), done.err
    assert not (made / "bad.cim").exists()


@pytest.mark.parametrize(("tie", "biases"), [("none", 2), ("as-written", 1), ("zero", 1)])
def test_compile_ties_parameters_as_it_is_told(tie: str, biases: int, tmp_path: Path) -> None:
    """Two layers whose equal biases an exporter has merged; the program trains them as it was compiled."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n, 6] x) => (float[n, 5] y)
        { h = Gemm (x, w, zero)  r = Relu (h)  y = Gemm (r, v, zero) }"""
    made = onnx.parser.parse_model(text)
    arrays = {"w": W, "v": W[:5], "zero": np.zeros(5, np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(made, tmp_path / "m.onnx")
    assert cimc("compile", tmp_path / "m.onnx", "--target", "ideal", "--tie", tie, "-o", tmp_path / "m.cim").code == 0
    rows = cimc("train", tmp_path / "m.cim", "--plan", "--json").json["parameters"]
    assert sum(row["shape"] == [5] for row in rows) == biases
