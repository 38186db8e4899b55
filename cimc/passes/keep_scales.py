"""Give layers the full scales that their inputs have in another program of the same network.

Example, for a chip of another array size, whose program has no data to choose scales by::

    before  layer fc  16 x 10  unsigned full_scale=1.0 gain=255
    after   layer fc  16 x 10  unsigned full_scale=0.25 gain=1020

Samples of the inputs are scaled with them. `ranges`, which comes after, chooses ADC ranges by these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cimc.errors import VerifyError
from cimc.ir.program import Layer, Program
from cimc.ir.ranging import input_coding
from cimc.passes.base import Compilation, Pass


@dataclass(frozen=True)
class KeepScales(Pass):
    """Sets the input coding of layers that match one of another program.

    Where both chips have the same devices, weights and converters, the weights that span the windows are kept too: arrays of
    another size change nothing that they were chosen by.

    Args:
        source: The other program.
        windows: Whether the weights are those of the other program, so that its windows suit them.
    """

    source: Program
    windows: bool = True

    name: ClassVar[str] = "keep-scales"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `lower`, or where a layer has an ADC range already, which the old scale decided on."""
        for layer in state.need_program().layers:
            if layer.adc_range_ua is not None:
                raise VerifyError(
                    "its ADC range is chosen already", where=f"layer {layer.name}", fix="run this pass before `ranges`"
                )

    def call(self, state: Compilation) -> Sequence[str]:
        program = state.need_program()
        kept = kept_scales(program, self.source)
        here, there = program.target, self.source.target
        windows = self.windows and all(
            getattr(here, part) == getattr(there, part) for part in ("device", "weights", "dac", "adc")
        )
        layers, tensors = [], dict(program.tensors)
        for layer in program.layers:
            scale = kept[layer.name].coding.full_scale if layer.name in kept else None
            if scale is None:
                layers.append(layer)
                continue
            vectors, now = state.samples.get(layer.name), layer.coding.full_scale
            if vectors is not None and now:
                state.samples[layer.name] = (vectors * np.float32(scale / now)).astype(np.float32)
            old = kept[layer.name].coding
            coding = input_coding(scale, old.signed, old.basis, program.target)
            coding = coding.model_copy(update={"clip_share": old.clip_share})
            changes: dict[str, Any] = {"coding": coding}
            if windows:
                tensors[f"weight_max/{layer.name}"] = self.source.tensors[f"weight_max/{kept[layer.name].name}"]
                changes["weight_error"] = kept[layer.name].weight_error
            layers.append(layer.model_copy(update=changes))
        if kept:
            state.program = program.model_copy(update={"layers": tuple(layers), "tensors": tensors})
        return list(kept)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a layer has another full scale or sign than the one it takes over."""
        kept = kept_scales(state.need_program(), self.source)
        for layer in state.need_program().layers:
            old = kept.get(layer.name)
            if old is not None and (layer.coding.full_scale, layer.coding.signed) != (old.coding.full_scale, old.coding.signed):
                raise VerifyError(
                    "its full scale is not the one that was to be kept", where=f"after keep-scales, layer {layer.name}"
                )

    def unchanged(self, state: Compilation) -> str:
        """No layer matches."""
        return "no layer has the name and the shape of one of the other program, with a full scale"


def kept_scales(program: Program, source: Program) -> dict[str, Layer]:
    """The source's layer by name of each layer that takes over its full scale.

    Layers match in order where all shapes agree, else by name and shape.
    """
    layers = program.layers
    if [layer.weight.shape for layer in layers] == [layer.weight.shape for layer in source.layers]:
        pairs = list(zip(layers, source.layers, strict=True))
    else:
        named = {(layer.name, layer.weight.shape): layer for layer in source.layers}
        pairs = [(layer, named[key]) for layer in layers if (key := (layer.name, layer.weight.shape)) in named]
    return {layer.name: old for layer, old in pairs if old.coding.full_scale is not None}
