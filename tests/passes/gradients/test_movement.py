"""Shapes, layout and picking against central differences: exact, as these operators only move elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .harness import check, normal


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Reshape", [np.array([3, -1])], {}),
        ("Reshape", [np.array([0, 2, 6])], {}),
        ("Flatten", [], {"axis": 2}),
        ("Flatten", [], {"axis": 0}),
        ("Squeeze", [np.array([0])], {}),
        ("Unsqueeze", [np.array([0, -1])], {}),
        ("Transpose", [], {}),
        ("Transpose", [], {"perm": [2, 0, 3, 1]}),
        ("Expand", [np.array([2, 1, 2, 1, 1])], {}),
        ("Tile", [np.array([2, 1, 3, 2])], {}),
        ("Trilu", [], {"upper": 0}),
        ("Trilu", [np.array(1)], {}),
    ],
)
def test_shapes(op: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    check(op, normal(1, 2, 3, 2), *inputs, **attributes)


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_concat_and_split(axis: int) -> None:
    shapes = [[2, 2, 2] for _ in range(3)]
    for size, shape in zip((1, 2, 3), shapes, strict=True):
        shape[axis] = size
    check("Concat", *[normal(*shape, seed=i) for i, shape in enumerate(shapes)], axis=axis)
    x = normal(*[6 if a == axis % 3 else 2 for a in range(3)])
    for out in range(3):
        check("Split", x, np.array([1, 2, 3]), outputs=3, out=out, axis=axis)
        check("Split", x, outputs=3, out=out, axis=axis, num_outputs=3)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], None, None),
        ([3], [1], [0], None),
        ([0, 1], [9, -1], [0, 2], None),
        ([-3], [2**31], [-1], [1]),
        ([0, 1], [4, 4], [0, 1], [2, 3]),
        ([-1], [-9], [2], [-1]),
        ([3], [0], [0], [-2]),
    ],
)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    rest = [None if a is None else np.array(a) for a in (axes, steps)]
    while rest and rest[-1] is None:
        rest.pop()
    check("Slice", normal(4, 4, 3), np.array(starts), np.array(ends), *rest)


@pytest.mark.parametrize("pads", [[1, 0, 2, 1], [0, 2, 0, 1], [-1, 1, 0, -1]])
def test_pad_constant(pads: list[int]) -> None:
    check("Pad", normal(3, 4), np.array(pads), np.array(0.7))


def test_pad_of_some_axes() -> None:
    check("Pad", normal(3, 2, 2), np.array([1, 2]), None, np.array([-1]))
    check("Pad", normal(3, 2, 3), np.array([1, 0, 1, 2]), None, np.array([0, 2]), mode="reflect")


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pad_by_repeating(mode: str) -> None:
    check("Pad", normal(3, 4), np.array([1, 2, 2, 1]), mode=mode)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_gather(axis: int, kind: type[np.signedinteger[Any]]) -> None:
    """Repeated and negative indices; a scalar, a vector and a matrix of them."""
    for indices in (1, [2, 0, 2, -1], [[0, 1], [-2, 1]]):
        check("Gather", normal(3, 3, 3), np.array(indices, kind), axis=axis)


def test_gather_elements_and_nd() -> None:
    check("GatherElements", normal(3, 2), np.array([[0, 2], [2, -1], [0, 0], [1, 1]]), axis=0)
    check("GatherND", normal(3, 2, 2), np.array([[0, 1], [2, 0], [0, 1], [-1, 1]]))
    check("GatherND", normal(2, 3, 2), np.array([[0], [2]]), batch_dims=1)


def test_what_moves_elements_otherwise() -> None:
    check("Compress", normal(3, 2), np.array([True, False, True]), axis=0)
    check("Compress", normal(2, 2), np.array([False, True, True]))
    check("ReverseSequence", normal(4, 2, 2), np.array([2, 4]))
    check("ReverseSequence", normal(2, 4), np.array([2, 3]), batch_axis=0, time_axis=1)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter(reduction: str) -> None:
    """Sums may meet at one place; of several writes to one place the standard defines none."""
    places = [[0, 2, 1], [1, 1, 0]] if reduction == "none" else [[0, 2, 1], [0, -1, 0]]
    check("ScatterElements", normal(3, 3), np.array(places), normal(2, 3, seed=1), reduction=reduction)
    check("ScatterElements", normal(2, 3), np.array([[2], [0]]), normal(2, 1, seed=1), axis=-1, reduction=reduction)
    rows = [[2], [0]] if reduction == "none" else [[2], [2]]
    check("ScatterND", normal(3, 2), np.array(rows), normal(2, 2, seed=1), reduction=reduction)
    check("ScatterND", normal(3, 2), np.array([[0, 1]]), normal(1, seed=1), reduction=reduction)


def test_gather_adds_up_many_repeats() -> None:
    check("Gather", normal(3, 2), np.arange(600) % 3)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check("DepthToSpace", normal(1, 8, 2, 3), blocksize=2, mode=mode)
    check("SpaceToDepth", normal(1, 2, 4, 2), blocksize=2)


def test_top_k() -> None:
    check("TopK", np.array([[3.0, 1, 2, 5], [0, 9, 8, 4]]), np.array([2]), outputs=2)
