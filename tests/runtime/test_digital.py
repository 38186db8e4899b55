"""The threads of digital segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.runtime import digital

SEGMENTS = {
    "elementwise": ("r = Relu (x)  y = ReduceSum (r, axes)", True),
    "a product": ("y = MatMul (x, x)", False),
    "a branch": ("c = Cast <to = 9> (t)  y = If (c) <then_branch = a () => (z) { z = Relu (x) }, else_branch = b () => (z) "
                 "{ z = Neg (x) }>", False),
    "another domain's": ("y = com.microsoft.Gelu (x)", False),
}  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTS)
def test_small_segments_without_products_take_one_thread_and_large_ones_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, light = SEGMENTS[name]
    heads = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g'
    proto = onnx.parser.parse_model(f"{heads} (float[N, N] x, float t) => (float[A, B] y) <int64[1] axes = {{1}}> {{ {body} }}")
    chip = cimc.Chip(cimc.compile(proto, target="ideal"))
    asked: list[int | None] = []
    made = digital.session

    def watched(*args: Any, threads: int | None = None, **options: Any) -> Any:
        asked.append(threads)
        return made(*args, threads=threads, **options)

    monkeypatch.setattr(digital, "session", watched)
    for size in (8, 9, 1100, 8):
        chip.run({"x": np.ones((size, size), np.float32), "t": np.float32(1)})
    assert asked == ([1, None] if light else [None])
