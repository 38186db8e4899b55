"""Nothing is sent or kept about a user: ONNX Runtime's reports are off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import numpy as np, onnx, cimc
text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) { y = Softmax (x) }'
model = onnx.parser.parse_model(text)
cimc.Chip(cimc.compile(model, "ideal")).run({"x": np.ones((1, 4), np.float32)})
"""


def run(script: str, tmp_path: Path, **more: str) -> None:
    # Where CI is set, ONNX Runtime is silent anyway.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    subprocess.run([sys.executable, "-c", script], env=environment | more, check=True, timeout=100)


def test_onnx_runtime_keeps_no_identifier(tmp_path: Path) -> None:
    run(SCRIPT, tmp_path)
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or path.name == "deviceid"] == []


def test_a_value_of_the_users_own_is_kept(tmp_path: Path) -> None:
    run("import cimc, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'", tmp_path, ORT_DISABLE_TELEMETRY="0")
