"""The threads of digital segments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.runtime import digital
from cimc.threads import set_threads

#: What the segment computes, and the threads of its sessions as they are made for inputs of 8, 9, 1100 and 8 rows, with three at
#: hand. Small ones without products take one, as waking others takes longer. So does what might change with the number of them.
SEGMENTS = {
    "elementwise": ("r = Relu (x)  y = ReduceSum (r, axes)", [1, 3]),
    "a product": ("y = MatMul (x, x)", [3, 1]),
    "a function that rounds by place": ("y = Sin (x)", [1]),
    "a branch": ("c = Cast <to = 9> (t)  y = If (c) <then_branch = a () => (z) { z = Relu (x) }, else_branch = b () => (z) "
                 "{ z = Neg (x) }>", [1]),
    "another domain's": ("y = com.microsoft.Gelu (x)", [1]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    set_threads(3)
    yield
    set_threads(None)


@pytest.mark.parametrize("name", SEGMENTS)
def test_threads_of_a_segment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, expected = SEGMENTS[name]
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
    assert asked == expected


def test_a_segment_that_does_not_join_runs_once_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image, and once whole for the output that is not the images': on the first split run as on each later one."""
    heads, body = '<ir_version: 8, opset_import: ["": 17]> g', "y = Sin (x)  s = ReduceSum <keepdims = 0> (x)"
    proto = onnx.parser.parse_model(f"{heads} (float[N, 3] x) => (float[N, 3] y, float s) {{ {body} }}")
    program = cimc.compile(proto, target="ideal")
    segment = digital.Segment(program, next(step for step in program.steps if step.kind == "digital"))
    sizes: list[int] = []
    run = digital.Segment._run

    def counted(self: digital.Segment, feeds: Any) -> list[Any]:
        sizes.append(len(feeds["x"]))
        return run(self, feeds)

    monkeypatch.setattr(digital.Segment, "_run", counted)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for _ in range(2):
        sizes.clear()
        y, s = segment.run({"x": x}, 4)
        np.testing.assert_allclose(y, np.sin(x), rtol=1e-6)
        assert float(s) == x.sum()
        assert sorted(sizes) == [1, 1, 1, 1, 4]
