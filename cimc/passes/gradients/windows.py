"""Sliding windows, as convolutions and pools share them: attributes resolved, and the transpose of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


@dataclass(frozen=True)
class Window:
    """Window of a convolution or pool from ``wide`` (its input) to ``narrow`` (its output), one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Input positions from the first to the last tap."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def window_of(r: Rule, kernel: Sequence[int], wide: Term, narrow: Term) -> Window:
    """Resolve strides, dilations, pads and auto_pad of the rule's node.

    ``auto_pad`` SAME with strides needs the sizes of both sides.
    """
    axes = len(kernel)
    strides, dilations = r.ints_attr("strides", [1] * axes), r.ints_attr("dilations", [1] * axes)
    pads, mode = r.ints_attr("pads", [0] * (2 * axes)), r.str_attr("auto_pad", "NOTSET")
    window = Window(tuple(kernel), strides, dilations, pads[:axes], pads[axes:])
    if mode == "VALID":
        return Window(window.kernel, strides, dilations, (0,) * axes, (0,) * axes)
    if not mode.startswith("SAME"):
        return window
    if all(s == 1 for s in strides):
        total = [e - 1 for e in window.extents]
    else:
        sizes = zip(wide.static("auto_pad", 2), narrow.static("auto_pad", 2), strides, window.extents, strict=True)
        total = [max(0, (small - 1) * s + e - large) for large, small, s, e in sizes]
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    begin, end = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Window(window.kernel, strides, dilations, begin, end)


def spread(r: Rule, term: Term, weight: Term, window: Window, like: Term, group: int = 1) -> Term:
    """Transpose of the convolution with ``weight``: from the output side to the shape of ``like`` on the input side.

    The full transposed convolution is padded or cropped to ``like``: its input may have a rest that no window reaches, and
    with ceil_mode a window may leave it.
    """
    full = r.op(
        "ConvTranspose", term, weight, strides=window.strides, dilations=window.dilations, group=group,
        kernel_shape=window.kernel,
    )  # fmt: skip
    begin = r.ints([-p for p in window.begin])
    missing = r.op("Sub", r.shape(like, 2), r.op("Shape", full, start=2))
    end = r.op("Sub", missing, begin)
    none = r.ints([0, 0])
    return r.op("Pad", full, r.op("Concat", none, begin, none, end, axis=0))


def fitted(r: Rule, term: Term, weight: Term, window: Window, like: Term, narrow: Term, group: int = 1) -> Term:
    """`spread`, in one node where the sizes are known."""
    dims, small = (like.dims or ())[2:], (narrow.dims or ())[2:]
    rest = []
    for d, o, s, e, b, p in zip(dims, small, window.strides, window.extents, window.begin, window.end, strict=False):
        if isinstance(d, int) and isinstance(o, int):
            rest.append(d + b + p - ((o - 1) * s + e))
    if len(rest) != len(window.kernel):
        return spread(r, term, weight, window, like, group)
    end = [p - min(extra, 0) for p, extra in zip(window.end, rest, strict=True)]
    return r.op(
        "ConvTranspose", term, weight, strides=window.strides, dilations=window.dilations, group=group,
        kernel_shape=window.kernel, pads=[*window.begin, *end], output_padding=[max(extra, 0) for extra in rest],
    )  # fmt: skip


def coverage(r: Rule, window: Window, wide: Sequence[int], narrow: Sequence[int], include_pad: bool) -> Term:
    """How many taps of each window count: those on the input, or on input and pads. A constant ``[1, 1, *narrow]``."""
    total = np.ones((1, 1, *([1] * len(narrow))))
    for axis, (size, count) in enumerate(zip(wide, narrow, strict=True)):
        start = np.arange(count) * window.strides[axis] - window.begin[axis]
        taps = start[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        low, high = (-window.begin[axis], size + window.end[axis]) if include_pad else (0, size)
        counts = ((taps >= low) & (taps < high)).sum(1)
        total = total * counts.reshape([-1 if i == axis + 2 else 1 for i in range(len(narrow) + 2)])
    return r.constant(total)
