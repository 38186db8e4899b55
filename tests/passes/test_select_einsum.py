"""Einsum equations against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .vmm_reference import build, products, same

RNG = np.random.default_rng(2)
SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 1, "f": 2}


def real(labels: str) -> Any:
    return RNG.standard_normal([SIZES[label] for label in labels]).astype(np.float32)


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, str, str]:
    """X, W and output labels: kept, grouped, summed and column axes in any order."""
    labels = draw(st.permutations(list(SIZES)))
    kinds = [draw(st.sampled_from(["kept", "group", "row", "column"])) for _ in labels]
    pick = lambda *wanted: draw(st.permutations([a for a, k in zip(labels, kinds, strict=True) if k in wanted]))  # noqa: E731
    return tuple("".join(pick(*k)) for k in (("kept", "group", "row"), ("group", "row", "column"), ("kept", "group", "column")))


@given(terms=equations(), left=st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_kind_of_axis_in_any_order(terms: tuple[str, str, str], left: bool) -> None:
    x, w = real(terms[0]), real(terms[1])
    equation = f"{terms[1]},{terms[0]}->{terms[2]}" if left else f"{terms[0]},{terms[1]}->{terms[2]}"
    model = build("Einsum", {"x": x}, {"w": w}, order=["w", "x"] if left else ["x", "w"], equation=equation)
    assert len(products(same(model, {"x": x}))) == 1


@pytest.mark.parametrize(
    ("equation", "x", "w"),
    [
        ("ij,jk", (2, 3), (3, 4)),
        ("ba,bc", (2, 3), (2, 4)),
        ("...ij,jk->...ik", (2, 5, 2, 3), (3, 4)),
        ("...ij,...jk->...ik", (5, 2, 3), (5, 3, 4)),
        ("...ij,...jk", (5, 2, 3), (1, 3, 4)),
        ("i...,i...->...", (3, 4), (3, 4)),
    ],
)
def test_implicit_output_and_ellipsis(equation: str, x: Any, w: Any) -> None:
    values = [RNG.standard_normal(shape).astype(np.float32) for shape in (x, w)]
    model = build("Einsum", {"x": values[0]}, {"w": values[1]}, equation=equation)
    assert len(products(same(model, {"x": values[0]}))) == 1


@pytest.mark.parametrize(
    ("equation", "x", "w", "reason"),
    [
        ("ii,ij->j", (3, 3), (3, 4), "repeats"),
        ("ij,k->ik", (2, 3), (4,), "of the activation is summed over alone"),
        ("i,jk->ij", (2,), (3, 4), "of the weight is summed over alone"),
    ],
)
def test_what_is_no_product_stays_digital(equation: str, x: Any, w: Any, reason: str) -> None:
    values = [RNG.standard_normal(shape).astype(np.float32) for shape in (x, w)]
    state = same(build("Einsum", {"x": values[0]}, {"w": values[1]}, equation=equation), {"x": values[0]})
    assert not products(state)
    assert reason in state.placements["einsum"].why
