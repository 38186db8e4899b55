"""Einsum: the gradient of an operand is an Einsum of the output's gradient and the other operands."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def _parse(r: Rule) -> tuple[list[str], str]:
    equation = r.str_attr("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if "." in equation or any(len(set(t)) != len(t) for t in terms):
        r.refuse(f"equation '{equation}' has an ellipsis or an index twice in one operand", "spell the indices out, once each")
    if not arrow:
        right = "".join(sorted(i for i in set(left) - {","} if left.count(i) == 1))
    return terms, right


@gradient("Einsum")
def _einsum(r: Rule) -> Sequence[Term]:
    terms, result = _parse(r)
    return [_operand(r, terms, result, i) for i in range(len(terms))]


def _operand(r: Rule, terms: Sequence[str], result: str, index: int) -> Term:
    """Indices of the operand that nothing else carries were summed alone: the gradient is the same along them."""
    others = [(t, r.arg(i)) for i, t in enumerate(terms) if i != index]
    wanted, carried = terms[index], set(result).union(*(t for t, _ in others))
    kept = "".join(i for i in wanted if i in carried)
    equation = ",".join([result, *(t for t, _ in others)]) + "->" + kept
    product = r.op("Einsum", r.dy, *(t for _, t in others), equation=equation)
    missing = [axis for axis, i in enumerate(wanted) if i not in carried]
    if not missing:
        return product
    return r.expand(r.op("Unsqueeze", product, r.ints(missing)), r.arg(index))
