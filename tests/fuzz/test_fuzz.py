"""A short form of the fuzzing that ``make fuzz`` does: no case may end in anything but a refusal or a sound result."""

from __future__ import annotations

import pytest

from tests.fuzz.driver import fuzz

#: Fuzzers with their numbers of cases. Those of one test share compiled kernels, which two processes would compile twice.
TOGETHER = [{"cim": 60, "checkpoint": 40, "cimg": 40, "faults": 40, "onnx_file": 60}, {"npz": 150}]


@pytest.mark.parametrize("fuzzers", TOGETHER, ids=" ".join)
def test_no_damaged_file_does_harm(fuzzers: dict[str, int]) -> None:
    for name, cases in fuzzers.items():
        report = fuzz(name, range(cases), children=1)
        assert not report.failures, report.failures[:3]
        assert report.counts["refused"] > cases // 4, name
        assert report.counts["ran"], name
