"""The shipped example: the network is the paper's, its files fit each other, the demo's figures are the published ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from cimc.datasets import mnist

ROOT = Path(__file__).parents[2]
LENET = ROOT / "examples" / "lenet_mnist"


@pytest.mark.parametrize("name", ["lenet.onnx", "lenet_init.onnx"])
def test_network_is_the_paper_s(name: str) -> None:
    """3,220 weights, no biases; 5x5 kernels to 4 and 12 channels, dense 192 to 10."""
    model = onnx.load(LENET / name)
    onnx.checker.check_model(model, full_check=True)
    weights = {w.name: numpy_helper.to_array(w).shape for w in model.graph.initializer}
    assert list(weights.values()) == [(4, 1, 5, 5), (12, 4, 5, 5), (10, 192)]
    assert sum(np.prod(shape) for shape in weights.values()) == 3220
    assert {n.name: n.op_type for n in model.graph.node if n.name in ("conv1", "conv2", "fc")} == {
        "conv1": "Conv",
        "conv2": "Conv",
        "fc": "Gemm",
    }


def test_network_knows_its_digits() -> None:
    """At least the paper's 98.7 % in FP32, within three standard deviations of a proportion in 10,000."""
    data = mnist()
    x = data["x_test"][:, None].astype(np.float32) / np.float32(255)
    (logits,) = ort.InferenceSession(str(LENET / "lenet.onnx")).run(["logits"], {"input": x})
    accuracy = float((logits.argmax(1) == data["y_test"]).mean())
    assert accuracy > 0.987 - 3 * (0.987 * 0.013 / 10_000) ** 0.5


def test_the_tour_ends_with_a_page_that_has_the_papers_figures(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    done = subprocess.run(
        [sys.executable, LENET / "tour.py", "--epochs", "1", "--dice", "2", "-o", tmp_path / "made"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == f"open in a browser: {tmp_path / 'made' / 'lenet.html'}"
    page = (tmp_path / "made" / "lenet.html").read_text("utf-8")
    for told in ("97.73 %", "Accuracy over dice", "Error budget", "Devices after training", "Model graph"):
        assert told in page


def test_demo_gives_the_published_cost() -> None:
    """LeNet in Wu et al., arXiv 2305.14547: devices, crossbars, operations, latency and energy."""
    done = subprocess.run(
        [sys.executable, LENET / "demo.py", "--images", "256", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(done.stdout)
    cost = found["cost"]
    assert (cost["devices"], cost["crossbars"], cost["ops"], cost["tile_ops"]) == (6440, 6, 641, 707)
    assert round(cost["latency_ms"]["sequential"], 2) == 0.46
    assert round(1e3 * cost["energy_mj"]["analog"], 1) == 1.9
    assert cost["tiles"] <= 4
    assert found["images"] == 256
    assert found["accuracy"] > 0.9
