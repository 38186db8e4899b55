"""Normalisations: by mean and variance, x̂ = (x - mean)/√(mean square + ε) over some axes, then a scale and an offset; by a norm;
by near channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def normalised(r: Rule, x: Term, dxhat: Term, axes: Sequence[int], centred: bool = True) -> tuple[Term, Term]:
    """Gradient of x, and x̂, given the gradient of x̂.

    dx = (dx̂ - mean(dx̂) - x̂·mean(dx̂·x̂))/σ over ``axes``; without the first mean where x̂ is not centred.
    """
    centre = x - x.mean(axes) if centred else x
    variance = (centre * centre).mean(axes)
    inverse = r.op("Reciprocal", r.op("Sqrt", variance + r.float_attr("epsilon", 1e-5)))
    xhat = centre * inverse
    inner = dxhat - xhat * (dxhat * xhat).mean(axes)
    return inverse * (inner - dxhat.mean(axes) if centred else inner), xhat


def _channelwise(r: Rule, vector: Term) -> Term:
    """A vector, one entry a channel, to stand along axis 1."""
    return r.op("Reshape", vector, r.ints([-1, *[1] * (r.x.rank - 2)]))


def _affine(r: Rule, dx: Term, xhat: Term) -> Sequence[Term]:
    """Gradients of x, of a scale and an offset one a channel."""
    others = [0, *range(2, r.x.rank)]
    return [dx, (r.dy * xhat).sum(others, keepdims=False), r.dy.sum(others, keepdims=False)]


@gradient("BatchNormalization")
def _batch(r: Rule) -> Sequence[Term]:
    """Training mode: statistics of the batch, which depend on x. Otherwise the running ones, which are constants."""
    dxhat = r.dy * _channelwise(r, r.arg(1))
    if r.int_attr("training_mode", 0):
        return _affine(r, *normalised(r, r.x, dxhat, [0, *range(2, r.x.rank)]))
    mean, variance = _channelwise(r, r.arg(3)), _channelwise(r, r.arg(4))
    inverse = r.op("Reciprocal", r.op("Sqrt", variance + r.float_attr("epsilon", 1e-5)))
    return _affine(r, dxhat * inverse, (r.x - mean) * inverse)


@gradient("InstanceNormalization")
def _instance(r: Rule) -> Sequence[Term]:
    return _affine(r, *normalised(r, r.x, r.dy * _channelwise(r, r.arg(1)), range(2, r.x.rank)))


@gradient("GroupNormalization")
def _group(r: Rule) -> Sequence[Term]:
    grouped = r.ints([0, r.int_attr("num_groups", 1), -1])
    dxhat = r.op("Reshape", r.dy * _channelwise(r, r.arg(1)), grouped)
    dx, xhat = normalised(r, r.op("Reshape", r.x, grouped), dxhat, [2])
    return _affine(r, r.reshape(dx, r.x), r.reshape(xhat, r.x))


@gradient("LpNormalization")
def _lp(r: Rule) -> Sequence[Term]:
    """y = x/n along an axis: dx = (dy - ∂n/∂x·Σ dy·y)/n, where ∂n/∂x is y, or the sign of x where n is a sum of magnitudes.

    Of a vector of zeros, as ReLUs leave them, y is zero and has no slope; its gradient is zero.
    """
    axis, first = [r.int_attr("axis", -1)], r.int_attr("p", 2) == 1
    norm = r.op("Abs", r.x).sum(axis) if first else r.op("Sqrt", (r.x * r.x).sum(axis))
    slope = r.op("Sign", r.x) if first else r.y
    return [(r.dy - slope * (r.dy * r.y).sum(axis)) / r.where(norm.equals(0), inf, norm)]


@gradient("LRN")
def _lrn(r: Rule) -> Sequence[Term]:
    """y = x·d^-β with d = bias + α·mean of x² over near channels: dx = dy·d^-β - 2αβ·x·(mean, reversed, of dy·y/d)."""
    alpha, beta = r.float_attr("alpha", 1e-4), r.float_attr("beta", 0.75)
    size = r.int_attr("size", 1)
    below, above = (size - 1) // 2, size - 1 - (size - 1) // 2
    # Channels as the height of a picture: a window over them is a pool.
    picture = r.op("Concat", r.shape(r.x, 0, 1), r.ints([1]), r.shape(r.x, 1, 2), r.ints([-1]), axis=0)

    def mean(term: Term, before: int, after: int) -> Term:
        pooled = r.op(
            "AveragePool", r.op("Reshape", term, picture), kernel_shape=[size, 1], pads=[before, 0, after, 0],
            count_include_pad=1,
        )  # fmt: skip
        return r.reshape(pooled, r.x)

    d = r.float_attr("bias", 1.0) + alpha * mean(r.x * r.x, below, above)
    return [r.dy * r.op("Pow", d, r.scalar(-beta)) - (2 * alpha * beta) * r.x * mean(r.dy * r.y / d, above, below)]


@gradient("LayerNormalization", "RMSNormalization")
def _layer(r: Rule) -> Sequence[Term | None]:
    """Over the last axes; the scale has their shape, or broadcasts to it."""
    rank, scale, offset = r.x.rank, r.arg(1), r.optional(2)
    axes = range(r.int_attr("axis", -1) % rank, rank)
    dx, xhat = normalised(r, r.x, r.dy * scale, axes, centred=r.node.op_type == "LayerNormalization")
    return [dx, r.sum_to(r.dy * xhat, scale), None if offset is None else r.sum_to(r.dy, offset)]
