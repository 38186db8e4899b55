"""The contract of weight codes. A check raises AssertionError and says what is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cimc.errors import TargetError
from cimc.ir.encoding import has_units
from cimc.ir.weight_codes.code import WeightCode
from cimc.targets.description import Target
from cimc.targets.weight_sections import Weights

_LEVELS = (None, 2, 3, 4, 16, 255)


def check_weight_code(model: type[Any], settings: Mapping[str, Any] | None = None) -> None:
    """Hold a weight code to the contract of `cimc.ir.weight_codes.code.WeightCode`, with devices of several numbers of levels.

    Decoding the digits of a weight gives the weight, quantised; digits are levels of a device; the section and the code agree on
    device columns; a transposed read gives the weight too.

    Args:
        model: The class.
        settings: Fields of its section.

    Raises:
        AssertionError: It breaks the contract.
    """
    section_type: Any = getattr(model, "Section", Weights)
    assert isinstance(section_type, type), "Section is no class"
    assert issubclass(section_type, Weights), "Section does not extend Weights"
    section = section_type(**(settings or {}))
    checked = 0
    for levels in _LEVELS[1:] if section.cells > 1 else _LEVELS:
        array = {"unit_column": bool(section.needs_unit_column), "columns": 64}
        target = Target.model_validate({"name": "contract", "array": array, "device": {"levels": levels}, "weights": section})
        try:
            code: WeightCode = model(target)
        except TargetError:
            continue  # such devices cannot hold such weights
        _check(code, target, f"{levels} levels")
        checked += 1
    assert checked, "no number of levels will do"
    for lines in range(section.columns_per_weight + section.reference_columns(1), 130):
        columns = target.weight_columns(lines)
        assert columns >= 1, f"reference_columns: {lines} lines hold no weight"
        assert target.device_columns(columns) <= lines, (
            f"reference_columns: {columns} weight columns take more than {lines} lines"
        )


def _check(code: WeightCode, target: Target, name: str) -> None:
    levels, whole = target.device.levels, bool(target.weights.rounded and (target.device.levels or target.weights.bits))
    assert code.full > 0, f"{name}: full is {code.full}"
    random = np.random.default_rng(0)
    steps = np.concatenate([[-1.0, 0.0, 1.0], random.uniform(-1, 1, 297)]).reshape(2, 10, 15) * code.full
    if whole:
        steps = np.rint(steps + code.shift) - code.shift
    digits, planes = code.encode(steps.copy()), target.planes
    assert digits.shape == (2, 10, planes, 15), f"{name}: encode gives {digits.shape} for {planes} device columns of a weight"
    assert len(code.alpha) == planes, f"{name}: alpha has {len(code.alpha)} entries for {planes} device columns of a weight"
    top, slack = (levels or 2) - 1, 0.0 if whole else 1e-9
    for what, some in (("a digit", digits), ("reference_digit", np.array([code.reference_digit] if has_units(target) else []))):
        assert ((some >= -slack) & (some <= top + slack)).all(), f"{name}: {what} lies outside 0 to {top}"
        assert not (whole and levels) or (some == np.rint(some)).all(), f"{name}: {what} is no level"
    assert has_units(target) or not code.unit, f"{name}: unit is {code.unit}, and there is no unit column nor reference"
    assert np.allclose(code.decode(digits), steps, rtol=0, atol=1e-9 * code.full), f"{name}: decode(encode(w)) is not w"
    one = code.encode(steps[:1, 3:4])
    assert np.array_equal(one, digits[:1, 3:4]), f"{name}: the digits of a weight depend on other weights"
    signs = code.transposed_signs
    if signs is not None:
        assert len(signs) == planes, f"{name}: transposed_signs has {len(signs)} entries for {planes} device columns of a weight"
        read = np.tensordot(digits, np.asarray(signs), (2, 0)) - code.shift
        assert np.allclose(read, steps, rtol=0, atol=1e-9 * code.full), f"{name}: a transposed read gives other weights"
