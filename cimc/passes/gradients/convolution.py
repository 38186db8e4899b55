"""Conv and ConvTranspose of any rank, group, stride and dilation: each is the other's transpose."""

from __future__ import annotations

from collections.abc import Sequence

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term
from cimc.passes.gradients.windows import Window, fitted, window_of


@gradient("Conv")
def _conv(r: Rule) -> Sequence[Term | None]:
    weight, group = r.arg(1), r.int_attr("group", 1)
    window = window_of(r, weight.static("the kernel", 2), r.x, r.y)
    dx = fitted(r, r.dy, weight, window, r.x, r.y, group) if r.needs(0) else None
    return [dx, _weight_gradient(r, r.x, r.dy, window, group), _bias_gradient(r)]


@gradient("ConvTranspose")
def _conv_transpose(r: Rule) -> Sequence[Term | None]:
    weight, group = r.arg(1), r.int_attr("group", 1)
    window = _transposed_window(r, weight.static("the kernel", 2))
    dx = r.op(
        "Conv", r.dy, weight, strides=window.strides, dilations=window.dilations, group=group,
        kernel_shape=window.kernel, pads=[*window.begin, *window.end],
    )  # fmt: skip
    return [_cropped(r, dx, r.x, 2), _weight_gradient(r, r.dy, r.x, window, group), _bias_gradient(r)]


def _bias_gradient(r: Rule) -> Term:
    return r.dy.sum([0, *range(2, r.arg(1).rank)], keepdims=False)


def _cropped(r: Rule, term: Term, like: Term, start: int) -> Term:
    """Drop what lies beyond ``like`` at the end of the axes from ``start`` on."""
    axes = range(start, like.rank)
    return r.op("Slice", term, r.ints([0] * len(axes)), r.shape(like, start), r.ints(axes))


def _transposed_window(r: Rule, kernel: Sequence[int]) -> Window:
    """Window of the convolution that the node transposes; ``output_shape`` or SAME fix the pads from the sizes."""
    if "output_shape" not in r.node.attributes and not r.str_attr("auto_pad", "NOTSET").startswith("SAME"):
        return window_of(r, kernel, r.y, r.x)
    mode, axes = r.str_attr("auto_pad", "NOTSET"), len(kernel)
    strides, dilations = r.ints_attr("strides", [1] * axes), r.ints_attr("dilations", [1] * axes)
    plain = Window(tuple(kernel), strides, dilations, (0,) * axes, (0,) * axes)
    extra = r.ints_attr("output_padding", [0] * axes)
    sizes = zip(r.x.static("output_shape", 2), r.y.static("output_shape", 2), strides, plain.extents, extra, strict=True)
    total = [max(0, s * (small - 1) + o + e - large) for small, large, s, e, o in sizes]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    begin, end = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Window(plain.kernel, strides, dilations, begin, end)


def _weight_gradient(r: Rule, wide: Term, narrow: Term, window: Window, group: int) -> Term:
    """dW[o, i, k] = Σ wide[n, i, p·stride + k·dilation - pad]·narrow[n, o, p]: a convolution of ``wide`` by ``narrow``.

    Batch and channels change places, strides and dilations too; each group keeps to itself by standing beside the batch.
    """
    rank = len(window.kernel) + 2
    swap = [1, 0, *range(2, rank)]
    result = r.op(
        "Conv", _by_group(r, wide, group, rank), r.op("Transpose", narrow, perm=swap), group=group,
        strides=window.dilations, dilations=window.strides, pads=[*window.begin, *window.end],
    )  # fmt: skip
    return _cropped(r, r.op("Transpose", result, perm=swap), r.arg(1), 2)


def _by_group(r: Rule, term: Term, group: int, rank: int) -> Term:
    """``[N, G·C, …]`` to ``[C, G·N, …]``."""
    if group == 1:
        return r.op("Transpose", term, perm=[1, 0, *range(2, rank)])
    sizes = r.shape(term, 2)
    split = r.op("Reshape", term, r.op("Concat", r.shape(term, 0, 1), r.ints([group, -1]), sizes, axis=0))
    moved = r.op("Transpose", split, perm=[2, 1, 0, *range(3, rank + 1)])
    channels = r.op("Div", r.shape(term, 1, 2), r.ints([group]))
    return r.op("Reshape", moved, r.op("Concat", channels, r.ints([-1]), sizes, axis=0))
