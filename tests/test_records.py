"""Records that users construct: what is wrong is told in words, as an error of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cimc
from cimc.ir.program import Preprocessing
from cimc.targets.description import Array, Device


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: cimc.Target(), cimc.TargetError, "Target: name is missing"),
        (lambda: cimc.Target(name=5), cimc.TargetError, "name must be text"),
        (lambda: cimc.Target("mine"), cimc.TargetError, "fields are given by name"),
        (lambda: cimc.Target(name="mine", arrays=3), cimc.TargetError, "arrays is no field"),
        (lambda: cimc.Target(name="mine", array={"rows": 0}), cimc.TargetError, "array.rows must be at least 1"),
        (lambda: cimc.Target(name="mine", adc={"bits": 1, "pair_read": "subtracted"}), cimc.TargetError, "at least 2"),
        (lambda: Array(rows="many"), cimc.TargetError, "Array: rows must be a whole number"),
        (lambda: Device(g_max_us=float("nan")), cimc.TargetError, "g_max_us must be finite"),
        (
            lambda: cimc.Target.model_validate({"name": "mine", "array": {"rows": 0}}),
            cimc.TargetError,
            "array.rows must be at least 1",
        ),
        (lambda: cimc.Target.model_validate("mine"), cimc.TargetError, "Target: "),
        (
            lambda: cimc.Target.model_validate_json('{"name": "mine", "adc": {"bits": "many"}}'),
            cimc.TargetError,
            "adc.bits must be a whole",
        ),
        (lambda: cimc.Target.model_validate_json("{"), cimc.TargetError, "Invalid JSON"),
        (lambda: Array.model_validate({"row": 1}), cimc.TargetError, "row is no field"),
        (lambda: cimc.Program.model_validate({}), cimc.CimcError, "target is missing"),
        (lambda: cimc.Program(), cimc.CimcError, "Program: target is missing"),
        (lambda: Preprocessing(std=(0.0,)), cimc.CimcError, "std.0 must be above 0"),
        (lambda: Preprocessing(scales=2), cimc.CimcError, "scales is no field"),
    ],
)
def test_what_a_constructor_refuses_is_told_in_words(make: Callable[[], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as found:
        make()
    assert "pydantic" not in str(found.value)
    assert "its fields: " in str(found.value)


def test_a_target_of_few_fields_is_a_whole_chip() -> None:
    made = cimc.Target(name="mine", array={"rows": 64})
    assert (made.name, made.array.rows) == ("mine", 64)
    assert made.is_ideal
