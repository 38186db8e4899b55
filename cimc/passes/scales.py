"""``scales``: the weight that spans the window and the full scale of the inputs, by the least expected error of a layer.

Example, a layer with a few large weights and a few large inputs::

    before  fc | y = cimc.Vmm <layer = "fc", weight_max = [0.9, 2.1], input_full_scale = 6.0, ...> (x, w)
    after   fc | y = cimc.Vmm <layer = "fc", weight_max = [0.5, 0.8], input_full_scale = 2.5, ...> (x, w)

What is larger is clipped. The expected error is that of `cimc.calibration.error_power`. ``weights.window`` and
``dac.full_scale`` say whether the pass may choose. Without calibration data it leaves the inputs as they are, as the tail of a
synthetic input tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.calibration.reads import LayerRead
from cimc.calibration.scales import least_error_scales
from cimc.errors import FitError, VerifyError
from cimc.ir.ranging import choose_range
from cimc.ir.records import InputCoding, on_crossbars
from cimc.ir.vmm import layer_of, view_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_reasons
from cimc.passes.quantise import check_scales, vmms, weight_error
from cimc.passes.ranges import TargetDevices, device_spread, has_ranges
from cimc.passes.tile import row_cuts

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Scales(Pass):
    """Changes ``weight_max`` and the input coding of every ``Vmm``."""

    name: ClassVar[str] = "scales"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError after `lower`, or where a layer has no weight scale or, on a chip with errors, no kept inputs."""
        need_reasons(state)
        check_scales(state)
        for node in () if state.target.is_ideal else vmms(state.model):
            if node.attributes.get_string("layer") not in state.samples:
                raise VerifyError("none of its inputs were kept", where=f"Vmm '{node.name}'", fix="run pass `calibrate` before")

    def call(self, state: Compilation) -> Sequence[str]:
        window, inputs = _free(state)
        if not (window or inputs):
            return ()
        chosen: dict[str, tuple[F32, InputCoding, float]] = {}
        for node in vmms(state.model):
            name = node.attributes.get_string("layer") or ""
            if name not in chosen:
                tensor = cast(ir.TensorProtocol, cast(ir.Value, node.inputs[1]).const_value).numpy()
                matrix = view_of(node).matrix_of(tensor)
                span, coding = _choice(state, node, matrix, window=window, inputs=inputs)
                layer = layer_of(node)
                once = layer.repeats.of_columns(span, layer.groups)
                chosen[name] = span, coding, weight_error(matrix, once, state.target)
            _describe(node, *chosen[name])
        return list(chosen)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a weight scale is missing, negative, or of a wrong length."""
        check_scales(state)

    def unchanged(self, state: Compilation) -> str:
        """The target fixes both scales, or there is no layer."""
        if any(_free(state)):
            return "no product is on crossbars"
        return "the target leaves no scale to be chosen by error, or there are no calibration data"


def _free(state: Compilation) -> tuple[bool, bool]:
    """Whether the pass may choose the weight that spans the window, and the full scale of the inputs."""
    target = state.target
    window = target.weights.window == "least_error" and target.weights.clip_sigma is None
    inputs = target.dac.full_scale == "least_error" and not target.dac.clip_share and target.dac.bits is not None
    return window and not target.is_ideal, inputs and not target.is_ideal and state.calibration is not None


def _choice(state: Compilation, node: ir.Node, matrix: NDArray[Any], *, window: bool, inputs: bool) -> tuple[F32, InputCoding]:
    """Span and input coding of a layer; what they are now where nothing can be chosen."""
    layer, target = layer_of(node), state.target
    span = np.array(node.attributes.get_floats("weight_max"), np.float32)
    if not span.any():
        return span, layer.coding
    packed = on_crossbars(matrix, layer)
    try:
        read = LayerRead.of(state.samples[layer.name], layer, target, row_cuts(layer, target))
        convert = partial(_converted, packed, layer.name)
        return least_error_scales(packed, span, read, convert, window=window, inputs=inputs, name=layer.name)
    except FitError:
        return span, layer.coding  # `tile` or `ranges` says why


def _converted(matrix: NDArray[Any], name: str, read: LayerRead, span: F32) -> LayerRead:
    """The read with its ADC range, or a lower gain where the chip fixes the range."""
    target = read.target
    if not has_ranges(target):
        return read
    devices = TargetDevices.sampled(matrix, span, target, name)
    choice = choose_range(read.vectors, devices, read.coding, read.row_cuts, target, sigma_us=device_spread(target), key=name)
    coding = read.coding.model_copy(update={"gain": choice.gain, "bits_lost": choice.bits_lost})
    return replace(read, coding=coding, range_ua=choice.range_ua)


def _describe(node: ir.Node, span: F32, coding: InputCoding, error: float) -> None:
    """Write a choice to the node; the gain is that before any range, which `ranges` lowers again."""
    attributes = node.attributes
    attributes.add(ir.AttrFloat32s("weight_max", [float(w) for w in span]))
    attributes.add(ir.AttrFloat32("weight_error", error))
    attributes.add(ir.AttrFloat32("input_gain", coding.gain))
    attributes.add(ir.AttrFloat32("input_full_scale", cast(float, coding.full_scale)))
    attributes.add(ir.AttrFloat32("input_clip_share", coding.clip_share))
    attributes.add(ir.AttrString("input_basis", coding.basis))
