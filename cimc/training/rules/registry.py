"""Update rules by name."""

from __future__ import annotations

from typing import Any

from cimc.errors import CimcError
from cimc.targets.description import Target
from cimc.targets.kinds import kinds_of, model_class, section_class
from cimc.training.optimizers import Optimizer
from cimc.training.registry import chosen, made
from cimc.training.rules.naive import Naive
from cimc.training.rules.pulsed import Pulsed
from cimc.training.rules.residual import Residual
from cimc.training.rules.residual_arrays import ResidualArrays
from cimc.training.rules.rule import Rule
from cimc.training.rules.threshold import Threshold
from cimc.training.rules.tiki_taka import TikiTaka
from cimc.training.rules.ttv2 import Ttv2

RULES: dict[str, type[Any]] = {
    "threshold": Threshold, "residual": Residual, "naive": Naive, "pulsed": Pulsed, "tiki_taka": TikiTaka, "ttv2": Ttv2,
    "residual_arrays": ResidualArrays,
}  # fmt: skip


def create(target: Target, name: str | None = None, **options: Any) -> Rule:
    """The rule of that name; None: the target's ``update.rule``.

    Raises:
        CimcError: No such rule or option, or the program was not compiled for the rule's arrays.
        TargetError: The target cannot train by this rule.
    """
    wanted = target.update.rule if name is None else name
    known = {kind: RULES.get(kind) for kind in kinds_of("update_rule")}
    cls = chosen(known, wanted, "update rule") or model_class("update_rule", wanted)
    if wanted != target.update.rule and (
        target.update.shares or not isinstance(target.update, section_class("update_rule", wanted))
    ):
        raise CimcError(
            f"the chip was made for {target.update.rule} updates, and {wanted} updates have other arrays or settings",
            where="update",
            fix=f"compile with --set update.rule={wanted}",
        )
    rule: Rule = made(cls, "update rule", (target,), options)
    return rule


def check(rule: Rule, optimizer: Optimizer) -> None:
    """See that nothing is kept between steps that the rule does without.

    Raises:
        CimcError: The rule is stateless, the optimizer is not, or decays weights that the rule changes without it.
    """
    own, other = (type(part).__name__.lower() for part in (rule, optimizer))
    if rule.stateless and not optimizer.stateless:
        what = f"{own} updates keep nothing of higher precision than the devices, and {other} sums gradients in FP32"
        raise CimcError(what, fix="--optimizer sgd, or --update threshold")
    if rule.takes == "vectors" and float(getattr(optimizer, "weight_decay", 0)) > 0:
        raise CimcError(f"{own} updates are pulses for inputs and gradients, which no weight decay reaches", fix="weight_decay 0")
