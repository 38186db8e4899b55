"""IR drop of arrays: exact against nodal analysis, fast against exact, and what holds for every network of resistors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cimc.runtime.wires.effective import Block, Solver, effective_us
from cimc.targets.description import Wires
from cimc.threads import set_threads
from tests.runtime.nodal import transfer_us

Array = NDArray[Any]
ENDS = [(d, s) for d in ("left", "right", "both") for s in ("bottom", "top", "both")]


def cells(*shape: int, low: float = 2.0, high: float = 50.0) -> Array:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(np.float32)


def wired(row: float, column: float, **more: Any) -> Wires:
    return Wires(row_segment_ohm=row, column_segment_ohm=column, **more)


def exact(g_us: Array, wires: Wires) -> Array:
    return effective_us(g_us, wires.model_copy(update={"solver": "exact"}))


def worst(found: Array, expected: Array) -> float:
    """Largest error of a bit line's current, in parts of that current: all word lines driven, and random ones."""
    random = np.random.default_rng(0)
    drive = np.concatenate([np.ones((1, len(expected))), random.random((20, len(expected)))])
    current = drive @ expected.astype(np.float64)
    return float(np.abs(drive @ found.astype(np.float64) / current - 1).max())


@pytest.mark.parametrize("shape", [(9, 6), (5, 8), (1, 7), (7, 1)])
@pytest.mark.parametrize(("driven", "sensed"), ENDS)
def test_exact_is_nodal_analysis(shape: tuple[int, int], driven: str, sensed: str) -> None:
    g = cells(*shape)
    wires = wired(300.0, 170.0, driver_ohm=900.0, sense_ohm=400.0, driven_from=driven, sensed_from=sensed)
    np.testing.assert_allclose(exact(g, wires), transfer_us(g.astype(float), wires), rtol=1e-6)


@pytest.mark.parametrize(
    "ohm", [(0.0, 200.0, 0.0, 0.0), (200.0, 0.0, 0.0, 500.0), (0.0, 0.0, 300.0, 500.0), (0.0, 0.0, 0.0, 500.0)]
)
@pytest.mark.parametrize(("driven", "sensed"), [("left", "bottom"), ("both", "both")])
def test_any_resistance_may_be_0(ohm: tuple[float, ...], driven: str, sensed: str) -> None:
    g = cells(8, 5)
    wires = wired(*ohm[:2], driver_ohm=ohm[2], sense_ohm=ohm[3], driven_from=driven, sensed_from=sensed)
    # The oracle's shorts of 0.1 mΩ are what it is off by.
    np.testing.assert_allclose(exact(g, wires), transfer_us(g.astype(float), wires), rtol=1e-5)


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_without_resistance_nothing_changes(solver: str) -> None:
    g = cells(2, 20, 30)
    np.testing.assert_array_equal(effective_us(g, Wires(solver=solver)), g)


@pytest.mark.parametrize(("driven", "sensed"), [("left", "bottom"), ("right", "top"), ("both", "both")])
def test_a_block_within_an_array(driven: str, sensed: str) -> None:
    """Its lines have gaps and go on beyond it; in any order; all other cells hold 8 µS and lead to 0 V."""
    words, bits = np.array([7, 2, 3, 11]), np.array([1, 5, 4, 9, 6])
    whole = np.full((13, 12), 8.0)
    own = cells(4, 5)
    whole[np.ix_(words, bits)] = own
    wires = wired(250.0, 350.0, driver_ohm=600.0, sense_ohm=300.0, driven_from=driven, sensed_from=sensed, solver="exact")
    block = Block.of(np.arange(4) * 5, np.arange(5), words, bits, whole.shape, wires, 8.0)
    found = np.empty(20, np.float32)
    Solver([block], wires).solve(own.reshape(-1), found)
    np.testing.assert_allclose(found.reshape(4, 5), transfer_us(whole, wires, words, bits), rtol=1e-6)


def test_the_published_reference_program() -> None:
    """badcrossbar, where it is installed: it knows one driven and one sensed end and no resistance behind them."""
    badcrossbar = pytest.importorskip("badcrossbar")
    g = cells(16, 12)
    solved = badcrossbar.compute(np.eye(16), 1e6 / g.astype(float), r_i_word_line=30.0, r_i_bit_line=20.0)
    np.testing.assert_allclose(exact(g, wired(30.0, 20.0)), np.asarray(solved.currents.output) * 1e6, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "wires", "limit"),
    [
        ((256, 64), wired(1.0, 1.0), 0.005),
        ((64, 256), wired(1.0, 1.0), 0.005),
        ((256, 64), wired(1.0, 1.0, driven_from="both", sensed_from="both", sense_ohm=5.0), 0.005),
        ((128, 128), wired(4.0, 4.0), 0.01),  # loses as much as 256 x 256 cells at 1 Ω
        ((64, 64), wired(3.0, 3.0, driver_ohm=100.0, sense_ohm=100.0), 0.01),
    ],
)
@pytest.mark.parametrize("low", [2.0, 49.9])
def test_fast_is_near_to_exact(shape: tuple[int, int], wires: Wires, limit: float, low: float) -> None:
    g = cells(*shape, low=low)
    expected = exact(g, wires)
    assert expected.sum() < 0.9 * g.sum()  # there is something to be right about
    assert worst(effective_us(g, wires), expected) < limit


networks = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 7),
        "columns": st.integers(1, 7),
        "row": st.floats(0, 1e3),
        "column": st.floats(0, 1e3),
        "driver": st.floats(0, 1e3),
        "sense": st.floats(0, 1e3),
        "ends": st.sampled_from(ENDS),
    }
)


def drawn(network: dict[str, Any]) -> tuple[Array, Wires]:
    driven, sensed = network["ends"]
    ends = {"driver_ohm": network["driver"], "sense_ohm": network["sense"], "driven_from": driven, "sensed_from": sensed}
    return cells(network["rows"], network["columns"]), wired(network["row"], network["column"], **ends)


@given(networks, st.floats(0, 500), st.sampled_from(["row_segment_ohm", "column_segment_ohm", "driver_ohm", "sense_ohm"]))
@settings(max_examples=40, deadline=None)
def test_more_resistance_never_gives_more_current(network: dict[str, Any], more: float, field: str) -> None:
    """Rayleigh's monotonicity law, for the current from all drivers together to all sense circuits.

    A single entry may exceed its conductance, by the way through other lines. With all word lines at one volt no cell has more
    than that across it, so no bit line's current exceeds that without resistance; likewise the other way.
    """
    g, wires = drawn(network)
    higher = wires.model_copy(update={field: getattr(wires, field) + more})
    assert exact(g, higher).sum(dtype=float) <= exact(g, wires).sum(dtype=float) * (1 + 1e-6)
    for axis in (0, 1):
        assert (exact(g, wires).sum(axis=axis, dtype=float) <= g.sum(axis=axis, dtype=float) * (1 + 1e-6)).all()
    assert (exact(g, wires) >= 0).all()


@given(networks)
@settings(max_examples=25, deadline=None)
def test_the_network_is_reciprocal(network: dict[str, Any]) -> None:
    """Driven from the bit lines through the same resistances, the word lines show the transposed matrix."""
    g, wires = drawn(network)
    driven, sensed = network["ends"]
    turned = Wires(
        row_segment_ohm=wires.column_segment_ohm, column_segment_ohm=wires.row_segment_ohm,
        driver_ohm=wires.sense_ohm, sense_ohm=wires.driver_ohm,
        driven_from={"top": "left", "bottom": "right"}.get(sensed, sensed),
        sensed_from={"left": "top", "right": "bottom"}.get(driven, driven),
    )  # fmt: skip
    np.testing.assert_allclose(exact(np.ascontiguousarray(g.T), turned).T, exact(g, wires), rtol=1e-5)


@pytest.mark.parametrize("solver", ["exact", "fast"])
@given(network=networks)
@settings(max_examples=25, deadline=None)
def test_the_mirror_image(solver: str, network: dict[str, Any]) -> None:
    g, wires = drawn(network)
    swapped = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    ends = {"driven_from": swapped.get(wires.driven_from, "both"), "sensed_from": swapped.get(wires.sensed_from, "both")}
    mirrored = effective_us(np.ascontiguousarray(g[::-1, ::-1]), wires.model_copy(update={**ends, "solver": solver}))
    np.testing.assert_allclose(mirrored[::-1, ::-1], effective_us(g, wires.model_copy(update={"solver": solver})), rtol=1e-5)


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_the_drop_vanishes_with_the_resistance(solver: str) -> None:
    """In proportion to it."""
    g = cells(24, 16)
    loss = [1 - effective_us(g, wired(ohm, ohm, solver=solver)).sum(dtype=float) / g.sum(dtype=float) for ohm in (0.4, 0.2, 0.1)]
    assert 0 < loss[2] < loss[1] < loss[0] < 0.01
    assert loss[0] / loss[1] == pytest.approx(2, abs=0.02)
    assert loss[1] / loss[2] == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("solver", ["exact", "fast"])
def test_arrays_one_by_one_and_threads_give_the_same_bytes(solver: str) -> None:
    g, wires = cells(5, 60, 40), wired(2.0, 2.0, solver=solver)
    together = effective_us(g, wires)
    try:
        set_threads(3)
        np.testing.assert_array_equal(effective_us(g, wires), together)
    finally:
        set_threads(None)
    np.testing.assert_array_equal(np.stack([effective_us(one, wires) for one in g]), together)
