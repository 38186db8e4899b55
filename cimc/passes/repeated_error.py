"""The closed form's error of a layer, were its matrix or its reads repeated otherwise."""

from __future__ import annotations

from cimc.calibration.reads import LayerRead
from cimc.errors import CimcError
from cimc.ir.program import Layer, Repeats
from cimc.ir.ranging import Samples, choose_ranges
from cimc.passes.base import Compilation
from cimc.passes.forecast import layer_power
from cimc.passes.ranges import TargetDevices, device_spread
from cimc.passes.tile import cut


def repeated_error(state: Compilation, layer: Layer, repeats: Repeats) -> tuple[Layer, float] | None:
    """The layer with other repeats, cut and ranged, and its error power over that of its product.

    Args:
        state: Compiled up to `ranges`.
        layer: Of its program.
        repeats: The others.

    Returns:
        None where they do not fit the chip.
    """
    program, target, samples = state.need_program(), state.target, state.samples[layer.name]
    try:
        wanted = cut(layer.model_copy(update={"repeats": repeats}), target)
        span = layer.repeats.of_columns(program.tensors[f"weight_max/{layer.name}"], layer.groups)
        span = repeats.on_columns(span, layer.groups)
        program = program.model_copy(update={"tensors": {**program.tensors, f"weight_max/{layer.name}": span}})
        if wanted.adc_range_ua is not None:
            read, devices = LayerRead.of(samples, wanted, target), TargetDevices.of(program, wanted)
            wanted = choose_ranges(wanted, Samples(read.vectors), devices, target, sigma_us=device_spread(target))
        return wanted, layer_power(program, wanted, samples).share
    except CimcError:
        return None
