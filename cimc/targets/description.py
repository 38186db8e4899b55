"""The description of a target chip: what a YAML file says, typed and checked.

Units stand in the names: ``_us`` microsiemens, ``_ua`` microampere, ``_v`` volt, ``_nj`` nanojoule.
A duration is always ``_ns``, so that ``us`` never means two things.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, SerializeAsAny, model_validator
from pydantic.fields import FieldInfo

from cimc.targets.device import Device
from cimc.targets.kinds import ByKind, known_sections, on_change
from cimc.targets.programming_sections import Programming
from cimc.targets.section import Section
from cimc.targets.write_sections import Pulse, WriteVerify

__all__ = [
    "Adc", "Array", "Dac", "Device", "Input", "Mapping", "Programming", "Pulse", "Section", "Target", "Timing", "Transposed",
    "Update", "Weights", "WriteVerify", "field_table", "figures_of", "kinds_with", "optional_sections", "part_of",
    "part_sections", "section_of", "unit_of",
]  # fmt: skip


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


class Weights(Section):
    """How a signed weight becomes conductances."""

    representation: Literal["differential_pair", "offset"] = Field(
        "differential_pair",
        description="differential_pair: w = g+ - g-, each at least g_min; offset: w + w_max on one column, the shift taken off "
        "with the unit column.",
    )
    bits: int | None = Field(
        None,
        ge=2,
        le=16,
        description="Bits of a weight, sign included (16 bits: -32767 to 32767 steps); null: what one cell of `levels` holds.",
    )
    cells: int = Field(
        1, ge=1, le=16, description="Cells a weight is bit-sliced over, in a pair each polarity; least significant first."
    )
    rounded: bool = Field(
        True, description="true: weights are written at whole level steps; false: write-verify aims anywhere in the window."
    )
    clip_sigma: float | None = Field(
        None,
        gt=0,
        description="Weight that spans the window, in RMS of the layer's weights; larger ones are clipped. null: the largest "
        "there is.",
    )
    scale: Literal["layer", "column"] = Field("layer", description="One weight scale for a layer, or one for each column.")

    @model_validator(mode="after")
    def _slicing(self) -> Self:
        if self.cells > 1 and (self.bits is None or not self.rounded):
            raise ValueError("weights.cells above 1 needs weights.bits and weights.rounded")
        return self


class Dac(Section):
    """The converter on each word line. A code drives its line, bit by bit, as code / 2^bits of the read voltage."""

    younger = ("pulse_noise",)

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


class Update(Section):
    """How training changes the devices."""

    rule: Literal["threshold", "residual", "naive"] = Field(
        "threshold",
        description="threshold: steps are summed digitally, and a weight whose sum exceeds the threshold is written; residual: "
        "whole pulse steps of the sum are given as blind pulses, the rest is kept; naive: no digital sum, a step is added to "
        "what the device holds and snapped to its levels.",
    )
    programming: Literal["gaussian", "write_verify"] = Field(
        "gaussian", description="gaussian: a write lands as device.programming says; write_verify: pulse by pulse."
    )
    threshold_share: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Step of an update in parts of the largest weight: threshold's limit, residual's pulse step. null: one "
        "level step (0 where levels are continuous); for residual the mean step of a blind pulse.",
    )
    window_he: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Weight that spans the window while training, in units of sqrt(2 / fan-in), the deviation of He "
        "initialisation; null: as weights.clip_sigma says.",
    )


class Timing(Section):
    """Cost of one tile operation: one input vector through all rows and columns of one array. null: not modelled."""

    tile_op_ns: float | None = Field(
        None, gt=0, le=1e12, description="Time of a tile operation, all input bits and conversions included."
    )
    tile_op_energy_nj: float | None = Field(
        None, ge=0, le=1e12, description="Energy of a tile operation, drivers and converters included."
    )
    programming_energy_nj: float | None = Field(
        None, ge=0, le=1e12, description="Energy to write one device once, verify reads included."
    )
    programming_ns: float | None = Field(None, gt=0, le=1e12, description="Time to write one device once, verify reads included.")


class Mapping(Section):
    """How layers are cut to arrays."""

    split: Literal["channels", "rows"] = Field(
        "channels", description="Cuts of a kernel taller than an array. channels: at whole input channels; rows: anywhere."
    )
    packing: Literal["fast", "dense"] = Field(
        "fast",
        description="Layers that share an array take turns. fast: an array fires for an image at most as often as the slowest "
        "layer does, unless the number of chips forces more; dense: as few arrays as found, whatever the latency.",
    )
    depthwise: Literal["auto", "analog", "digital"] = Field(
        "auto",
        description="Depthwise convolutions (one input channel a group). auto: as digital, for a column would use k*k rows only.",
    )
    max_unroll: int = Field(
        32, ge=0, le=100_000, description="Longest static sequence of a recurrent node that is unrolled to crossbars."
    )


class Input(Section):
    """The model's real-valued inputs."""

    range: tuple[float, float] | None = Field(
        None, description="Smallest and largest value of the model's inputs; null: from calibration, else 0 to 1."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"input.range {self.range} must rise")
        return self


class Target(Section):
    """A whole chip. ``sources`` says where each figure comes from, by dotted path."""

    younger = ("stated_for",)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="Short name, for messages.")
    description: str = Field("", description="The chip in one line.")
    array: Array = Array()
    device: Annotated[Device, ByKind("device"), SerializeAsAny()] = Device()
    weights: Weights = Weights()
    dac: Dac = Dac()
    adc: Adc = Adc()
    update: Update = Update()
    timing: Timing = Timing()
    mapping: Mapping = Mapping()
    input: Input = Input()
    sources: dict[str, str] = Field(default_factory=dict, description="Where a figure comes from, by dotted path.")
    stated_for: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Figures that were stated for other settings, by dotted path: the fields that differ, and the values that "
        "these had. Cost uses no such time or energy.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weights.representation == "offset" and not self.array.unit_column:
            raise ValueError("weights.representation=offset needs array.unit_column")
        if self.adc.flipped and not self.array.unit_column:
            raise ValueError("adc.flipped needs array.unit_column")
        if self.adc.conversion == "per_bit" and (self.dac.bits is None or self.adc.bits is None):
            raise ValueError("adc.conversion=per_bit needs dac.bits and adc.bits")
        if self.adc.conversion == "per_bit" and self.adc.range_ua is not None:
            raise ValueError("adc.range_ua has no meaning with adc.conversion=per_bit: an LSB is one level step; set it to null")
        if self.dac.signed == "twos_complement" and self.adc.conversion != "per_bit":
            raise ValueError("dac.signed=twos_complement needs adc.conversion=per_bit")
        if self.dac.signed == "bipolar" and (self.dac.bits is None or self.adc.conversion == "per_bit"):
            raise ValueError("dac.signed=bipolar needs dac.bits and adc.conversion=integrated")
        if self.adc.pair_read == "subtracted":
            if self.weights.representation != "differential_pair" or self.array.unit_column:
                raise ValueError(
                    "adc.pair_read=subtracted needs weights.representation=differential_pair and no array.unit_column"
                )
            if self.adc.bits is None:
                raise ValueError("adc.pair_read=subtracted needs adc.bits")
            if self.device.slow_noise is not None:
                raise ValueError(
                    "device.slow_noise is not simulated with adc.pair_read=subtracted; set one of them to its default"
                )
        if self.dac.pulse_noise == "fresh" and self.dac.bits is None:
            raise ValueError("dac.pulse_noise=fresh needs dac.bits: without them an input is no train of pulses")
        if self.adc.bits is None and self.adc.deviates:
            raise ValueError("adc.gain_sigma, adc.offset_sigma_lsb and adc.bow_sigma_lsb need adc.bits")
        if self.adc.bits == 1 and self.signed_conversion:
            raise ValueError("a signed conversion needs adc.bits of at least 2")
        planes = self.planes
        if self.array.columns is not None and self.array.columns < planes:
            raise ValueError(f"array.columns {self.array.columns} cannot hold the {planes} device columns of one weight column")
        if self.weights.cells > 1 and self.device.levels is None:
            raise ValueError("weights.cells above 1 needs device.levels")
        if self.array.transposed is not None and (self.weights.cells > 1 or self.adc.flipped):
            raise ValueError(
                "array.transposed needs weights.cells=1 and adc.flipped=false: a word line adds up columns of equal weight only"
            )
        return self

    @property
    def planes(self) -> int:
        """Device columns of one weight column."""
        return self.weights.cells * (2 if self.weights.representation == "differential_pair" else 1)

    @property
    def signed_conversion(self) -> bool:
        """Whether currents of either sign are converted."""
        return self.adc.pair_read == "subtracted" or self.dac.signed == "bipolar"

    @property
    def top_code(self) -> int:
        """The highest code of the ADC, which stands for its range; 0 without an ADC. The lowest is 0, or its negative."""
        bits = self.adc.bits
        return 0 if bits is None else 2 ** (bits - self.signed_conversion) - 1

    @property
    def is_ideal(self) -> bool:
        """No quantisation, clipping, noise, error or fault anywhere: products are exact in the model's own precision."""
        d, t = self.device, self.array.transposed
        return (
            (t is None or (t.dac_bits is None and t.adc_bits is None))
            and self.dac.bits is None
            and self.adc.bits is None
            and d.levels is None
            and self.weights.bits is None
            and self.weights.clip_sigma is None
            and d.is_exact
            and not self.adc.sigma_lsb
            and self.array.wires is None
        )


@cache
def field_table() -> dict[str, FieldInfo]:
    """Every figure of a description by its dotted path, in the order of the sections; ``sources`` and ``stated_for`` are none.

    A section that a chip may lack stands before its figures: it is a figure too, of value null or {}. Where a ``kind`` chooses
    the class of a section, the fields of all kinds are there whose code is loaded.
    """
    table = {path: info for path, info, _ in _fields()}
    del table["sources"], table["stated_for"]
    return table


@cache
def kinds_with(path: str) -> tuple[str, ...]:
    """Kinds whose section has this field; () where all have it, or no kind decides."""
    return next((kinds for own, _, kinds in _fields() if own == path), ())


@cache
def _fields() -> tuple[tuple[str, FieldInfo, tuple[str, ...]], ...]:
    """Dotted path, declaration and kinds (see `kinds_with`) of each field."""

    def walk(section: type[BaseModel], prefix: str, kinds: tuple[str, ...]) -> list[tuple[str, FieldInfo, tuple[str, ...]]]:
        found = []
        for name, info in section.model_fields.items():
            inner, optional = section_of(info)
            if inner is None or optional:
                found.append((f"{prefix}{name}", info, kinds))
            if inner is None:
                continue
            part = part_of(info)
            if part is None:
                found += walk(inner, f"{prefix}{name}.", kinds)
                continue
            own: dict[str, tuple[str, FieldInfo, tuple[str, ...]]] = {}
            sections = known_sections(part)
            for chosen in dict.fromkeys([*sections.values(), inner]):
                for path, field, nested in walk(chosen, f"{prefix}{name}.", ()):
                    top = path.removeprefix(f"{prefix}{name}.").partition(".")[0]
                    having = tuple(kind for kind, other in sections.items() if top in other.model_fields)
                    if path not in own or not own[path][1].description:  # of a ``kind`` the base says what it is
                        own[path] = path, field, nested if len(having) == len(sections) else having
            found += own.values()
        return found

    return tuple(walk(Target, "", ()))


@cache
def part_sections() -> dict[str, str]:
    """Device part by the dotted path of its section."""

    def walk(section: type[Section], prefix: str) -> dict[str, str]:
        parts: dict[str, str] = {}
        for name, info in section.model_fields.items():
            inner, part = section_of(info)[0], part_of(info)
            if part is not None:
                parts[f"{prefix}{name}"] = part
            chosen = () if inner is None else (inner,) if part is None else known_sections(part).values()
            for each in chosen:
                parts |= walk(each, f"{prefix}{name}.")
        return parts

    return walk(Target, "")


@cache
def optional_sections() -> frozenset[str]:
    """Dotted paths of the sections that a chip may lack."""
    return frozenset(path for path, info in field_table().items() if section_of(info)[0] is not None)


for _cached in (field_table, kinds_with, _fields, part_sections, optional_sections):
    on_change(_cached.cache_clear)


def section_of(info: FieldInfo) -> tuple[type[Section] | None, bool]:
    """The section that a field is, and whether it may be null; None: a plain figure."""
    kinds = get_args(info.annotation) or (info.annotation,)
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    return (sections[0] if sections else None), len(kinds) > 1


def part_of(info: FieldInfo) -> str | None:
    """The device part that a field is, whose ``kind`` chooses the section; None: it is none."""
    return next((mark.part for mark in info.metadata if isinstance(mark, ByKind)), None)


def figures_of(target: Target, *, written: bool = False) -> dict[str, Any]:
    """Every figure of a target by its dotted path; none of sections that it lacks.

    Args:
        target: The chip.
        written: Leave out what files leave out, see `Section.younger`.
    """

    def walk(section: Section, prefix: str) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for name, info in type(section).model_fields.items():
            value = getattr(section, name)
            if written and not section.is_written(name):
                continue
            if isinstance(value, Section):
                figures |= walk(value, f"{prefix}{name}.")
            elif section_of(info)[0] is None:
                figures[f"{prefix}{name}"] = value
        return figures

    figures = walk(target, "")
    return {path: value for path, value in figures.items() if path not in ("sources", "stated_for")}


_UNITS = {
    "us": "µS",
    "ua": "µA",
    "v": "V",
    "nj": "nJ",
    "ns": "ns",
    "ohm": "Ω",
    "s": "s",
    "lsb": "LSB",
    "bits": "bit",
    "sigma": "RMS",
    "share": "of 1",
    "rate": "of 1",
    "spread": "of 1",
}


def unit_of(path: str) -> str:
    """Unit of a figure, from the last word of its name; "" where it has none."""
    return _UNITS.get(path.rsplit(".", 1)[-1].rsplit("_", 1)[-1], "")
