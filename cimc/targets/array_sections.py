"""The sections of an array: its size, its lines, and how it is read the other way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cimc.targets.section import Section


class Transposed(Section):
    """A read of the array the other way: bit lines are driven, word lines converted. A vector is driven at its own full
    scale, in two phases (the codes of its positive and of its negative values), each converted once. null: as the forward read.
    """

    dac_bits: int | None = Field(None, ge=1, le=16, description="Bits of a code, sign not counted; null: as dac.bits.")
    adc_bits: int | None = Field(None, ge=1, le=24, description="Bits of an output code; null: as adc.bits.")
    range_ua: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="Full scale, from 0, of a conversion, in effective current as adc.range_ua; a vector whose lines could carry "
        "more is driven at a lower scale. null: read voltage x g_max x the square root of the weight columns of a tile.",
    )
    sigma_lsb: float | None = Field(
        None, ge=0, le=1e6, description="Noise of a conversion, in LSB of its range; null: as adc.sigma_lsb."
    )
    tile_op_ns: float | None = Field(
        None, gt=0, le=1e12, description="Time of one phase of a transposed read of a tile; null: as timing.tile_op_ns."
    )
    tile_op_energy_nj: float | None = Field(
        None, ge=0, le=1e12, description="Energy of the same; null: as timing.tile_op_energy_nj."
    )


class Wires(Section):
    """Resistance of an array's lines, which lowers the currents of a read (IR drop). A word line has an ideal voltage source
    behind ``driver_ohm``, a bit line a virtual ground behind ``sense_ohm``. A transposed read goes through the same resistances
    the other way. null: lines without resistance.
    """

    row_segment_ohm: float = Field(
        0.0, ge=0, le=1e6, description="Resistance of a word line from one cell to the next, and from an end to the first cell."
    )
    column_segment_ohm: float = Field(
        0.0, ge=0, le=1e6, description="Resistance of a bit line from one cell to the next, and from an end to the first cell."
    )
    driver_ohm: float = Field(0.0, ge=0, le=1e9, description="Resistance of a word line's driver, at each driven end.")
    sense_ohm: float = Field(0.0, ge=0, le=1e9, description="Resistance of a bit line's sense circuit, at each sensed end.")
    driven_from: Literal["left", "right", "both"] = Field(
        "left", description="Where word lines are driven: at bit line 0 (left), at the last bit line (right), or at both ends."
    )
    sensed_from: Literal["bottom", "top", "both"] = Field(
        "bottom", description="Where bit lines are sensed: at the last word line (bottom), at word line 0 (top), or at both ends."
    )
    solver: Literal["fast", "exact"] = Field(
        "fast",
        description="fast: an approximation, whose error `cimc targets show` gives; exact: slower by orders of magnitude "
        "(docs/wires.md says how much).",
    )


class Array(Section):
    """The crossbar arrays, one a tile."""

    younger = ("transposed", "wires")

    rows: int | None = Field(None, ge=1, le=1 << 20, description="Word lines of an array; null: unlimited.")
    columns: int | None = Field(
        None,
        ge=2,
        le=1 << 20,
        description="Bit lines of an array, one device column each (a differential pair takes two), the unit column not "
        "counted; null: unlimited.",
    )
    tiles_per_chip: int | None = Field(None, ge=1, le=1 << 24, description="Arrays of one chip; null: unlimited.")
    unit_column: bool = Field(
        False,
        description="A further bit line whose devices all hold g_min and one level step: it measures the sum of the inputs.",
    )
    transposed: Transposed | None = Field(
        None, description="The transposed read, as an analog backward pass needs it; {}: all as the forward read; null: none."
    )

    wires: Wires | None = Field(None, description="Resistance of the lines; null: none.")
