"""Every update rule passes the contract, one from outside too; the outside one trains, saves and exports like the others."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import ArtifactError, CimcError
from cimc.rules import Pulsed
from cimc.targets import kinds
from cimc.testing import check_rule
from tests.training.small import chip, data, trainer

FILE = Path(__file__).parent / "two_signs.py"
QUIET = {
    "device.programming.sigma_us": 0.1, "device.programming.mean_us": 0.0, "device.read_sigma_us": 0.2, "device.levels": 33,
}  # fmt: skip
TRANSFER = {"update.transfer_rows": 2, "update.transfer_lr": 0.1, "update.zero_shift_pulses": 60}
X, Y = data(64)


def forget() -> None:
    for part in kinds._registered.values():
        part.clear()
    for changed in kinds._listeners:
        changed()


@pytest.fixture
def two_signs():
    spec = spec_from_file_location("two_signs_of_the_test", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    forget()


@pytest.mark.parametrize(
    ("rule", "settings", "options"),
    [
        ("threshold", {}, {"optimizer": "adamw", "lr": 0.02}),
        ("residual", {"update.limit_share": 0.02}, {"optimizer": "adamw", "lr": 0.02}),
        ("naive", {}, {"lr": 0.3}),
        ("pulsed", {}, {}),
        ("tiki_taka", TRANSFER, {}),
        ("ttv2", TRANSFER, {}),
        ("residual_arrays", TRANSFER, {}),
    ],
)
def test_the_contract_holds_for_the_built_in_rules(rule: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
    check_rule(rule, QUIET | settings, **options)


def test_the_contract_holds_for_a_rule_from_outside(two_signs) -> None:
    check_rule("two_signs", QUIET | {"update.dead_share": 0.2})


def test_a_rule_from_outside_trains_saves_and_exports(two_signs, tmp_path: Path) -> None:
    c = chip(**{"update.rule": "two_signs", **QUIET})
    assert c.program.target.planes == 4
    t = trainer(c, optimizer="sgd", init="weights")
    t.fit(X, Y, epochs=2)
    c.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert (again.memory["Gemm_0/rule.signs"] == c.memory["Gemm_0/rule.signs"]).all()
    assert again.memory["Gemm_0/rule.signs"].any()
    cimc.export_image(c)
    forget()
    with pytest.raises(ArtifactError, match="no model 'two_signs'") as error:
        cimc.load(tmp_path / "c.cim")
    assert "--plugin" in error.value.fix


@pytest.mark.parametrize(
    ("method", "broken", "said"),
    [
        ("takes", "weights", "neither 'change' nor 'vectors'"),
        ("begin", lambda self, state: state.own.update({"a b": np.zeros(1)}), "letters, digits"),
        ("begin", lambda self, state: state.own.update({"a": np.full(1, np.nan)}), "not finite"),
    ],
)
def test_what_breaks_the_contract_is_named(method: str, broken: Any, said: str) -> None:
    cimc.register("update_rule", "broken", type("Broken", (Pulsed,), {method: broken}))
    try:
        with pytest.raises(AssertionError, match=said):
            check_rule("broken")
    finally:
        forget()


def test_a_rule_needs_a_section_of_its_kind() -> None:
    with pytest.raises(CimcError, match="no subclass of Update") as error:
        cimc.register("update_rule", "odd", type("Odd", (), {"Section": int}))
    assert "cimc.rules.Update" in str(error.value.fix)
