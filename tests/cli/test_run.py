"""`cimc run`, `evaluate`, `compare` and `inspect`, with ONNX Runtime as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.conftest import cimc


def reference(made: Path) -> np.ndarray:
    return ort.InferenceSession(str(made / "small.onnx")).run(None, {"input": np.load(made / "images.npz")["input"]})[0]


def test_run_on_the_ideal_chip_is_onnx_runtime(made: Path, tmp_path: Path) -> None:
    done = cimc("run", made / "ideal.cim", "--input", made / "data.npz", "--output", tmp_path / "y.npz", "--json")
    assert done.code == 0, done.err
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["logits"], reference(made), rtol=1e-5, atol=1e-5)
    assert done.json["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [12, 4]}]


def test_same_seed_same_file_another_seed_another_chip(made: Path, tmp_path: Path) -> None:
    def run(seed: int) -> np.ndarray:
        done = cimc("run", made / "small.cim", "--input", made / "data.npz", "-o", tmp_path / "y.npz", "--seed", seed)
        assert done.code == 0, done.err
        return np.load(tmp_path / "y.npz")["logits"]

    first = run(1)
    np.testing.assert_array_equal(first, run(1))
    assert not np.array_equal(first, run(2))


def test_programming_error_alone_tells_chips_apart(made: Path, tmp_path: Path) -> None:
    quiet = ("--set", "device.read_sigma_us=0", "--set", "adc.sigma_lsb=0", "--calibration", made / "data.npz")
    assert cimc("compile", made / "small.onnx", *quiet, "-o", tmp_path / "m.cim").code == 0
    found = []
    for seed in (1, 1, 2):
        assert cimc("run", tmp_path / "m.cim", "--input", made / "data.npz", "-o", tmp_path / "y.npz", "--seed", seed).code == 0
        found.append(np.load(tmp_path / "y.npz")["logits"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_check_tells_the_error_that_numpy_finds(made: Path, tmp_path: Path) -> None:
    options = ("--input", made / "data.npz", "-o", tmp_path / "y.npz", "--check", made / "small.onnx")
    (row,) = cimc("run", made / "small.cim", *options, "--json").json["check"]
    exact, found = reference(made).astype(np.float64), np.load(tmp_path / "y.npz")["logits"]
    assert row["name"] == "logits"
    assert row["largest_error"] == pytest.approx(np.abs(exact - found).max(), rel=1e-4)
    assert row["sqnr_db"] == pytest.approx(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()), abs=1e-3)
    assert "SQNR" in cimc("run", made / "small.cim", *options).out


def test_evaluate_beside_onnx_runtime(made: Path) -> None:
    y = np.load(made / "data.npz")["y"]
    expected = float((reference(made).argmax(1) == y).mean())
    found = cimc("evaluate", made / "ideal.cim", "--data", made / "data.npz", "--json").json
    assert (found["images"], found["accuracy"], found["reference_accuracy"], found["agreement"]) == (12, expected, expected, 1.0)


def test_evaluate_needs_no_model_file(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program holds the graph that it was compiled from, with its weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ideal.cim").write_bytes((made / "ideal.cim").read_bytes())
    found = cimc("evaluate", "ideal.cim", "--data", made / "data.npz", "--json").json
    assert found["reference_accuracy"] == float((reference(made).argmax(1) == np.load(made / "data.npz")["y"]).mean())


def test_evaluate_does_not_depend_on_the_batch(made: Path) -> None:
    results = [cimc("evaluate", made / "small.cim", "--data", made / "data.npz", "--batch", n, "--json").json for n in (1, 5, 12)]
    assert results[0]["accuracy"] == results[1]["accuracy"] == results[2]["accuracy"]
    assert results[0]["agreement"] == results[1]["agreement"] == results[2]["agreement"]


def test_compare_names_the_layers_worst_first(made: Path) -> None:
    options = (made / "small.cim", made / "small.onnx", "--input", made / "data.npz")
    rows = cimc("compare", *options, "--json").json["layers"]
    assert sorted(row["layer"] for row in rows) == ["conv", "dense"]
    assert rows[0]["own_sqnr_db"] <= rows[1]["own_sqnr_db"]
    assert "worst first" in cimc("compare", *options).out


def test_inspect_adds_up(made: Path) -> None:
    found = cimc("inspect", made / "small.cim", "--json").json
    assert [(layer["name"], layer["rows"], layer["columns"]) for layer in found["layers"]] == [("conv", 9, 3), ("dense", 48, 4)]
    assert found["digital_share"] == 0.5
    cost = found["cost"]
    assert cost["latency_ms"]["sequential"] == pytest.approx(17 * 0.72e-3)
    assert cost["energy_mj"]["analog"] == pytest.approx(cost["tile_ops"] * 2.66e-6)
    assert cost["energy_mj"]["digital"] is None
    text = cimc("inspect", made / "small.cim", "--nodes").out
    assert "conv" in text
    assert "relu" in text


def test_inspect_copies_divide_the_slow_layer(made: Path) -> None:
    """Seven copies of conv's 9 rows and 6 bit lines work at once in a 64x64 array, on rows and columns of their own."""
    cost = cimc("inspect", made / "small.cim", "--copies", "conv=8", "--json").json["cost"]
    assert cost["latency_ms"]["copies"] == pytest.approx(16 / 8 * 0.72e-3)
    assert cost["crossbars_with_copies"] == cost["crossbars"] + 1
    table = cimc("inspect", made / "small.cim", "--copies", "conv=8").out
    assert "copies ┃" in table  # a head breaks between words
    assert "copies ┃" not in cimc("inspect", made / "small.cim").out
    refused = cimc("inspect", made / "small.cim", "--copies", "conv=17")
    assert (refused.code, "1 would never fire" in refused.err) == (2, True)
    auto = cimc("inspect", made / "small.cim", "--copies", "auto", "--crossbars", cost["crossbars"], "--json").json["cost"]
    assert auto["crossbars_with_copies"] == cost["crossbars"]
    assert auto["latency_ms"]["copies"] == pytest.approx(3 * 0.72e-3)  # ceil(16 / 7)


def test_budget_without_auto_is_refused(made: Path) -> None:
    done = cimc("inspect", made / "small.cim", "--crossbars", 9)
    assert done.code == 2
    assert "--copies auto" in done.err


@pytest.mark.parametrize("command", [["inspect"], ["evaluate", "--data", "d.npz"], ["run", "--input", "x.npz", "-o", "y.npz"]])
def test_what_is_no_compiled_model_is_refused(command: list[str], tmp_path: Path, made: Path) -> None:
    (tmp_path / "m.cim").write_text("hello")
    for path in (tmp_path / "m.cim", tmp_path / "missing.cim", made / "small.onnx"):
        done = cimc(command[0], path, *command[1:], "--json")
        assert done.code == 2
        assert path.name in done.err
        assert path.name in done.json["error"]["where"]
        assert done.json["error"]["exit_code"] == 2


def test_data_that_do_not_suit_leave_no_output(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 1, 7, 7), np.float32))
    done = cimc("run", made / "small.cim", "--input", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    assert done.code == 2
    assert "shape" in done.err
    assert not (tmp_path / "y.npz").exists()


def test_data_outside_the_calibrated_range_are_refused(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.full((2, 1, 6, 6), -3, np.float32))
    done = cimc("run", made / "small.cim", "--input", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    assert done.code == 2
    assert "input.range" in done.err


def test_several_inputs_and_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3] a, int64[1] k) => (float[N,2] z, int64[1] j, seq(float[N,3]) s) <float[3,2] w = {1,2,3,4,5,6}> {
        z = MatMul(a, w)
        j = Add(k, k)
        s = SequenceConstruct(a, a)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    a = np.random.default_rng(1).integers(-8, 8, (5, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", a=a, k=np.array([3]))
    assert cimc("compile", tmp_path / "m.onnx", "-t", "ideal", "-o", tmp_path / "m.cim").code == 0
    options = ("--input", tmp_path / "x.npz", "-o", tmp_path / "y.npz", "--check", tmp_path / "m.onnx")
    done = cimc("run", tmp_path / "m.cim", *options, "--json")
    assert done.code == 0, done.err
    assert done.json["outputs"][2] == {"name": "s", "dtype": None, "shape": None}
    assert [row["largest_error"] for row in done.json["check"]] == [0, 0]
    assert "exact" in cimc("run", tmp_path / "m.cim", *options).out
    written = np.load(tmp_path / "y.npz")
    np.testing.assert_array_equal(written["z"], a @ np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    np.testing.assert_array_equal(written["s.1"], a)
    evaluated = cimc("evaluate", tmp_path / "m.cim", "--data", tmp_path / "x.npz")
    assert evaluated.code == 2
    assert "accuracy needs one" in evaluated.err


#: Models of other networks, by what the message says of them.
OTHERS = {
    "no output logits": "o (float[N, 1, 6, 6] input) => (float[N, 1, 6, 6] other) { other = Relu (input) }",
    "no input input": "o (float[N, 1, 6, 6] image) => (float[N, 36] logits) { logits = Flatten (image) }",
    "an input more": "o (float[N, 1, 6, 6] input, float[1] more) => (float[N, 36] logits) "
    "{ f = Flatten (input)  logits = Add (f, more) }",
    "does not run the model on the program's": "o (float[N, 1, 7, 7] input) => (float[N, 49] logits) "
    "{ logits = Flatten (input) }",
    "has shape": "o (float[N, 1, 6, 6] input) => (float[N, 36] logits) { logits = Flatten (input) }",
}


@pytest.mark.parametrize(
    "command", ["evaluate {p} --data {d} --model {m}", "compare {p} {m} --input {d}", "run {p} --input {d} -o y.npz --check {m}"]
)
@pytest.mark.parametrize("said", OTHERS)
def test_the_model_of_another_network_is_an_error_of_ours(
    said: str, command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {OTHERS[said]}'), "other.onnx")
    words = command.format(p=made / "ideal.cim", d=made / "data.npz", m="other.onnx").split()
    done = cimc(*words)
    assert done.code == 2, done.out
    assert said in done.err
    assert "compiled from" in done.err


@pytest.mark.parametrize(
    "command",
    ["evaluate {} --data d.npz", "run {} --input d.npz -o y.npz", "inspect {}", "export {}", "compare {} {} --input d.npz"],
)
@pytest.mark.parametrize("name", ["m.onnx", "model.bin"])
def test_a_model_in_the_place_of_a_program_is_told_how_to_become_one(
    name: str, command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((made / "small.onnx").read_bytes())
    done = cimc(*command.format(name, name).split())
    assert done.code == 2
    assert "this is an ONNX model, not a compiled program" in done.err
    assert "cimc compile MODEL.onnx --target T -o M.cim" in done.err
