"""ONNX's own losses over classes (axis 1), for models that compute their loss."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def _targets(r: Rule) -> tuple[Term, Term]:
    """Gradient of the loss by minus the log-probabilities, and the share of each sample in it.

    The first is ``[N, C, …]``, the share for the true class and zero elsewhere. The second is ``[N, 1, …]``, or a scalar where
    all samples count alike.
    """
    labels, reduction = r.arg(1).cast(ir.DataType.INT64), r.str_attr("reduction", "mean")
    weight = r.optional(2)
    if weight is None and "ignore_index" not in r.node.attributes:
        share = r.dy / r.size(r.arg(1)).cast(r.dtype) if reduction == "mean" else r.dy
        samples = reduction == "none"
    else:
        counted = r.expand(r.scalar(1.0), r.arg(1))
        if "ignore_index" in r.node.attributes:
            ignored = r.op("Equal", labels, r.constant(r.int_attr("ignore_index", 0), ir.DataType.INT64))
            counted = r.where(ignored, 0, 1)
            labels = r.op("Where", ignored, r.constant(0, ir.DataType.INT64), labels)
        if weight is not None:
            counted = counted * r.op("Gather", weight, labels)
        share = counted * (r.dy / r.op("ReduceSum", counted, keepdims=0) if reduction == "mean" else r.dy)
        samples = True
    onehot = r.op("OneHot", labels, r.shape(r.x, 1, 2), r.ints([0, 1]), axis=1).cast(r.dtype)
    if samples:
        share = r.op("Unsqueeze", share, r.ints([1]))
    return onehot * share, share


@gradient("NegativeLogLikelihoodLoss")
def _nll(r: Rule) -> Sequence[Term]:
    return [-_targets(r)[0]]


@gradient("SoftmaxCrossEntropyLoss")
def _softmax_cross_entropy(r: Rule) -> Sequence[Term]:
    """dx = softmax(x)·w - onehot·w, w the share of each sample in the loss."""
    targets, share = _targets(r)
    dx = r.op("Softmax", r.x, axis=1) * share - targets
    if len(r.grads) > 1 and r.grads[1] is not None:
        log_grad = r.grads[1]
        dx = dx + log_grad - r.op("Softmax", r.x, axis=1) * log_grad.sum([1])
    return [dx]
