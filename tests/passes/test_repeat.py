"""The pass ``repeat``: the product stays, and errors average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.calibration.error_power import error_power
from cimc.calibration.reads import LayerRead
from cimc.cli.app import app
from cimc.compiler import compile_model
from cimc.ir.program import weight_matrix
from tests.calibration.models import inputs, mean_square_db, product, weights

QUIET = {"device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0, "adc.sigma_lsb": 0.0, "adc.range_ua": None}
EVERY = {"*": {"rows": 2, "columns": 3, "reads": 2}}


def _one_node(op_type: str, x: tuple[int, ...], w: tuple[int, ...], **attributes: Any) -> tuple[onnx.ModelProto, np.ndarray]:
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal(w).astype(np.float32), rng.standard_normal(12).astype(np.float32)
    channels = w[0] if op_type == "Conv" else w[1] * attributes.get("group", 1) if op_type == "ConvTranspose" else w[-1]
    shapes = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", *x[1:]]), ("y", None)))
    first, last = shapes
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias[:channels], "b")]
    names = ["x", "w"] if op_type == "MatMul" else ["x", "w", "b"]
    node = helper.make_node(op_type, names, ["y"], name="node", **attributes)
    graph = helper.make_graph([node], "g", [first], [last], stored[: len(names) - 1])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), rng.random(x).astype(np.float32)


MODELS = [
    _one_node("Conv", (3, 4, 9, 8), (6, 4, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2]),
    _one_node("Conv", (3, 8, 9), (8, 2, 3), group=4),
    _one_node("ConvTranspose", (2, 4, 5, 5), (4, 3, 3, 3), strides=[2, 2], group=2),
    _one_node("Gemm", (4, 10), (10, 7)),
    _one_node("MatMul", (3, 5, 10), (10, 7)),
    _one_node("MatMul", (3, 4, 5, 10), (4, 10, 7)),
]


@pytest.mark.parametrize(("model", "x"), MODELS, ids=["conv", "grouped", "transposed", "gemm", "matmul", "batched"])
@pytest.mark.parametrize("settings", [None, {"weights.scale": "column"}], ids=["ideal", "exact devices"])
def test_the_product_is_that_of_onnx_runtime(model: onnx.ModelProto, x: np.ndarray, settings: dict[str, Any] | None) -> None:
    """On the ideal chip, and on one whose devices and converters are exact to 1e-3."""
    exact = {
        "device.programming.sigma_us": 0.0,
        "device.read_sigma_us": 0.0,
        "adc.sigma_lsb": 0.0,
        "dac.bits": 12,
        "adc.bits": 16,
    }
    target, chosen = ("ideal", None) if settings is None else ("bulk-rram-256", exact | {"adc.range_ua": None} | settings)
    program = cimc.compile(model, target, calibration={"x": x}, settings=chosen, repeats=EVERY)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    found = cimc.Chip(program, backend="cpu" if settings is None else "reference").run({"x": x})["y"]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=scale * (1e-5 if settings is None else 1e-2))


def _compiled(repeats: dict[str, int], **settings: float) -> cimc.Program:
    rng = np.random.default_rng(4)
    weight, x = weights(rng, 40, 48), inputs(rng, (256, 40))
    chosen = QUIET | {"adc.bits": 14, "weights.window": "largest"} | {name.replace("__", "."): v for name, v in settings.items()}
    return cimc.compile(product(weight), "bulk-rram-256", calibration={"x": x}, settings=chosen, repeats={"*": repeats})


@pytest.mark.parametrize("repeats", [{"rows": 3}, {"columns": 3}, {"rows": 2, "columns": 2}])
def test_errors_of_writes_average(repeats: dict[str, int]) -> None:
    """A weight's variance over devices falls as 1 / repeats: 1,920 weights tell a variance to 3.2 %, 13 % are four of that."""
    made = _compiled(repeats, device__programming__sigma_us=2.0), _compiled({}, device__programming__sigma_us=2.0)
    variances = []
    for program in made:
        goal = weight_matrix(program, program.layers[0].once)
        (held,) = cimc.Chip(program, seed=3).weights().values()
        variances.append(float(np.square(held - goal).mean()))
    share = int(np.prod(list(repeats.values())))
    assert variances[0] * share == pytest.approx(variances[1], rel=0.13)


@pytest.mark.parametrize("repeats", [{"reads": 4}, {"columns": 4}])
def test_noise_of_reads_averages(repeats: dict[str, int]) -> None:
    """12,288 outputs of each chip tell a variance to 1.3 %, so 6 % are more than four deviations of the difference."""
    x = inputs(np.random.default_rng(9), (256, 40))
    powers = []
    for chosen in (repeats, {}):
        chip = cimc.Chip(_compiled(chosen, device__read_sigma_us=2.0))
        one, other = (chip.run({"x": x}, first_image=first)["y"] for first in (0, 1000))
        powers.append(float(np.square(one - other).mean()))
    assert powers[0] * 4 == pytest.approx(powers[1], rel=0.06)


@pytest.mark.parametrize("repeats", [{"rows": 2}, {"columns": 2}, {"reads": 4}])
def test_the_forecast_knows_repeats(repeats: dict[str, int]) -> None:
    """The tolerance is that of the closed form, `tests/calibration/test_error_power.py`."""
    rng = np.random.default_rng(7)
    weight, x = weights(rng, 90, 48), inputs(rng, (64, 90))
    program = cimc.compile(product(weight), "bulk-rram-256", calibration={"x": x}, repeats={"*": repeats})
    (layer,) = program.layers
    read = LayerRead.of(x, layer, program.target)
    power = error_power(weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], read)
    expected = 10 * np.log10(power.signal.sum() / power.total.sum())
    dice = [cimc.Chip(program, seed, backend="reference").run({"x": x})["y"] - x @ weight for seed in range(12)]
    simulated = mean_square_db(x @ weight, dice)
    assert abs(expected - simulated) < 0.75
    assert program.forecast().outputs[0].sqnr_db == pytest.approx(simulated, abs=2.0)


def test_cost_is_what_the_chip_counts() -> None:
    model, x = MODELS[0]
    program = cimc.compile(model, "bulk-rram-256", calibration={"x": x}, repeats=EVERY)
    plain = cimc.compile(model, "bulk-rram-256", calibration={"x": x})
    chip = cimc.Chip(program)
    chip.run({"x": x})
    (counts,) = chip.stats().values()
    assert counts["tile_reads"] == program.cost().tile_ops * len(x)  # type: ignore[operator]
    assert program.cost().devices == 6 * plain.cost().devices
    assert program.cost().ops == 2 * plain.cost().ops  # type: ignore[operator]


def test_every_repeat_of_a_weight_is_in_the_table_of_cells() -> None:
    program = _compiled({"rows": 2, "columns": 3})
    table = program.cells(program.layers[0].name)
    assert (np.bincount(table["weight"]) == 2 * 3 * program.target.planes).all()


def test_a_program_keeps_its_repeats(tmp_path: Path) -> None:
    program = _compiled({"rows": 2, "reads": 3}, device__programming__sigma_us=2.0)
    program.save(tmp_path / "m.cim")
    again = cimc.load(tmp_path / "m.cim")
    assert again.layers == program.layers
    x = inputs(np.random.default_rng(1), (8, 40))
    np.testing.assert_array_equal(cimc.Chip(again).run({"x": x})["y"], cimc.Chip(program).run({"x": x})["y"])


def test_an_image_keeps_them_too(tmp_path: Path) -> None:
    model, x = MODELS[0]
    program = cimc.compile(model, "bulk-rram-256", calibration={"x": x}, repeats=EVERY)
    cimc.export_image(program).save(tmp_path / "m.cimg")
    die = cimc.load_image(tmp_path / "m.cimg").program(seed=1)
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    errors = [np.square(chip.run({"x": x})["y"] - wanted).mean() for chip in (die, cimc.Chip(program, seed=1))]
    assert errors[0] == pytest.approx(errors[1], rel=0.5)  # other draws of the same size
    other = cimc.export_image(program, target="bulk-rram")
    assert [layer.repeats for layer in other.layers] == [layer.repeats for layer in program.layers]


def test_inspect_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = MODELS[0]
    onnx.save(model, tmp_path / "m.onnx")
    options = ["--target", "bulk-rram-256", "-o", str(tmp_path / "m.cim"), "--repeat", "*:rows=2", "--repeat", "node:reads=4"]
    app(["compile", str(tmp_path / "m.onnx"), *options], standalone_mode=False)
    app(["inspect", str(tmp_path / "m.cim")], standalone_mode=False)
    assert "1 x 1, 4 reads" in capsys.readouterr().out  # a later entry replaces an earlier one
    assert cimc.load(tmp_path / "m.cim").layers[0].repeats.reads == 4


def test_text() -> None:
    state = compile_model(product(np.eye(4, dtype=np.float32)), "bulk-rram-256", repeats={"*": {"rows": 2}}, stop_after="repeat")
    (node,) = (node for node in state.model.graph if node.domain == "cimc")
    assert tuple(node.attributes.get_ints("repeats") or ()) == (2, 1, 1)


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        ({"nowhere": {"rows": 2}}, "no crossbar layer nowhere"),
        ({"*": {"rows": 0}}, "are no repeats"),
        ({"*": {"rows": 65}}, "are no repeats"),
        ({"*": {"lines": 2}}, "are no repeats"),
        ({"*": {"reads": 1.5}}, "it must be a dict by name"),
        ({"*": 2}, "it must be a dict by name"),
    ],
)
def test_what_is_refused(repeats: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        cimc.compile(product(np.eye(4, dtype=np.float32)), "bulk-rram-256", repeats=repeats)
