"""The official ONNX backend suite on the ideal target.

The list of cases is made by running it: whatever a plain ``InferenceSession`` passes, cimc must pass, at the suite's own
tolerances. Cases that ONNX Runtime itself fails are skipped.
"""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from cimc.backend import WEIGHT_OPERANDS, CimcBackend, CimcRep
from cimc.errors import CimcError

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {
    "OnnxBackendNodeModelTest",
    "OnnxBackendSimpleModelTest",
    "OnnxBackendPyTorchConvertedModelTest",
    "OnnxBackendPyTorchOperatorModelTest",
    "OnnxBackendRealModelTest",
}

#: Cases that went through crossbars when onnx 1.23 was new; a later suite only adds.
ANALOG_CASES = 186


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


def cases(backend: type[Backend]) -> dict[str, tuple[type[unittest.TestCase], str]]:
    return {
        f"{kind.removeprefix('OnnxBackend')}::{name}": (case, name)
        for kind, case in Runner(backend, __name__).test_cases.items()
        if kind in KINDS
        for name in sorted(dir(case))
        if name.startswith("test_") and name.endswith("_cpu")
    }


PLAIN = cases(PlainBackend)
OURS = cases(CimcBackend)


def run(case: type[unittest.TestCase], name: str) -> None:
    getattr(case(name), name)()


@pytest.mark.parametrize("key", list(OURS))
def test_what_onnx_runtime_passes_cimc_passes(key: str) -> None:
    try:
        run(*PLAIN[key])
    except (Exception, unittest.SkipTest) as error:
        pytest.skip(f"ONNX Runtime itself: {type(error).__name__}")
    run(*OURS[key])


def product_models() -> Iterator[tuple[onnx.ModelProto, list[Any]]]:
    """Models of the suite with an operator that crossbars could take, each with the inputs of its first data set."""
    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
            if any(node.op_type in WEIGHT_OPERANDS for node in model.graph.node):
                yield model, stored_inputs(Path(case.model_dir), model) if case.data_sets is None else list(case.data_sets[0][0])


def stored_inputs(folder: Path, model: onnx.ModelProto) -> list[Any]:
    files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    return [onnx.TensorProto.FromString(path.read_bytes()) for path in files]


def test_some_two_hundred_cases_go_through_crossbars() -> None:
    analog = 0
    for model, inputs in product_models():
        with contextlib.suppress(CimcError):  # what ONNX Runtime refuses
            rep = CimcRep(model)
            if rep.program is None:
                rep.run([numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in inputs])
            analog += bool(rep.program is not None and rep.program.vmm_steps)
        if analog == ANALOG_CASES:
            return
    raise AssertionError(f"{analog} cases")
