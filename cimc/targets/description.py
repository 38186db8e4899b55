"""The description of a target chip: what a YAML file says, typed and checked.

Units stand in the names: ``_us`` microsiemens, ``_ua`` microampere, ``_v`` volt, ``_nj`` nanojoule.
A duration is always ``_ns``, so that ``us`` never means two things.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, SerializeAsAny, model_validator
from pydantic.fields import FieldInfo

from cimc.targets.array_sections import Array, Transposed, Wires
from cimc.targets.converter_sections import Adc, Dac
from cimc.targets.device import Device
from cimc.targets.kinds import ByKind, known_sections, on_change
from cimc.targets.programmer_sections import DirectWrites, ProgrammerSection, VerifiedWrites
from cimc.targets.programming_sections import Programming
from cimc.targets.section import Section
from cimc.targets.update_sections import Update
from cimc.targets.weight_sections import Weights
from cimc.targets.write_sections import Pulse, WriteVerify

__all__ = [
    "Adc", "Array", "Dac", "Device", "Input", "Mapping", "Programming", "Pulse", "Section", "Target", "Timing", "Transposed",
    "Update", "Weights", "Wires", "WriteVerify", "field_table", "figures_of", "kinds_with", "optional_sections", "part_of",
    "part_sections", "section_of", "unit_of",
]  # fmt: skip


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

    younger = ("stated_for", "programmer")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="Short name, for messages.")
    description: str = Field("", description="The chip in one line.")
    array: Array = Array()
    device: Annotated[Device, ByKind("device"), SerializeAsAny()] = Device()
    weights: Annotated[Weights, ByKind("weight_code"), SerializeAsAny()] = Weights()
    dac: Dac = Dac()
    adc: Adc = Adc()
    programmer: Annotated[ProgrammerSection | None, ByKind("programmer"), SerializeAsAny()] = Field(
        None, description="How a controller brings cells to their goals; null: as update.programming says."
    )
    update: Annotated[Update, ByKind("update_rule"), SerializeAsAny()] = Update()
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
        needed, name = self.weights.needs_unit_column, self.weights.representation
        if needed is not None and needed != self.array.unit_column:
            raise ValueError(f"weights.representation={name} needs array.unit_column" + ("" if needed else "=false"))
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
        if self.update.shares and (self.weights.representation != "differential_pair" or self.weights.cells > 1):
            raise ValueError(
                f"update.rule={self.update.rule} needs weights.representation=differential_pair and weights.cells=1: each of its "
                "arrays has a device that pulses move and one that is the reference"
            )
        if self.update.shares and (self.adc.conversion == "per_bit" or self.adc.flipped):
            raise ValueError(f"update.rule={self.update.rule} needs adc.conversion=integrated and adc.flipped=false")
        if self.programmer is not None and self.update.programming == "write_verify" and self.programmer.kind != "write_verify":
            raise ValueError(
                f"update.programming=write_verify is not programmer.kind={self.programmer.kind}; set update.programming=gaussian"
            )
        planes = self.planes + self.weights.reference_columns(1)
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
        """Device columns of one weight column, unit columns and references left out."""
        return 2 * len(self.update.shares) or self.weights.columns_per_weight

    @property
    def digits(self) -> int:
        """Device columns of one polarity of a weight column: the cells of a weight, or its arrays (`Update.shares`)."""
        return len(self.update.shares) or self.weights.cells

    @property
    def read_planes(self) -> tuple[int, ...]:
        """Device columns of a weight column that count in it, by number: those of arrays without a share are not converted."""
        shares = self.update.shares or (1.0,) * self.digits
        return tuple(plane for plane in range(self.planes) if shares[plane % len(shares)])

    def without_arrays(self) -> Target:
        """This chip without the arrays of its update rule, as one that only computes is made."""
        if not self.update.shares:
            return self
        plain = {name: getattr(self.update, name) for name in Update.model_fields if name != "rule"}
        return self.model_copy(update={"update": Update(**plain)})

    def device_columns(self, columns: int) -> int:
        """Bit lines that so many weight columns take in an array, their references included, the unit column not."""
        return columns * self.planes + self.weights.reference_columns(columns)

    def weight_columns(self, lines: int) -> int:
        """Most weight columns that so many bit lines of an array hold."""
        columns = lines // self.planes
        while columns and self.device_columns(columns) > lines:
            columns -= 1
        return columns

    @property
    def chosen_programmer(self) -> ProgrammerSection:
        """The section of the programmer: ``programmer``, or what ``update.programming`` stands for."""
        return self.programmer or (DirectWrites() if self.update.programming == "gaussian" else VerifiedWrites())

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
            and self.chosen_programmer.kind == "direct"
            and not self.adc.sigma_lsb
            and self.array.wires is None
            and not self.update.shares
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
