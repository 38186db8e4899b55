"""The official ONNX backend suite on the ideal target.

The list of cases is made by running it: whatever a plain ``InferenceSession`` passes, cimc must pass, at the suite's own
tolerances. Cases that ONNX Runtime itself fails are skipped, and counted so that the list cannot melt away unseen.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner

from cimc.backend import CimcBackend, CimcRep

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = ("OnnxBackendNodeModelTest", "OnnxBackendSimpleModelTest", "OnnxBackendPyTorchConvertedModelTest",
         "OnnxBackendPyTorchOperatorModelTest", "OnnxBackendRealModelTest")  # fmt: skip

#: How many cases were run, how many cimc passed, and how many of these went through crossbars.
COUNTS = {"run": 0, "passed": 0, "analog": 0}
#: What onnx 1.23 with ONNX Runtime 1.32 gives; a newer suite only adds.
PASSED, ANALOG = 99999, 99999


class PlainRep(BackendRep):
    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        names = [value.name for value in self._session.get_inputs()]
        return tuple(self._session.run(None, dict(zip(names, inputs, strict=False))))


class PlainBackend(Backend):
    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PlainRep:
        return PlainRep(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


class CountingBackend(CimcBackend):
    """Remembers the last prepared model, so that its crossbars can be counted after the run."""

    last: CimcRep | None = None

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> CimcRep:
        cls.last = super().prepare(model, device, **kwargs)
        return cls.last


def _cases(backend: type[Backend]) -> Iterator[tuple[str, type[unittest.TestCase], str]]:
    runner = Runner(backend, __name__)
    for kind, case in runner.test_cases.items():
        if kind in KINDS:
            for name in sorted(dir(case)):
                if name.startswith("test_") and name.endswith("_cpu"):
                    yield f"{kind}::{name}", case, name


PLAIN = {key: (case, name) for key, case, name in _cases(PlainBackend)}
OURS = {key: (case, name) for key, case, name in _cases(CountingBackend)}


def _run(case: type[unittest.TestCase], name: str) -> None:
    getattr(case(name), name)()


@pytest.mark.parametrize("key", list(OURS))
def test_what_onnx_runtime_passes_cimc_passes(key: str) -> None:
    COUNTS["run"] += 1
    try:
        _run(*PLAIN[key])
    except BaseException as error:  # whatever it is, the case is then not ours to pass
        if isinstance(error, KeyboardInterrupt):
            raise
        pytest.skip(f"ONNX Runtime itself: {type(error).__name__}")
    CountingBackend.last = None
    _run(*OURS[key])
    COUNTS["passed"] += 1
    rep = CountingBackend.last
    COUNTS["analog"] += bool(rep is not None and rep.program is not None and rep.program.vmm_steps)


def test_as_many_cases_as_ever_go_through_crossbars() -> None:
    """Runs last in this module, and means something only after all the cases above."""
    if COUNTS["run"] < len(OURS):
        pytest.skip("needs the whole suite in one process")
    assert COUNTS["passed"] >= PASSED, COUNTS
    assert COUNTS["analog"] >= ANALOG, COUNTS
