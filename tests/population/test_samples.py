"""Settings that fill ranges evenly, and which field an accuracy follows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.cli.population import parse_spans
from cimc.errors import CimcError
from cimc.population.result import Population
from cimc.population.samples import Span, spread

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("placed", ["sobol", "latin"])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_part_of_each_range_gets_one_sample(placed: Any, seed: int) -> None:
    found = spread({"a": Span(2.0, 6.0), "b": Span(1e-3, 10.0, log=True)}, 64, placed, seed)
    a, b = (np.array([row[name] for row in found]) for name in "ab")
    assert sorted(np.floor((a - 2) / 4 * 64).astype(int)) == list(range(64))
    assert sorted(np.floor((np.log10(b) + 3) / 4 * 64).astype(int)) == list(range(64))
    assert abs(np.corrcoef(a, np.log(b))[0, 1]) < 0.4  # 3 standard errors of independent samples
    assert found == spread({"a": Span(2.0, 6.0), "b": Span(1e-3, 10.0, log=True)}, 64, placed, seed)
    assert found != spread({"a": Span(2.0, 6.0), "b": Span(1e-3, 10.0, log=True)}, 64, placed, seed + 1)


def test_a_sobol_sequence_fills_pairs_of_fields_too() -> None:
    """A net in base 2: 64 points put one into each of 8 by 8 squares."""
    found = spread({"a": Span(0.0, 8.0), "b": Span(0.0, 8.0)}, 64, "sobol", 3)
    assert set(Counter((int(row["a"]), int(row["b"])) for row in found).values()) == {1}


def test_whole_ends_give_whole_values_each_as_often() -> None:
    counts = Counter(row["n"] for row in spread({"n": Span(4, 7)}, 64, "latin", 0))
    assert counts == {4: 16, 5: 16, 6: 16, 7: 16}
    assert {row["n"] for row in spread({"n": Span(0, 3)}, 64, "sobol", 0)} == {0, 1, 2, 3}
    assert {row["n"] for row in spread({"n": Span(1, 16, log=True)}, 256, "sobol", 0)} == set(range(1, 17))


def test_the_field_that_an_accuracy_follows() -> None:
    random = np.random.default_rng(0)
    a, b = random.random(40), random.integers(0, 5, 40)
    accuracy = np.round(1 - a + 0.1 * random.normal(size=40), 1)[:, None, None] + np.array([-0.1, 0.0, 0.3])
    settings = tuple({"a": float(one), "b": int(other), "c": 1.0, "kind": "x"} for one, other in zip(a, b, strict=True))
    found = Population(settings, (0.0,), (0, 1, 2), accuracy, accuracy, 1.0, 10).sensitivity()
    assert found["a"] == pytest.approx(stats.spearmanr(a, accuracy[:, 0, 1]).statistic)
    assert found["b"] == pytest.approx(stats.spearmanr(b, accuracy[:, 0, 1]).statistic)
    assert found["c"] is None
    assert "kind" not in found


@pytest.mark.parametrize(
    ("spans", "options", "said"),
    [
        ({"a": [1, 2]}, {}, "samples need ranges"),
        ({}, {}, "samples need ranges"),
        ({"a": Span(1, 2)}, {"samples": 0}, "samples"),
        ({"a": Span(1, 2)}, {"placed": "grid"}, "sobol or latin"),
    ],
)
def test_what_is_no_sample_is_refused(spans: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(CimcError, match=said):
        spread(spans, **{"samples": 4, "placed": "sobol", "seed": 0, **options})


@pytest.mark.parametrize("ends", [(2, 1), (0.0, 1.0, True), (float("nan"), 1), (1, 1)])
def test_what_is_no_range_is_refused(ends: tuple[Any, ...]) -> None:
    with pytest.raises(CimcError):
        Span(*ends)


def test_ranges_as_text() -> None:
    assert parse_spans(["a.b=1..4", "c=0.01..1:log"]) == {"a.b": Span(1, 4), "c": Span(0.01, 1.0, log=True)}
    for text in ("a=1,2", "a", "a=1..", "a=..2", "a=x..y", "a=1..2:lin", "=1..2", "a=true..2"):
        with pytest.raises(CimcError, match="LOW"):
            parse_spans([text])
    with pytest.raises(CimcError, match="LOW"):
        parse_spans(["a=1..2", "a=1..3"])
    with pytest.raises(CimcError, match="needs a range"):
        parse_spans([])


def test_a_grid_of_ranges_asks_for_samples() -> None:
    with pytest.raises(CimcError, match="add samples=64"):
        cimc.sweep("m.onnx", [], [], {"adc.sigma_lsb": Span(0.0, 1.0)})
