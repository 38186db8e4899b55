"""Runs passes one after the other: the same for compilation, the training step and the export of an image."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cimc.ir.verify import verify
from cimc.passes.base import Compilation, Pass

#: Sees each pass when it is done: its name, seconds, whether it changed anything, the state.
OnPass = Callable[[str, float, bool, Compilation], None]
#: Names in the log line of a pass.
_SHOWN = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassManager:
    """Passes with their options, in their order.

    Args:
        passes: The contract of each is checked, always.
        verify: Check all rules of the program after each pass too.
    """

    passes: Sequence[Pass]
    verify: bool = False

    def run(self, state: Compilation, *, stop_after: str | None = None, on_pass: OnPass | None = None) -> Compilation:
        """Run the passes on a compilation, which is changed.

        Args:
            state: Changed in place, and returned.
            stop_after: Name of the last pass to run; None: all run.
            on_pass: Called after each pass.

        Raises:
            CimcError: A pass refuses what it is given.
            VerifyError: A pass broke its promise, or a rule of the program.
        """
        for step in self.passes:
            begin = time.perf_counter()
            step.requires(state)
            changed = step.call(state)
            step.ensures(state)
            if self.verify and state.program is not None:
                verify(state.program)
            seconds = time.perf_counter() - begin
            log.info("%s: %s", step.name, _summary(changed) if changed else _nothing(step.unchanged(state)))
            if on_pass is not None:
                on_pass(step.name, seconds, bool(changed), state)
            if step.name == stop_after:
                break
        return state


def _summary(changed: Sequence[str]) -> str:
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"changed {', '.join(changed[:_SHOWN])}{more}"


def _nothing(why: str) -> str:
    return f"nothing changed: {why}" if why else "nothing changed"
