"""Products of two activations: MatMul in all its broadcasting forms, and Gemm."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Dim, Term


def transposed(term: Term, rank: int) -> Term:
    """The last two axes swapped."""
    return term.rule.op("Transpose", term, perm=[*range(rank - 2), rank - 1, rank - 2])


def _promoted(r: Rule) -> tuple[Term, Term, Term, tuple[Dim, ...], tuple[Dim, ...]]:
    """Both factors and dy as (stacks of) matrices, with the static shapes of the factors: vectors get an axis of one."""
    a, b, dy = r.x, r.arg(1), r.dy
    rows, columns = a.rank == 1, b.rank == 1
    left, right = a.dims or (), b.dims or ()
    if rows:
        a, left = r.op("Unsqueeze", a, r.ints([0])), (1, *left)
    if columns:
        b, right = r.op("Unsqueeze", b, r.ints([1])), (*right, 1)
    axes = [-2] * (rows and not columns) + [-1] * (columns and not rows) + [0, 1] * (rows and columns)
    return a, b, r.op("Unsqueeze", dy, r.ints(axes)) if axes else dy, left, right


@gradient("MatMul")
def _matmul(r: Rule) -> Sequence[Term]:
    """dA = dY·Bᵀ and dB = Aᵀ·dY, summed over the stack axes along which a factor was repeated."""
    a, b, dy, left, right = _promoted(r)
    batch = max(len(left), len(right)) - 2
    product = r.op("MatMul", dy, transposed(b, len(right)))
    da = _unstacked(r, product, 0, left, batch)
    if len(right) == 2:
        # One matrix for the whole stack: one product over all rows, not one a member and a sum.
        if len(left) > 2:
            a, dy = (r.op("Reshape", t, r.op("Concat", r.ints([-1]), r.shape(t, -1), axis=0)) for t in (a, dy))
        db = r.op("Gemm", a, dy, transA=1)
        return [da, r.reshape(db, r.arg(1)) if r.arg(1).rank == 1 else db]
    return [da, _unstacked(r, r.op("MatMul", transposed(a, len(left)), dy), 1, right, batch)]


def _unstacked(r: Rule, product: Term, index: int, dims: Sequence[Dim], batch: int) -> Term:
    """Gradient of factor ``index`` from a product with the stack axes of the result."""
    factor = r.arg(index)
    if factor.rank == 1:
        flat = product.sum(range(batch), keepdims=False)
        return r.reshape(flat, factor)
    stack = [None] * batch if r.y.dims is None else r.y.dims[:batch]
    return r.sum_to(product, factor, (*stack, *dims[-2:]))


@gradient("Gemm")
def _gemm(r: Rule) -> Sequence[Term | None]:
    """Y = α·A'·B' + β·C, where A' and B' may be transposed."""
    a, b, c, dy = r.x, r.arg(1), r.optional(2), r.dy
    alpha, ta, tb = r.float_attr("alpha", 1.0), r.int_attr("transA", 0), r.int_attr("transB", 0)
    da = r.op("Gemm", b, dy, alpha=alpha, transA=tb, transB=1) if ta else r.op("Gemm", dy, b, alpha=alpha, transB=1 - tb)
    db = r.op("Gemm", dy, a, alpha=alpha, transA=1, transB=ta) if tb else r.op("Gemm", a, dy, alpha=alpha, transA=1 - ta)
    if c is None:
        return [da, db]
    beta = r.float_attr("beta", 1.0)
    dc = r.sum_to(dy, c)
    return [da, db, dc if beta == 1 else dc * beta]
