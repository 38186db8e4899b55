"""ONNX's own losses over classes (axis 1), for models that compute their loss."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def _targets(r: Rule) -> Term:
    """``[N, C, …]``: gradient of the loss by minus the log-probability of the true class, and zero elsewhere."""
    labels = r.arg(1).cast(ir.DataType.INT64)
    counted = r.expand(r.scalar(1.0), r.arg(1))
    if "ignore_index" in r.node.attributes:
        ignored = r.op("Equal", labels, r.constant(r.int_attr("ignore_index", 0), ir.DataType.INT64))
        counted = r.where(ignored, 0, 1)
        labels = r.op("Where", ignored, r.constant(0, ir.DataType.INT64), labels)
    weight = r.optional(2)
    if weight is not None:
        counted = counted * r.op("Gather", weight, labels)
    classes = r.shape(r.x, 1, 2)
    onehot = r.op("OneHot", labels, classes, r.ints([0, 1]), axis=1).cast(r.dtype)
    reduction = r.str_attr("reduction", "mean")
    share = counted * r.dy if reduction != "mean" else counted * (r.dy / r.op("ReduceSum", counted, keepdims=0))
    return onehot * r.op("Unsqueeze", share, r.ints([1]))


@gradient("NegativeLogLikelihoodLoss")
def _nll(r: Rule) -> Sequence[Term]:
    return [-_targets(r)]


@gradient("SoftmaxCrossEntropyLoss")
def _softmax_cross_entropy(r: Rule) -> Sequence[Term]:
    """dx = softmax(x)·w - onehot·w, w the share of each sample in the loss."""
    targets = _targets(r)
    dx = r.op("Softmax", r.x, axis=1) * targets.sum([1]) - targets
    if len(r.grads) > 1 and r.grads[1] is not None:
        log_grad = r.grads[1]
        dx = dx + log_grad - r.op("Softmax", r.x, axis=1) * log_grad.sum([1])
    return [dx]
