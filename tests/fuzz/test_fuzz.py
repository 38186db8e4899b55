"""A short form of the fuzzing that ``make fuzz`` does: no case may end in anything but a refusal or a sound result."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import fuzz


@pytest.mark.parametrize(
    ("name", "cases"), [("cim", 150), ("checkpoint", 60), ("cimg", 60), ("faults", 60), ("npz", 150), ("onnx_file", 150)]
)
def test_no_damaged_file_does_harm(name: str, cases: int) -> None:
    report = fuzz(name, range(cases), children=1)
    assert not report.failures, report.failures[:3]
    assert report.counts["refused"] > cases // 4
    assert report.counts["ran"]
