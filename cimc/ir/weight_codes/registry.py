"""The weight code that a target names."""

from __future__ import annotations

from cimc.ir.weight_codes.code import WeightCode
from cimc.ir.weight_codes.offset import Offset
from cimc.ir.weight_codes.pair import DifferentialPair
from cimc.ir.weight_codes.rule_arrays import RuleArrays
from cimc.ir.weight_codes.shared_reference import SharedReference
from cimc.targets.description import Target
from cimc.targets.kinds import model_class

_CODES: dict[str, type[WeightCode]] = {
    "differential_pair": DifferentialPair,
    "offset": Offset,
    "shared_reference": SharedReference,
}


def weight_code(target: Target) -> WeightCode:
    """The code of a target's weights.

    Raises:
        TargetError: No such code is built in, registered or installed, or the cells of a weight cannot hold its bits.
    """
    if target.update.shares:
        return RuleArrays(target)
    name = target.weights.representation
    made: WeightCode = (_CODES.get(name) or model_class("weight_code", name))(target)
    return made
