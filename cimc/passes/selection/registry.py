"""The selection rules: one small function for each operator that may go to crossbars, one file a family."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import onnx_ir as ir

from cimc.passes import selection
from cimc.passes.selection.site import Site

Rewrite = Callable[[ir.Node, Site], Sequence[ir.Value | None]]


@dataclass(frozen=True)
class Rule:
    """How one operator goes to crossbars.

    ``rewrite`` returns the values that stand for the node's outputs, or raises `StaysDigital` with the reason.
    """

    op_type: str
    weights: tuple[int, ...]
    """Inputs that may be the weight."""
    rewrite: Rewrite


_rules: dict[str, Rule] = {}


def rule(*op_types: str, weights: tuple[int, ...]) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite for ONNX operators."""

    def register(rewrite: Rewrite) -> Rewrite:
        for op_type in op_types:
            _rules[op_type] = Rule(op_type, weights, rewrite)
        return rewrite

    return register


@cache
def rules() -> MappingProxyType[str, Rule]:
    """All rules by operator; every module of this package is asked for its own."""
    for module in pkgutil.iter_modules(selection.__path__):
        importlib.import_module(f"{selection.__name__}.{module.name}")
    return MappingProxyType(_rules)


def weight_slots(node: ir.Node) -> tuple[int, ...]:
    """Inputs of a node that may be the weight of crossbars."""
    found = rules().get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return found.weights if found else ()
