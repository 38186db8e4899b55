"""The sections of the converters: on word lines and on bit lines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cimc.targets.section import Section


class Dac(Section):
    """The converter on each word line. A code drives its line, bit by bit, as code / 2^bits of the read voltage."""

    younger = ("pulse_noise", "full_scale")

    bits: int | None = Field(
        None, ge=1, le=16, description="Bits of an input code, and so input pulses of a read; null: no quantisation."
    )
    signed: Literal["two_phase", "offset", "twos_complement", "bipolar"] = Field(
        "two_phase",
        description="Inputs of a layer that may be negative. two_phase: all bits for the positive part, then for the negative "
        "part, two tile operations, subtracted digitally; offset: code + half scale, one bit goes to the sign, the shift is "
        "taken off digitally; twos_complement: the top bit's pulse counts negative (per-bit conversion only); bipolar: all bits "
        "for the size, the line is driven with either sign, one tile operation, and the ADC is signed.",
    )
    pulse_noise: Literal["held", "fresh"] = Field(
        "held",
        description="Read noise of a cell over the input pulses of one conversion. held: one draw for all of them; fresh: "
        "one for each pulse, so that the bits of a code average it.",
    )
    clip_share: float = Field(
        0.0, ge=0, lt=1, description="Share of a layer's calibration inputs that may clip at the largest code."
    )
    full_scale: Literal["largest", "least_error"] = Field(
        "largest",
        description="Input that the largest code stands for, where clip_share is 0. least_error: the one with the least "
        "expected error of the layer's product, where there are calibration data; larger ones are clipped. largest: the largest "
        "there is.",
    )


class Adc(Section):
    """The converter on the bit lines."""

    younger = ("pair_read", "gain_sigma", "offset_sigma_lsb", "bow_sigma_lsb", "calibration_reads")

    bits: int | None = Field(None, ge=1, le=24, description="Bits of an output code; null: no quantisation.")
    range_ua: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="Full scale, from 0, of an integrated conversion, in effective current: the sum over word lines of "
        "code/2^bits x read voltage x g. A number is fixed by the chip, and a layer's input gain is lowered until its columns "
        "fit; null: calibrated for each layer, then frozen. Per-bit conversions have no range: an LSB is one level step.",
    )
    sigma_lsb: float = Field(0.0, ge=0, le=1e6, description="Noise of a conversion, in LSB of range / (2^bits - 1).")
    saturation_share: float = Field(
        1e-4, ge=0, lt=1, description="Share of the calibration's column reads that may exceed the range."
    )
    conversion: Literal["integrated", "per_bit"] = Field(
        "integrated",
        description="integrated: the input bits are weighted and added in the analog domain, then converted once; per_bit: one "
        "conversion an input bit, shifted and added digitally.",
    )
    flipped: bool = Field(
        False,
        description="A device column whose digits add up to more than half of the most possible is stored complemented, which "
        "saves an ADC bit (needs a unit column).",
    )
    pair_read: Literal["separate", "subtracted"] = Field(
        "separate",
        description="How the two lines of a differential pair are converted. separate: each by itself, subtracted digitally; "
        "subtracted: the array subtracts their currents, and a signed ADC converts the difference once.",
    )
    gain_sigma: float | None = Field(
        None,
        ge=0,
        le=0.3,
        description="Deviation of a conversion's gain from 1, from bit line to bit line; fixed for a die. null: none.",
    )
    offset_sigma_lsb: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Deviation of a conversion's offset from 0, from bit line to bit line; fixed for a die. null: none.",
    )
    bow_sigma_lsb: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="Integral non-linearity: deviation, from bit line to bit line, of the error in the middle of the range, "
        "which falls to 0 at both ends as a parabola; fixed for a die. null: none.",
    )
    calibration_reads: int | None = Field(
        None,
        ge=1,
        le=1 << 20,
        description="Reads of each of two known currents (a tenth and nine tenths of the range) from which bring-up takes the "
        "slope and intercept of each bit line, which the digital side then corrects; null: no such calibration.",
    )

    @property
    def deviates(self) -> bool:
        """Whether bit lines convert differently."""
        return bool(self.gain_sigma or self.offset_sigma_lsb or self.bow_sigma_lsb)
