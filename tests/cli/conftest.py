"""A small classifier, its data, and the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from cimc.cli.app import app


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which holds one JSON object and nothing else."""
        value: dict[str, Any] = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def cimc(*arguments: object) -> Done:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def small_model(random: np.random.Generator) -> onnx.ModelProto:
    """1x6x6, conv 3x3 to 3 channels, ReLU, dense to 4 classes."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w1", "b1"], ["c"], "conv"),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Flatten", ["r"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w2"], ["logits"], "dense", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w1", (3, 1, 3, 3)), ("b1", (3,)), ("w2", (4, 48)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.onnx, data.npz, and small.cim (bulk-rram) and ideal.cim compiled from it."""
    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(5)
    onnx.save(small_model(random), folder / "small.onnx")
    x = random.integers(0, 256, (12, 6, 6), np.uint8)
    np.savez(folder / "data.npz", x=x, y=random.integers(0, 4, 12))
    np.savez(folder / "images.npz", input=x[:, None].astype(np.float32) / np.float32(255))
    for name, target in (("small", "bulk-rram"), ("ideal", "ideal")):
        done = cimc("compile", folder / "small.onnx", "--target", target, "-o", folder / f"{name}.cim")
        assert done.code == 0, done.err
    return folder
