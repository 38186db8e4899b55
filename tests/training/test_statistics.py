"""A batch of one image, of which batch normalisation has no statistics, is refused before its step, however the data come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.training.statistics import check_statistics
from tests.training import small

#: One value a channel and image.
DENSE = """dense (float[N, 1, 6, 6] x) => (float[N, 3] y) {
    f = Flatten (x)  a = MatMul (f, v)  n = BatchNormalization (a, s, b, mean, var)  c = Relu (n)  y = Gemm <transB = 1> (c, w2)
}"""
#: The same behind a pool that leaves one place of each channel; its size is open.
POOLED = """pooled (float[N, 1, H, W] x) => (float[N, 3] y) {
    a = Conv <kernel_shape = [3, 3]> (x, w1)  p = GlobalAveragePool (a)  n = BatchNormalization (p, s, b, mean, var)
    f = Flatten (n)  y = MatMul (f, o)
}"""


def trainer(text: str, **options: Any) -> cimc.Trainer:
    proto = small.model(text)
    random = np.random.default_rng(7)
    del proto.graph.initializer[:]
    size = 64 if "v)" in text else 4
    shapes = {"v": (36, 64), "w2": (3, 64), "w1": (4, 1, 3, 3), "o": (4, 3), **dict.fromkeys(("s", "b", "mean", "var"), (size,))}
    used = {name for node in proto.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in used:
            array = np.abs(random.normal(0, 0.3, shape)).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    program = cimc.compile(proto, "bulk-rram", calibration={"x": small.data(32)[0]})
    return small.trainer(cimc.Chip(program), **options)


def batches(x: Any, y: Any, size: int) -> list[tuple[Any, Any]]:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def state(made: cimc.Trainer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in made.program().tensors.items()}


@pytest.mark.parametrize("text", [DENSE, POOLED], ids=["dense", "pooled"])
@pytest.mark.parametrize("kind", ["arrays", "list", "batches of one"])
def test_it_is_refused_before_anything_changes(text: str, kind: str) -> None:
    x, y = small.data(33)
    made = trainer(text, **({"batch_size": 1} if kind == "batches of one" else {}))
    before = state(made)
    given = (batches(x, y, 16),) if kind == "list" else (x, y)
    with pytest.raises(cimc.CimcError, match=r"a batch of one image: BatchNormalization .* has one value a channel"):
        made.fit(*given, epochs=2)
    assert state(made) == before


def test_a_loader_is_refused_at_that_batch_and_so_is_a_single_step() -> None:
    x, y = small.data(33)
    made = trainer(DENSE)

    class Loader:
        def __iter__(self) -> Iterator[tuple[Any, Any]]:
            return iter(batches(x, y, 16))

    with pytest.raises(cimc.CimcError, match="one value a channel"):
        made.fit(Loader(), epochs=1)
    assert made.steps == 2
    with pytest.raises(cimc.CimcError, match="one value a channel"):
        made.step(x[:1], y[:1])
    assert made.steps == 2


def test_one_image_of_many_places_trains_and_so_does_a_frozen_normalisation() -> None:
    """As in PyTorch, which counts the values of a channel, not the images."""
    x, y = small.data(17)
    spread = small.trainer(small.chip(text=small.NORMED))
    spread.fit(x, y, epochs=1)
    assert spread.steps == 2
    frozen = trainer(DENSE, freeze=["s", "b"])
    frozen.fit(x, y, epochs=1)
    assert frozen.steps == 2


def test_single_images_of_one_shape_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only shapes tell how many values a channel has; an image that leaves one is refused whatever came before."""
    made = trainer(POOLED)
    x, y = small.data(2)
    looked: list[tuple[int, ...]] = []

    def look(program: Any, training: Any, inputs: Any) -> None:
        looked.append(inputs["x"].shape)
        check_statistics(program, training, inputs)

    monkeypatch.setattr("cimc.training.step.check_statistics", look)
    for _ in range(3):
        made.step(x, y)
    for _ in range(2):
        with pytest.raises(cimc.CimcError, match="one value a channel"):
            made.step(x[:1], y[:1])
    assert looked == [x.shape, x[:1].shape, x[:1].shape]
    spread, single = small.trainer(small.chip(text=small.NORMED)), {"x": x[:1]}
    looked.clear()
    for _ in range(3):
        spread.step(single, y[:1])
    assert looked == [x[:1].shape]


def test_full_batches_of_random_passes_have_no_odd_image() -> None:
    x, y = small.data(33)
    made = trainer(DENSE)
    made.fit(x, y, epochs=1, steps_per_epoch=3)
    assert made.steps == 3
