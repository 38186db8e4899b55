"""The pass manager: contracts are always checked, and what changed is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from cimc.errors import CimcError, VerifyError
from cimc.passes.base import Compilation, Pass
from cimc.passes.manager import PassManager
from cimc.passes.place import Place
from cimc.pipeline import PASS_NAMES, pipeline
from tests.ir.crossbar_programs import ALL, BULK, LENET, chain


@dataclass(frozen=True)
class Rename(Pass):
    """Gives the graph a name."""

    wish: str = "new"
    kept: bool = True

    name: ClassVar[str] = "rename"

    def requires(self, state: Compilation) -> None:
        if not self.wish:
            raise CimcError("no name")

    def call(self, state: Compilation) -> Sequence[str]:
        changed = [] if state.model.graph.name == self.wish else [self.wish]
        state.model.graph.name = self.wish if self.kept else "other"
        return changed

    def ensures(self, state: Compilation) -> None:
        if state.model.graph.name != self.wish:
            raise VerifyError("another name")


def _state() -> Compilation:
    program = chain(BULK, LENET)
    return Compilation(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), BULK, program)


def test_each_pass_is_told_of_with_what_it_changed() -> None:
    seen: list[tuple[str, bool, str | None]] = []

    def on_pass(name: str, seconds: float, changed: bool, state: Compilation) -> None:
        assert seconds >= 0
        seen.append((name, changed, state.model.graph.name))

    PassManager((Rename("a"), Rename("a"), Rename("b"))).run(_state(), on_pass=on_pass)
    assert seen == [("rename", True, "a"), ("rename", False, "a"), ("rename", True, "b")]


def test_conditions_are_checked_without_being_asked_for() -> None:
    with pytest.raises(CimcError, match="no name"):
        PassManager([Rename("")]).run(_state())
    with pytest.raises(VerifyError, match="another name"):
        PassManager([Rename(kept=False)]).run(_state())


def test_the_log_names_what_changed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cimc"):
        PassManager((Rename("a"), Rename("a"))).run(_state())
    assert caplog.messages == ["rename: changed a", "rename: nothing changed"]


def test_the_passes_after_stop_after_do_not_run() -> None:
    state = PassManager([kind() for kind in ALL]).run(_state(), stop_after="tile")
    assert all((table[:, 3:] == -1).all() for name, table in state.need_program().tensors.items() if name.startswith("blocks/"))


def test_a_pass_tells_only_of_what_it_changed() -> None:
    """Placed again as it is, no layer changes; with copies of one layer, that one does."""
    state = PassManager([kind() for kind in ALL]).run(_state())
    placed = state.program
    assert Place().call(state) == []
    assert state.program is placed
    assert "conv1" in Place(copies={"conv1": 2}).call(state)


def test_options_are_fields() -> None:
    """So that a pass prints with its options, and two of the same options are equal."""
    assert repr(Place(chips=3)) == "Place(chips=3, copies={}, only_known=False)"
    assert pipeline(chips=3)[PASS_NAMES.index("place")] == Place(chips=3)
    with pytest.raises(AttributeError):
        Place().chips = 2  # type: ignore[misc]
