"""A chip as its transposed read sees it: the converters and the cost of that direction."""

from __future__ import annotations

from cimc.errors import TargetError
from cimc.targets.description import Target


def transposed_target(target: Target) -> Target:
    """The target with DAC, ADC and timing of its transposed read in the place of the forward read's.

    Inputs come in two phases and a conversion is an integrated one, whatever the forward read does.

    Raises:
        TargetError: The chip has no transposed read.
    """
    read = target.array.transposed
    if read is None:
        raise TargetError(
            "the chip has no transposed read, so no analog backward pass",
            where=f"target {target.name}, array.transposed",
            fix="use --backward digital; or compile for a chip that has one: --set array.transposed={} (converters as those of "
            "the forward read), --set array.transposed.dac_bits=8",
        )
    dac, adc, timing = target.dac, target.adc, target.timing
    changes = {
        "dac": dac.model_copy(update={"bits": dac.bits if read.dac_bits is None else read.dac_bits, "signed": "two_phase"}),
        "adc": adc.model_copy(
            update={
                "bits": adc.bits if read.adc_bits is None else read.adc_bits,
                "range_ua": read.range_ua,
                "sigma_lsb": adc.sigma_lsb if read.sigma_lsb is None else read.sigma_lsb,
                "conversion": "integrated",
                "pair_read": "separate",
            }
        ),
        "timing": timing.model_copy(
            update={
                "tile_op_ns": timing.tile_op_ns if read.tile_op_ns is None else read.tile_op_ns,
                "tile_op_energy_nj": timing.tile_op_energy_nj if read.tile_op_energy_nj is None else read.tile_op_energy_nj,
            }
        ),
    }
    return target.model_copy(update=changes)
