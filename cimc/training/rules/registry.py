"""Update rules by name."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.write import Writes
from cimc.targets.description import Target
from cimc.training.accumulator import LayerState
from cimc.training.optimizers import Optimizer
from cimc.training.registry import chosen, made
from cimc.training.rules.naive import Naive
from cimc.training.rules.residual import Residual
from cimc.training.rules.threshold import Threshold


class Rule(Protocol):
    """Made of a target; changes a layer's state and its devices."""

    @property
    def stateless(self) -> bool:
        """Whether nothing of higher precision than the devices may be kept between steps, by an optimizer neither."""

    def begin(self, state: LayerState) -> None:
        """Prepare a new state, once, before the first step."""

    def writer(
        self, state: LayerState, g_us: NDArray[np.float32], seed: int, keys: Keys | None = None, devices: State | None = None
    ) -> Any:
        """What `apply` writes with: arguments as of `cimc.runtime.write.DeviceState`."""

    def apply(self, state: LayerState, change: NDArray[np.float32], writer: Any) -> Writes:
        """Take in one optimizer step of the layer. Call `Crossbar.written` after."""


RULES: dict[str, type[Any]] = {"threshold": Threshold, "residual": Residual, "naive": Naive}


def create(target: Target, name: str | None = None, **options: Any) -> Rule:
    """The rule of that name; None: the target's ``update.rule``.

    Raises:
        CimcError: No such rule or option.
        TargetError: The target cannot train by this rule.
    """
    rule: Rule = made(
        chosen(RULES, target.update.rule if name is None else name, "update rule"), "update rule", (target,), options
    )
    return rule


def check(rule: Rule, optimizer: Optimizer) -> None:
    """See that nothing is kept between steps that the rule does without.

    Raises:
        CimcError: The rule is stateless, the optimizer is not.
    """
    if rule.stateless and not optimizer.stateless:
        own, other = (type(part).__name__.lower() for part in (rule, optimizer))
        raise CimcError(
            f"{own} updates keep nothing of higher precision than the devices, and {other} sums gradients in FP32",
            fix="--optimizer sgd, or --update threshold",
        )
