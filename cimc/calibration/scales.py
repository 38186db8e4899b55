"""The scales of one layer with the least expected error: the weight that spans the window, and the full scale of the inputs.

They depend on each other. A smaller window gives larger currents, and so does a smaller full scale of the inputs; both need a
larger ADC range, or a lower gain where the chip fixes the range. So they are chosen in turns, twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.calibration.error_power import error_power
from cimc.calibration.reads import Cause, LayerRead
from cimc.calibration.window import judging_columns, least_error_span
from cimc.ir.ranging import input_coding
from cimc.ir.records import InputCoding
from cimc.ir.samples import rounded_up

F32 = NDArray[np.float32]

#: Full scales that are tried, in parts of the largest input.
PARTS = (1.0, 0.7, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11)
_ROUNDS = 2
#: A smaller full scale lowers the errors of the ADC alone: below this share of all there is nothing to win.
_ADC_SHARE = 0.05
_ADC_CAUSES: tuple[Cause, ...] = ("ADC step", "ADC noise", "ADC mismatch")

Convert = Callable[[LayerRead, NDArray[Any]], LayerRead]
"""Sets the ADC range of a read, or lowers its gain, for devices of this span."""


def least_error_scales(
    matrix: NDArray[Any], span: F32, read: LayerRead, convert: Convert, *, window: bool, inputs: bool, name: str
) -> tuple[F32, InputCoding]:
    """Choose the scales of a layer. Its expected error is never above that of the scales that the choice starts from.

    Args:
        matrix: ``[groups, rows, columns]``, finite, not all 0.
        span: The largest weights, ``[1]`` or ``[groups * columns]``: one of the same size comes back. Of one for each column,
            the largest of all is tried as well, as one weight scale for the layer has it.
        read: Its coding has the largest input as full scale.
        convert: See `Convert`.
        window: Whether the span may change.
        inputs: Whether the full scale of the inputs may.
        name: Of the layer; names the random stream.
    """
    chosen, coding = span, read.coding
    for _ in range(_ROUNDS):
        if window:
            own = replace(read, coding=coding)
            chosen = least_error_span(matrix, convert(own, chosen), by_column=span.size > 1, name=name)
        if inputs:
            coding = _least_error_coding(matrix, chosen, read, convert, name)
        if not (window and inputs):
            break
    one = np.where(span > 0, span.max(), np.float32(0))
    tried = [(chosen, coding), (span, read.coding), (one, read.coding)][: 2 if span.size == 1 or not window else 3]
    powers = [_expected(matrix, spans, replace(read, coding=its), convert, name) for spans, its in tried]
    return tried[int(np.argmin(powers))]


def _expected(matrix: NDArray[Any], span: F32, read: LayerRead, convert: Convert, name: str) -> float:
    """Expected error power of the layer's product, over its columns (of a large layer, of some of them)."""
    some, spans = judging_columns(matrix, span, name)
    return float(error_power(some, spans, convert(read.sampled(some.size * 4), span)).total.sum())


def _least_error_coding(matrix: NDArray[Any], span: F32, read: LayerRead, convert: Convert, name: str) -> InputCoding:
    """The coding whose full scale has the least expected error."""
    some, span = judging_columns(matrix, span, name)
    read = read.sampled(some.size * len(PARTS) * 4)
    best, least, worse, gain = read.coding, np.inf, 0, 0.0
    for part in PARTS:
        candidate = replace(read, coding=_with_full_scale(read, part))
        converted = convert(candidate, span)
        if converted.coding.gain < 1.1 * gain:
            break  # the fixed range allows no larger gain
        gain = converted.coding.gain
        found = error_power(some, span, converted)
        power = float(found.total.sum())
        if part == 1.0 and sum(found.causes[c].sum() for c in _ADC_CAUSES if c in found.causes) < _ADC_SHARE * power:
            return best
        worse = 0 if power < least else worse + 1
        if power < least * (1 - 1e-3):  # a smaller full scale has to be worth it
            best, least = candidate.coding, power
        if worse == 2:
            break
    return best


def _with_full_scale(read: LayerRead, part: float) -> InputCoding:
    """The coding of a read with this part of its full scale."""
    coding = read.coding
    if part == 1.0 or coding.full_scale is None:
        return coding
    scale = rounded_up(coding.full_scale * part)
    made = input_coding(scale, coding.signed, f"{coding.basis}, clipped for the least error", read.target)
    share = float((np.abs(read.vectors) > scale).mean())
    return made.model_copy(update={"clip_share": share})
