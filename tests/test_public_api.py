"""The package's front door: quick to import, complete, honest about what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cimc

HEAVY = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "numba", "scipy", "networkx", "safetensors")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("module", ["cimc", "cimc.cli.app"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", cimc.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(cimc, name) is not None
    assert name in dir(cimc)


def test_errors_share_a_base_and_use_the_promised_exit_codes() -> None:
    errors = [getattr(cimc, name) for name in cimc.__all__ if name.endswith("Error")]
    assert all(issubclass(error, cimc.CimcError) for error in errors)
    assert {error.exit_code for error in errors} == {1, 2}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        cimc.compil  # noqa: B018


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_the_bridge_to_pytorch_says_what_it_needs(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(vars(cimc), "torch", raising=False)
    for name in [name for name in sys.modules if name.startswith("cimc.torch")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(cimc.CimcError, match=r"pip install 'cimc\[torch\]'"):
        cimc.torch  # noqa: B018
