"""Einsum of an activation and a constant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from cimc.passes.selection.contraction import contract
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("Einsum", weights=(0, 1))
def einsum(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """Two operands, one of them constant; an ellipsis stands for as many axes as the ranks leave."""
    if len(node.inputs) != 2:
        raise StaysDigital(f"an Einsum of {len(node.inputs)} operands is no single product")
    slot, weight = site.constant_side(node)
    x = node.inputs[1 - slot]
    if x is None:
        raise StaysDigital("it has no input")
    equation = (node.attributes.get_string("equation") or "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    sides = terms.split(",")
    if len(sides) != 2:
        raise StaysDigital(f"its equation '{equation}' has not two terms")
    ranks = [0, 0]
    ranks[slot], ranks[1 - slot] = len(weight.axes), len(site.dims(x))
    labels = [_expand(term, rank) for term, rank in zip(sides, ranks, strict=True)]
    ellipsis = sorted({label for side in labels for label in side if label.startswith(".")}, key=lambda label: -int(label[1:]))
    if arrow:
        head, dots, tail = result.partition("...")
        output = [*head, *(ellipsis if dots else []), *tail]
    else:
        counts = Counter(label for side in labels for label in side)
        output = ellipsis + sorted(label for label, count in counts.items() if count == 1 and not label.startswith("."))
    return [contract(site, x, labels[1 - slot], weight, labels[slot], output)]


def _expand(term: str, rank: int) -> list[str]:
    """Labels of one term; axes of the ellipsis are ``.1``, ``.2`` ... from the right, so that they broadcast.

    Raises:
        StaysDigital: The term has more labels than axes.
    """
    head, dots, tail = term.partition("...")
    missing = rank - len(head) - len(tail)
    if missing < 0 or (missing and not dots):
        raise StaysDigital(f"its term '{term}' does not fit an operand of rank {rank}")
    return [*head, *(f".{i}" for i in range(missing, 0, -1)), *tail]
