"""Trained networks that Python packages ship, where these are installed: the `models` extra, and whatever else is there.

ONNX Runtime is the oracle: the ideal target equals it. On the chip each compiles, runs, and says of each node where it went.
With 16-bit weights and no noise (isaac) the chip is near ONNX Runtime, so that what bulk-rram-256 loses is the chip's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import cimc
from cimc.report.compare import compare_outputs, reference_values

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "real_networks"))
from decisions import DECISIONS, LETTERS, captcha
from networks import NETWORKS, Network
from run import model_of

#: Minutes, on the chip.
SLOW = {"captcha_crnn", "minilm", "nudenet", "pp-ocr-det", "pp-ocr-rec"}


@pytest.fixture(params=[pytest.param(n, id=n.name, marks=[pytest.mark.slow] * (n.name in SLOW)) for n in NETWORKS])
def network(request: pytest.FixtureRequest) -> Network:
    found: Network = request.param
    if found.find() is None:
        pytest.skip(f"the package {found.package} is not installed")
    return found


def test_ideal_equals_onnx_runtime(network: Network) -> None:
    path = network.find()
    assert path is not None
    model, inputs = model_of(path), network.inputs(0)
    program = cimc.compile(model, "ideal", **network.options)
    assert program.layers
    outputs, reference = cimc.Chip(program).run(inputs), reference_values(model, inputs)
    assert outputs.keys() == reference.keys()
    for name, expected in reference.items():
        # Deep networks in float32, summed in another order.
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def test_compiles_and_runs_on_the_chip(network: Network) -> None:
    path = network.find()
    assert path is not None
    model, inputs = model_of(path), network.inputs(0)
    # What is asked does not depend on the scales, and the search for them takes most of the time.
    largest = {"weights.window": "largest", "weights.scale": "layer"}
    for calibration in (None, network.inputs(1)):
        settings = largest if calibration else {**_range(inputs), **largest}
        program = cimc.compile(model, "bulk-rram-256", calibration=calibration, settings=settings, **network.options)
        placed = program.placement()
        assert all(row["why"] for row in placed)
        assert any(row["where"] == "analog" for row in placed)
        chip = cimc.Chip(program)
        outputs, reference = chip.run(inputs, 0), reference_values(model, inputs)
        for name, expected in reference.items():
            assert outputs[name].shape == expected.shape
            assert np.isfinite(outputs[name]).all()
    again = cimc.Chip(program).run(inputs, 0)
    assert all(np.array_equal(outputs[name], again[name]) for name in outputs)


def _range(inputs: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """What the real inputs need to be stated as, where they are not within 0 and 1."""
    real = [array for array in inputs.values() if array.dtype.kind == "f"]
    return {"input.range": (min(float(a.min()) for a in real), max(float(a.max()) for a in real))} if real else {}


@pytest.mark.parametrize("name", ["magika", "akiki-vad", "pp-ocr-cls"])
def test_an_exact_chip_is_near_onnx_runtime(name: str) -> None:
    network = next(n for n in NETWORKS if n.name == name)
    path = network.find()
    if path is None:
        pytest.skip(f"the package {network.package} is not installed")
    inputs = network.inputs(0)
    program = cimc.compile(path, "isaac", calibration=network.inputs(0))
    rows = compare_outputs(cimc.Chip(program).run(inputs), reference_values(path, inputs))
    assert rows
    # The least of the three networks' states; 16 bits leave over 60 dB a layer, saturating gates some less.
    assert all(row.sqnr_db is None or row.sqnr_db > 15 for row in rows)


@pytest.mark.parametrize("name", [network.name for network in NETWORKS if network.package == "silero_vad"])
def test_every_product_of_a_voice_detector_is_on_crossbars(name: str) -> None:
    network = next(n for n in NETWORKS if n.name == name)
    path = network.find()
    if path is None:
        pytest.skip(f"the package {network.package} is not installed")
    program = cimc.compile(path, "ideal", **network.options)
    products = [p for p in program.placements if p.op_type in ("Conv", "Gemm", "LSTM") and p.where != "folded"]
    assert len(products) >= 7
    assert all(p.where == "analog" for p in products), products


def _of_onnx_runtime(name: str, inputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Its decisions by the network of this name."""
    network = next(n for n in NETWORKS if n.name == name)
    path = network.find()
    if path is None:
        pytest.skip(f"the package {network.package} is not installed")
    session = onnxruntime.InferenceSession(str(path))
    return np.concatenate([DECISIONS[name].decide(session.run(None, feeds)[0]).ravel() for feeds in inputs])


@pytest.mark.parametrize("name", ["magika", "akiki-vad", "silero_vad_openvino", "pp-ocr-cls"])
def test_inputs_for_decisions_lead_to_different_ones(name: str) -> None:
    found = _of_onnx_runtime(name, [DECISIONS[name].inputs(seed) for seed in range(24)])
    assert len(np.unique(found)) > 1


def test_made_captchas_are_read_as_drawn() -> None:
    pytest.importorskip("PIL")
    drawn = ["".join(LETTERS[i] for i in np.random.default_rng(seed).integers(0, len(LETTERS), 4)) for seed in range(8)]
    read = _of_onnx_runtime("captcha_crnn", [{"image": captcha(seed)} for seed in range(8)])
    assert sum(a == b for a, b in zip(read, drawn, strict=True)) >= 6
