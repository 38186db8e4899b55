"""Einsum: the gradient of an operand is an Einsum of the output's gradient and the other operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Dim, Term

_DOTS = "..."


@gradient("Einsum")
def _einsum(r: Rule) -> Sequence[Term]:
    terms, result, eyes = _parse(r)
    return [_operand(r, terms, result, eyes, i) for i in range(len(terms))]


def _parse(r: Rule) -> tuple[list[str], str, list[tuple[str, Term]]]:
    """Terms of one letter an axis, each once: axes of an ellipsis get letters, aligned at the right as they broadcast.

    A letter twice in a term gets another at its second place, and an identity matrix along the two joins the operands.
    """
    equation = r.str_attr("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = _DOTS * (_DOTS in left) + "".join(sorted(i for i in set(left) - {",", "."} if left.count(i) == 1))
    free = iter([letter for letter in ascii_letters if letter not in equation])
    dots = [r.arg(i).rank - len(t) + len(_DOTS) if _DOTS in t else 0 for i, t in enumerate(terms)]
    batch = "".join(next(free) for _ in range(max(dots)))
    terms = [t.replace(_DOTS, batch[len(batch) - n :]) for t, n in zip(terms, dots, strict=True)]
    eyes: list[tuple[str, Term]] = []
    terms = [_once(r, term, index, free, eyes) for index, term in enumerate(terms)]
    return terms, right.replace(_DOTS, batch), eyes


def _once(r: Rule, term: str, index: int, free: Iterator[str], eyes: list[tuple[str, Term]]) -> str:
    done = ""
    for axis, letter in enumerate(term):
        if letter in done:
            other = next(free)
            size = r.shape(r.arg(index), axis, axis + 1 if axis + 1 < len(term) else None)
            zeros = r.op("ConstantOfShape", r.op("Concat", size, size, axis=0), value=ir.tensor(np.zeros(1, r.dtype.numpy())))
            eyes.append((letter + other, r.op("EyeLike", zeros)))
            letter = other
        done += letter
    return done


def _operand(r: Rule, terms: Sequence[str], result: str, eyes: Sequence[tuple[str, Term]], index: int) -> Term:
    """Indices of the operand that nothing else carries were summed alone: the gradient is the same along them."""
    others = [(t, r.arg(i)) for i, t in enumerate(terms) if i != index] + [*eyes]
    wanted, carried = terms[index], set(result).union(*(t for t, _ in others))
    kept = "".join(i for i in wanted if i in carried)
    equation = ",".join([result, *(t for t, _ in others)]) + "->" + kept
    product = r.op("Einsum", r.dy, *(t for _, t in others), equation=equation)
    missing = [axis for axis, i in enumerate(wanted) if i not in carried]
    if missing:
        product = r.expand(r.op("Unsqueeze", product, r.ints(missing)), r.arg(index))
    if _DOTS not in r.str_attr("equation", ""):
        return product
    return r.sum_to(product, r.arg(index), [_size(r, terms, i) for i in wanted])


def _size(r: Rule, terms: Sequence[str], letter: str) -> Dim:
    """Of an index over all operands: an axis of one broadcasts, and an open one may turn out to be one."""
    sizes = {(r.arg(i).dims or (None,) * len(t))[t.index(letter)] for i, t in enumerate(terms) if letter in t} - {1}
    numbers = [size for size in sizes if isinstance(size, int)]
    return numbers[0] if numbers else 1 if not sizes else sizes.pop() if len(sizes) == 1 else None
