"""Normalisations: all are x̂ = (x - mean)/√(mean square + ε) over some axes, then a scale and an offset."""

from __future__ import annotations

from collections.abc import Sequence

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


@gradient("LayerNormalization", "RMSNormalization")
def _layer(r: Rule) -> Sequence[Term | None]:
    """Over the last axes; the scale has their shape, or broadcasts to it."""
    rank, scale, offset = r.x.rank, r.arg(1), r.optional(2)
    axes = range(r.int_attr("axis", -1) % rank, rank)
    dx, xhat = normalised(r, r.x, r.dy * scale, axes, centred=r.node.op_type == "LayerNormalization")
    return [dx, r.sum_to(r.dy * xhat, scale), None if offset is None else r.sum_to(r.dy, offset)]
