"""The registry of gradient rules: one function an operator, found by domain and operator type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from cimc.errors import ModelError
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.tape import describe
from cimc.passes.gradients.term import Term

GradientRule = Callable[[Rule], Sequence[Term | None]]

_RULES: dict[tuple[str, str], GradientRule] = {}


def gradient(*operators: str, domain: str = "") -> Callable[[GradientRule], GradientRule]:
    """Register a rule for operators.

    A rule takes a `Rule` (the forward node, its values, the gradients of its outputs) and returns the gradients of the
    inputs in their order: None where none flows, and a short list where the rest is None. A gradient has the shape and
    type of its input. Rules write opset `survey.OPSET`.
    """

    def register(rule: GradientRule) -> GradientRule:
        for operator in operators:
            if (domain, operator) in _RULES:
                raise RuntimeError(f"two gradient rules for {domain}::{operator}")
            _RULES[domain, operator] = rule
        return rule

    return register


def registered(domain: str = "") -> list[str]:
    """Operators of a domain that have a rule."""
    return sorted(operator for where, operator in _RULES if where == domain)


def has_rule(node: ir.Node) -> bool:
    return _key(node) in _RULES


def _key(node: ir.Node) -> tuple[str, str]:
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type


def rule_for(node: ir.Node) -> GradientRule:
    """The rule of a node. Raises ModelError, which names node and operator, if there is none."""
    rule = _RULES.get(_key(node))
    if rule is None:
        raise ModelError(
            f"operator {node.op_type} has no gradient rule, and parameters before it are to be trained",
            where=describe(node),
            fix="freeze the layers before it, or export the model with this operator written as simpler ones",
        )
    return rule
