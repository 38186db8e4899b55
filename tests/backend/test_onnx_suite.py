"""The official ONNX backend suite on the ideal target.

The list of cases is made by running it: whatever a plain ``InferenceSession`` passes, cimc must pass, at the suite's own
tolerances. Cases that ONNX Runtime itself fails are skipped.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner

from cimc.backend import CimcBackend, CimcRep

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {
    "OnnxBackendNodeModelTest",
    "OnnxBackendSimpleModelTest",
    "OnnxBackendPyTorchConvertedModelTest",
    "OnnxBackendPyTorchOperatorModelTest",
    "OnnxBackendRealModelTest",
}

#: Cases that go through crossbars; of a later suite more may.
ANALOG = set(Path(__file__).with_name("analog_cases.txt").read_text().split())


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


class Recorded(CimcBackend):
    """Keeps what was prepared last."""

    last: CimcRep | None = None

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> CimcRep:
        cls.last = super().prepare(model, device, **kwargs)
        return cls.last


def cases(backend: type[Backend]) -> dict[str, tuple[type[unittest.TestCase], str]]:
    return {
        f"{kind.removeprefix('OnnxBackend')}::{name}": (case, name)
        for kind, case in Runner(backend, __name__).test_cases.items()
        if kind in KINDS
        for name in sorted(dir(case))
        if name.startswith("test_") and name.endswith("_cpu")
    }


PLAIN = cases(PlainBackend)
OURS = cases(Recorded)


def run(case: type[unittest.TestCase], name: str) -> None:
    getattr(case(name), name)()


@pytest.mark.parametrize("key", list(OURS))
def test_what_onnx_runtime_passes_cimc_passes(key: str) -> None:
    try:
        run(*OURS[key])
    except (Exception, unittest.SkipTest):
        try:
            run(*PLAIN[key])
        except (Exception, unittest.SkipTest) as error:
            pytest.skip(f"ONNX Runtime itself: {type(error).__name__}")
        raise
    if key in ANALOG:
        assert Recorded.last is not None
        assert Recorded.last.program is not None
        assert Recorded.last.program.vmm_steps
