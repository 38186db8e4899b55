"""Nothing is sent or kept about a user: ONNX Runtime's reports are off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np, onnx, cimc
text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) { y = Softmax (x) }'
model = onnx.parser.parse_model(text)
cimc.Chip(cimc.compile(model, "ideal")).run({"x": np.ones((1, 4), np.float32)})
"""


@pytest.mark.parametrize("own", [None, "0"])
def test_onnx_runtime_keeps_no_identifier_unless_the_user_allows_it(own: str | None, tmp_path: Path) -> None:
    # Where CI is set, ONNX Runtime is silent anyway.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    if own is not None:
        script = f"import cimc, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == {own!r}"
        subprocess.run([sys.executable, "-c", script], env=environment | {"ORT_DISABLE_TELEMETRY": own}, check=True)
        return
    subprocess.run([sys.executable, "-c", SCRIPT], env=environment, check=True, timeout=100)
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or path.name == "deviceid"] == []
