"""The forecast of whole networks against simulated dice."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

import cimc
from cimc.errors import CimcError
from cimc.passes.forecast import Forecasting
from tests.calibration.models import inputs, mean_square_db, product, weights
from tests.passes.program_text import new_lines

F32 = NDArray[np.float32]
DICE, TOLERANCE_DB = 6, 2.5
LEAST = {"weights.window": "least_error", "dac.full_scale": "least_error", "weights.scale": "column"}
SHARED = {"weights.representation": "shared_reference", "weights.columns_per_reference": 8, "device.levels": 255}

NETWORKS = {
    "mlp": (
        "float[n,40] x",
        "h = MatMul(x, a) r = Relu(h) s = MatMul(r, b) t = Relu(s) y = MatMul(t, c)",
        {"a": (40, 48), "b": (48, 48), "c": (48, 10)},
    ),
    "convolutions": (
        "float[n,3,8,8] x",
        "h = Conv <pads=[1,1,1,1]> (x, a) r = Relu(h) s = Conv <strides=[2,2]> (r, b) t = Relu(s) p = GlobalAveragePool(t) "
        "f = Flatten(p) y = MatMul(f, c)",
        {"a": (16, 3, 3, 3), "b": (24, 16, 3, 3), "c": (24, 10)},
    ),
    "residual": (
        "float[n,40] x",
        "h = MatMul(x, a) r = Relu(h) s = MatMul(r, b) u = Add(s, r) t = Relu(u) y = MatMul(t, c)",
        {"a": (40, 40), "b": (40, 40), "c": (40, 10)},
    ),
    "transposed": (
        "float[n,4,5,5] x",
        "h = ConvTranspose <strides=[2,2]> (x, a) r = Relu(h) y = Conv(r, b)",
        {"a": (4, 12, 3, 3), "b": (6, 12, 3, 3)},
    ),
    "groups": (
        "float[n,8,6,6] x",
        "h = Conv <group=4, pads=[1,1,1,1]> (x, a) r = Relu(h) y = Conv(r, b)",
        {"a": (16, 2, 3, 3), "b": (8, 16, 1, 1)},
    ),
}


def _network(name: str, rng: np.random.Generator) -> tuple[ModelProto, F32]:
    head, body, shapes = NETWORKS[name]
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({head}) => (float y) {{ {body} }}')
    for word, shape in shapes.items():
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        array = rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan_in))
        model.graph.initializer.append(numpy_helper.from_array(array, word))
    dims = [int(part.rstrip("] x")) for part in head.split(",")[1:]]
    return model, inputs(rng, (48, *dims))


@pytest.mark.parametrize("target", ["bulk-rram", "bulk-rram-256", "hermes-pcm"])
@pytest.mark.parametrize("name", NETWORKS)
def test_forecast_is_near_the_simulation(name: str, target: str) -> None:
    _check(name, target, LEAST)


def _check(name: str, target: str, settings: dict[str, Any]) -> None:
    model, x = _network(name, np.random.default_rng(11))
    program = cimc.compile(model, target, calibration={"x": x}, settings=settings)
    exact = cimc.Chip(cimc.compile(model, "ideal")).run({"x": x})["y"]
    errors = [cimc.Chip(program, seed, backend="reference").run({"x": x})["y"] - exact for seed in range(DICE)]
    (output,) = program.forecast().outputs
    assert output.sqnr_db is not None
    assert abs(output.sqnr_db - mean_square_db(exact, errors)) < TOLERANCE_DB


@pytest.mark.parametrize(("name", "target"), [("mlp", "bulk-rram-256"), ("convolutions", "cmo-hfox"), ("groups", "bulk-rram")])
def test_forecast_with_shared_references_is_near_the_simulation(name: str, target: str) -> None:
    _check(name, target, LEAST | SHARED)


def test_forecast_is_kept_in_the_file(tmp_path: object) -> None:
    rng = np.random.default_rng(1)
    program = cimc.compile(product(weights(rng, 20, 4)), "bulk-rram", calibration={"x": inputs(rng, (30, 20))})
    path = f"{tmp_path}/p.cim"
    program.save(path)
    assert cimc.load(path).forecast() == program.forecast()


def test_a_poor_output_is_warned_of_and_a_good_one_is_not() -> None:
    rng = np.random.default_rng(2)
    weight, x = weights(rng, 60, 10), inputs(rng, (64, 60))
    poor = cimc.compile(product(weight), "bulk-rram", calibration={"x": x}, settings={"device.programming.sigma_us": 20.0})
    good = cimc.compile(product(weight), "isaac", calibration={"x": x})
    assert len(poor.forecast().warnings()) == 1
    assert good.forecast().warnings() == []


def test_what_is_left_out_is_named() -> None:
    rng = np.random.default_rng(3)
    data = {"x": inputs(rng, (30, 20))}
    settings = {"array.wires.row_segment_ohm": 1.0, "update.programming": "write_verify"}
    program = cimc.compile(product(weights(rng, 20, 4)), "bulk-rram", calibration=data, settings=settings)
    assert any("IR drop" in effect for effect in program.forecast().left_out)
    assert any("write-verify" in effect for effect in program.forecast().left_out)
    blind = {"programmer.kind": "blind_pulses", "update.programming": "gaussian"}
    other = cimc.compile(product(weights(rng, 20, 4)), "bulk-rram", calibration=data, settings=blind)
    assert any("blind-pulses" in effect for effect in other.forecast().left_out)


def test_ideal_has_no_forecast() -> None:
    with pytest.raises(CimcError, match="no forecast"):
        cimc.compile(product(np.eye(3, dtype=np.float32)), "ideal").forecast()


def test_text() -> None:
    """One device pair of 3 weight levels: 0.5 is coded as 2/3 or 1/3, and nothing else is lost."""
    view = '"tensor": "w", "split": [2, 1], "perm": [0, 1], "shape": [1, 2, 1]'
    text = f"""program schema=1 {{
        target t {{device={{"g_min_us": 10, "g_max_us": 70, "levels": 4, "read_voltage_v": 0.1}} dac={{"bits": 8}}
                  weights={{"bits": null}}}}
        layer @fc {{weight={{{view}}} coding={{"gain": 255, "signed": false, "full_scale": 1}}
                    row_cuts=[0, 2] column_cuts=[0, 1]}}
          block 0.0.0: 2 x 2
        tensor initializer/w: float32[2, 1] = [[0.5], [1]]
        tensor weight_max/fc: float32[1] = [1]
    }}"""
    (line,) = new_lines(text, Forecasting(), samples={"fc": np.ones((10, 1, 2), np.float32)})
    found = re.fullmatch(r'forecast .*"layer": "fc", "sqnr_db": ([0-9.]+).*', line)
    assert found is not None, line
    assert float(found[1]) == pytest.approx(20 * np.log10(1.5 / (2 / 3 - 0.5)), abs=0.01)
