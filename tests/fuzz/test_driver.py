"""The driver tells every way in which a case can end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import pretend
from tests.fuzz.driver import case, fuzz

EXPECTED = {"ran": "ran", "refused": "refused", "crash": "crash", "hang": "hang"}


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    """The first case of each end."""
    found: dict[str, int] = {}
    for number in range(200):
        found.setdefault(case(pretend, pretend.sound(), 0, number).what.removeprefix("one: "), number)
    assert set(found) == set(pretend.ENDS)
    return found


def test_each_end_is_told_and_the_files_of_failures_are_kept(numbers: dict[str, int], tmp_path: Path) -> None:
    report = fuzz("pretend", numbers.values(), keep=tmp_path)
    failed = {outcome.number: outcome for outcome in report.failures}
    for end, number in numbers.items():
        kind = EXPECTED.get(end, "exception")
        if kind in ("ran", "refused"):
            assert number not in failed
        else:
            assert failed[number].kind == kind
            assert (tmp_path / f"pretend-0-{number}.txt").read_text() == end
    assert report.counts == {"ran": 1, "refused": 1, "crash": 1, "hang": 1, "exception": 4}
    assert "MemoryError" in failed[numbers["memory"]].detail
    assert "IndexError" in failed[numbers["index"]].detail


def test_a_case_depends_on_seed_and_number_alone() -> None:
    sound = {"a": b"1", "b": b"2"}
    assert [case(pretend, sound, 3, n) for n in range(9)] == [case(pretend, sound, 3, n) for n in range(9)]
    assert [case(pretend, sound, 3, n) for n in range(9)] != [case(pretend, sound, 4, n) for n in range(9)]
