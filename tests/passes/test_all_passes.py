"""What every pass has: options as fields, conditions, a reason where it changes nothing, a text test, a place in the order."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_origin, get_type_hints

import numpy as np
import pytest

import cimc.image
import cimc.passes
from cimc.compiler import open_model
from cimc.errors import CimcError, VerifyError
from cimc.ir.printer import print_program
from cimc.passes.base import Pass
from cimc.passes.keep_scales import KeepScales
from cimc.passes.manager import PassManager
from cimc.pipeline import PASS_NAMES, pipeline
from cimc.targets.load import load_target
from tests.passes.vmm_reference import parse

TESTS = Path(__file__).parent


def _all() -> list[type[Pass]]:
    """Every pass of the package, wherever it stands."""
    for package in (cimc.passes, cimc.image):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, todo = {}, [Pass]
    while todo:
        for kind in todo.pop().__subclasses__():
            todo.append(kind)
            if kind.__module__.startswith("cimc."):
                found[kind.name] = kind
    return list(found.values())


PASSES = _all()


def test_the_walk_finds_the_pipeline_and_the_passes_of_training_and_export() -> None:
    assert {kind.name for kind in PASSES} == {*PASS_NAMES, "differentiate", "inherit", "keep-scales"}


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_options_are_fields(kind: type[Pass]) -> None:
    fields = [hint for hint in get_type_hints(kind).values() if get_origin(hint) is not ClassVar]
    assert is_dataclass(kind) or not fields
    assert is_dataclass(kind) or "__init__" not in vars(kind)
    assert not is_dataclass(kind) or kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_conditions_are_stated(kind: type[Pass]) -> None:
    for method in ("requires", "ensures"):
        assert method in vars(kind), f"{kind.__name__} does not state what it {method}"
        assert vars(kind)[method].__doc__, f"{kind.__name__}.{method} has no docstring"
    assert kind.__doc__


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_each_has_a_text_test(kind: type[Pass]) -> None:
    path = TESTS / f"test_{kind.name.replace('-', '_')}.py"
    tree = ast.parse(path.read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "test_text" for node in tree.body), path


def test_each_pass_that_changes_nothing_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """All of a compilation on a model without products; `lower` makes the program."""
    model = parse("g (float[n,2] x) => (float[n,2] y) { [act] y = Relu (x) }")
    with caplog.at_level("INFO", "cimc"):
        cimc.compile(model, "ideal")
    said = {line.partition(":")[0]: line for line in caplog.messages if line.partition(":")[0] in PASS_NAMES}
    assert said.keys() == set(PASS_NAMES)
    nothing = {name for name, line in said.items() if ": nothing changed" in line}
    assert nothing == set(PASS_NAMES) - {"lower"}
    assert all(said[name].startswith(f"{name}: nothing changed: ") for name in nothing)


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_each_can_say_why_it_changed_nothing(kind: type[Pass]) -> None:
    """`differentiate` refuses instead: a step without a parameter that trains is an error."""
    assert "unchanged" in vars(kind) or kind.name == "differentiate"


# The order --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
#: A product for a crossbar, and an 8-bit one that `legalise` makes real.
MODEL = parse(
    """g (float[n,6] x, uint8[n,6] q) => (float[n,5] y, int32[n,4] z) {
    t = Transpose <perm = [1, 0]> (w)  [fc] y = MatMul (x, t)  [int] z = MatMulInteger (q, v) }""",
    w=RNG.standard_normal((5, 6)).astype(np.float32), v=RNG.integers(-9, 9, (6, 4)).astype(np.int8),
)  # fmt: skip
DATA: Any = {"x": RNG.uniform(0, 1, (8, 6)).astype(np.float32), "q": RNG.integers(0, 9, (8, 6)).astype(np.uint8)}


def _passes(keep: KeepScales | None = None) -> list[Pass]:
    return list(pipeline(calibration=DATA, keep=keep))


def _run(passes: Sequence[Pass], target: str = "bulk-rram-256") -> str:
    state, _ = open_model(MODEL, load_target(target))
    text = print_program(PassManager(passes, verify=True).run(state).need_program())
    return "\n".join(line for line in text.splitlines() if "tensor graph:" not in line)  # attributes of a node have an order


def _moved(passes: list[Pass], name: str, where: str, other: str) -> list[Pass]:
    """The passes with one of them directly before or after another."""
    one = next(step for step in passes if step.name == name)
    rest = [step for step in passes if step is not one]
    place = next(k for k, step in enumerate(rest) if step.name == other) + (where == "after")
    return [*rest[:place], one, *rest[place:]]


@pytest.mark.parametrize(
    ("name", "where", "other", "said"),
    [
        ("specialise", "after", "read-calibration", "calibration data are read already"),
        ("specialise", "after", "select", "products are on crossbars already"),
        ("read-calibration", "after", "calibrate", "inputs are calibrated already"),
        ("legalise", "after", "select", "products are on crossbars already"),
        ("tie", "after", "select", "products are on crossbars already"),
        ("untie", "after", "select", "products are on crossbars already"),
        ("fold", "after", "select", "products are on crossbars already"),
        ("unsigned", "before", "legalise", "not decided yet"),
        ("select", "after", "repeat", "not decided yet"),
        ("unsigned", "after", "lower", "lowered to a program already"),
        ("repeat", "before", "select", "not decided yet"),
        ("repeat", "after", "lower", "lowered to a program already"),
        ("calibrate", "before", "select", "not decided yet"),
        ("calibrate", "after", "lower", "none of its inputs were kept"),
        ("quantise", "before", "select", "not decided yet"),
        ("quantise", "after", "scales", "weight_max wants"),
        ("scales", "before", "quantise", "weight_max wants"),
        ("scales", "after", "lower", "lowered to a program already"),
        ("lower", "before", "select", "not decided yet"),
        ("tile", "before", "lower", "there is no program yet"),
        ("map", "before", "tile", "not cut to arrays yet"),
        ("ranges", "before", "tile", "not cut to arrays yet"),
        ("ranges", "before", "lower", "there is no program yet"),
        ("forecast", "before", "ranges", "it has no ADC range"),
        ("forecast", "before", "tile", "not cut to arrays yet"),
        ("place", "before", "map", "blocks have no shape yet"),
        ("schedule", "before", "lower", "there is no program yet"),
    ],
)
def test_the_manager_refuses_the_wrong_order(name: str, where: str, other: str, said: str) -> None:
    with pytest.raises(VerifyError, match=said):
        _run(_moved(_passes(), name, where, other))


def test_scales_are_kept_before_ranges_are_chosen() -> None:
    state, _ = open_model(MODEL, load_target("bulk-rram-256"))
    passes = _passes(KeepScales(PassManager(_passes()).run(state).need_program()))
    _run(passes)
    with pytest.raises(VerifyError, match="its ADC range is chosen already"):
        _run(_moved(passes, "keep-scales", "after", "ranges"))


def test_neighbours_in_another_order_are_refused_or_give_the_same_program() -> None:
    """No order is taken in silence that makes another program."""
    wanted, refused = _run(_passes()), set()
    for k in range(len(PASS_NAMES) - 1):
        swapped = _passes()
        swapped[k], swapped[k + 1] = swapped[k + 1], swapped[k]
        try:
            found = _run(swapped)
        except CimcError:
            refused.add(PASS_NAMES[k])
            continue
        assert found == wanted, f"{PASS_NAMES[k]} and {PASS_NAMES[k + 1]}"
    assert refused >= {"specialise", "fold", "quantise", "scales", "lower", "tile"}
