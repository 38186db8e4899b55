"""The causes of a chip's errors, and which of them a layer has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from cimc.targets.description import Target

Cause = Literal[
    "scale",
    "weight clipping",
    "weight rounding",
    "programming error",
    "faults",
    "drift",
    "IR drop",
    "read noise",
    "DAC clipping",
    "DAC step",
    "ADC mismatch",
    "ADC noise",
    "ADC step",
    "ADC saturation",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
#: Causes that change what the devices of a layer stand for, in the order in which they act.
OF_DEVICES: tuple[Cause, ...] = CAUSES[1:7]
#: Causes that a product has beside what its weights and inputs have.
OF_CONVERSIONS: tuple[Cause, ...] = ("read noise", "ADC mismatch", "ADC noise", "ADC step", "ADC saturation")

#: Share of each cause's deviation that a layer keeps: 1 as on the chip, 0 none; a cause that is not named is kept.
Kept = Mapping[Cause, float]
#: A layer without any error.
EXACT: Kept = MappingProxyType(dict.fromkeys(CAUSES, 0.0))


def only(*causes: Cause) -> Kept:
    """No error but these."""
    return {cause: float(cause in causes) for cause in CAUSES}


def of_read(target: Target) -> set[Cause]:
    """The causes that a target has in its reads and converters."""
    d, dac, adc = target.device, target.dac, target.adc
    has: dict[Cause, bool] = {
        "read noise": bool(d.read_sigma_us) or d.read_noise is not None or d.slow_noise is not None or d.kind != "memristor",
        "DAC clipping": dac.bits is not None,
        "DAC step": dac.bits is not None,
        "ADC mismatch": adc.deviates,
        "ADC noise": adc.bits is not None and adc.sigma_lsb > 0,
        "ADC step": adc.bits is not None,
        "ADC saturation": adc.bits is not None,
    }
    return {cause for cause, there in has.items() if there}
