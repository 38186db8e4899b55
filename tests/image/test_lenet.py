"""The shipped LeNet runs from an image on every kind of chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import cimc
from cimc.image.faults import FaultMap

MODEL = Path(__file__).parents[2] / "examples" / "lenet_mnist" / "lenet.onnx"
CUSTOM = {"device.g_min_us": 4.0, "device.g_max_us": 50.0, "device.levels": 32, "weights.rounded": True, "array.rows": 50}


def strokes(images: int) -> np.ndarray:
    """Images of a few bright strokes, which excite LeNet as digits do."""
    random = np.random.default_rng(3)
    x = np.zeros((images, 1, 28, 28), np.float32)
    for image in x[:, 0]:
        for _ in range(4):
            r, c = random.integers(4, 22, 2)
            across = bool(random.integers(2))
            image[r : r + (2 if across else 12), c : c + (12 if across else 2)] = random.random() / 2 + 0.5
    return x


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    x = strokes(256)
    program = cimc.compile(MODEL, "bulk-rram", calibration={"input": x[:128]})
    reference = onnxruntime.InferenceSession(str(MODEL)).run(None, {"input": x[128:]})[0]
    return {"program": program, "chip": cimc.Chip(program, seed=1), "x": {"input": x[128:]}, "y": reference}


@pytest.mark.parametrize(
    ("target", "settings", "correlation"),
    [("bulk-rram", None, 0.9), ("bulk-rram-256", None, 0.97), ("isaac", None, 0.9999), ("bulk-rram", CUSTOM, 0.95)],
)
def test_it_runs_from_an_image(
    trained: dict[str, Any], tmp_path: Path, target: str, settings: dict[str, Any] | None, correlation: float
) -> None:
    image = cimc.export_image(trained["chip"], target, settings=settings)
    image.save(tmp_path / "lenet.cimg")
    die = cimc.load_image(tmp_path / "lenet.cimg").program(seed=7)
    y = die.run(trained["x"])["logits"]
    assert np.corrcoef(y.ravel(), trained["y"].ravel())[0, 1] > correlation
    report = die.programming.to_dict()
    assert report["selftest"]["outside"] <= 0.01 * report["selftest"]["reads"]
    assert sum(layer["cells"] for layer in report["layers"].values()) == (image.sections["CELL"]["use"] == 1).sum()


def test_read_back_onto_an_error_free_die_of_its_own_target(trained: dict[str, Any]) -> None:
    chip, x = trained["chip"], trained["x"]
    die = cimc.export_image(chip, source="readback").program(seed=50, error_free=True)
    first, second = (chip.run(x, n)["logits"] for n in (0, 10_000))
    noise, off = np.std(first - second), np.std(die.run(x, 0)["logits"] - first)
    assert 0 < off < 1.1 * noise
    exact = cimc.Chip(cimc.compile(MODEL, "isaac"), seed=2)
    die = cimc.export_image(exact, source="readback").program(seed=3, error_free=True)
    np.testing.assert_array_equal(die.run(x)["logits"], exact.run(x)["logits"])


def test_it_fits_the_four_tiles_of_the_chip(trained: dict[str, Any]) -> None:
    for packing, tiles in (("fast", 4), ("dense", 3)):
        image = cimc.export_image(trained["program"], settings={"mapping.packing": packing})
        assert len(image.sections["TILE"]) == tiles
        assert (image.sections["CELL"]["use"] == 1).sum() == 6440


def test_it_fits_a_die_with_faults_in_every_tile(trained: dict[str, Any]) -> None:
    random = np.random.default_rng(4)
    faults = FaultMap.of(
        rows=[[0, tile, tile * 9] for tile in range(4)],
        columns=[[0, tile, 5 + tile] for tile in range(4)],
        cells=[[0, tile, *random.integers(0, 64, 2)] for tile in range(4) for _ in range(3)],
        die="lot 2, die 11",
    )
    image = cimc.export_image(trained["chip"], fault_map=faults, chips=1, calibration={"input": trained["x"]["input"][:64]})
    assert image.die == "lot 2, die 11"
    for k, tile in enumerate(image.sections["TILE"]):
        dead = faults.dead(int(tile["chip"]), int(tile["tile"]), 64, 64)
        np.testing.assert_array_equal(image.grid(k)["use"] == 3, dead)
    y = image.program(seed=2, fault_map=faults).run(trained["x"])["logits"]
    assert np.corrcoef(y.ravel(), trained["y"].ravel())[0, 1] > 0.9
