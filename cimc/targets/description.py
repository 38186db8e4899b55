"""The description of a target chip: what a YAML file says, typed and checked.

Units stand in the names: ``_us`` microsiemens, ``_ua`` microampere, ``_v`` volt, ``_nj`` nanojoule.
A duration is always ``_ns``, so that ``us`` never means two things.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """One part of a description; unknown fields are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Array(Section):
    """The crossbar arrays, one a tile."""

    rows: int | None = Field(None, ge=1, description="Word lines of an array; null: unlimited.")
    columns: int | None = Field(None, ge=2, description="Bit lines of an array, device columns; null: unlimited.")
    tiles_per_chip: int | None = Field(None, ge=1, description="Tiles of one chip; null: unlimited.")
    unit_column: bool = Field(
        False,
        description="A further bit line whose devices all hold one level step: it measures the sum of the inputs.",
    )


class Programming(Section):
    """How far a written conductance lands from its target."""

    kind: str = Field("gaussian", description="Name of a programming model: built in, or from an entry point.")
    mean_us: float = Field(0.0, description="Mean of the error.")
    sigma_us: float = Field(0.0, ge=0, description="Standard deviation of the error.")


class Device(Section):
    """The memristor at each crossing."""

    kind: str = Field("memristor", description="Name of a device model: built in, or from an entry point (cimc.devices).")
    g_min_us: float = Field(0.0, ge=0, description="Lowest conductance of the window.")
    g_max_us: float = Field(1.0, gt=0, description="Highest conductance of the window.")
    levels: int | None = Field(None, ge=2, description="Programmable levels over the window; null: continuous.")
    read_voltage_v: float = Field(1.0, gt=0, description="Voltage of a read pulse.")
    read_sigma_us: float = Field(0.0, ge=0, description="Read noise of one device, drawn anew at each read.")
    programming: Programming = Programming()
    stuck_low_rate: float = Field(0.0, ge=0, le=1, description="Share of devices stuck at g_min.")
    stuck_high_rate: float = Field(0.0, ge=0, le=1, description="Share of devices stuck at g_max.")

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.g_max_us <= self.g_min_us:
            raise ValueError(f"g_max_us {self.g_max_us} must lie above g_min_us {self.g_min_us}")
        if self.stuck_low_rate + self.stuck_high_rate > 1:
            raise ValueError("stuck_low_rate and stuck_high_rate add up to more than 1")
        return self


class Weights(Section):
    """How a signed weight becomes conductances."""

    representation: Literal["differential_pair", "offset"] = Field(
        "differential_pair",
        description="differential_pair: w = g+ - g-, each at least g_min; offset: w + w_max on one column, the shift taken off "
        "with the unit column.",
    )
    bits: int | None = Field(
        None, ge=2, le=16, description="Bits of a weight, sign included; null: what one cell of `levels` holds."
    )
    cells: int = Field(1, ge=1, le=16, description="Cells a weight (and polarity) is bit-sliced over, least significant first.")
    rounded: bool = Field(True, description="Write weights at whole levels; false: write-verify aims anywhere in the window.")
    clip_sigma: float | None = Field(
        None, gt=0, description="Largest weight kept, in RMS of the layer's weights; null: the largest there is."
    )
    scale: Literal["layer", "column"] = Field("layer", description="One weight scale for a layer, or one for each column.")

    @model_validator(mode="after")
    def _slicing(self) -> Self:
        if self.cells > 1 and (self.bits is None or not self.rounded):
            raise ValueError("weights.cells above 1 needs weights.bits and weights.rounded")
        return self


class Dac(Section):
    """The converter on each word line."""

    bits: int | None = Field(None, ge=1, le=16, description="Bits of an input code; null: no quantisation.")
    signed: Literal["two_phase", "offset", "twos_complement"] = Field(
        "two_phase",
        description="Signed inputs. two_phase: positive part, then negative part, subtracted digitally; offset: code + half "
        "scale, taken off digitally; twos_complement: the top bit's phase counts negative (per-bit conversion only).",
    )
    clip_share: float = Field(0.0, ge=0, lt=1, description="Share of the calibration inputs that may clip.")


class Adc(Section):
    """The converter on the bit lines."""

    bits: int | None = Field(None, ge=1, le=24, description="Bits of an output code; null: no quantisation.")
    range_ua: float | None = Field(
        None,
        gt=0,
        description="Full scale in effective current, sum of code/2^bits x V x g. A number is fixed by the chip, and the input "
        "gain follows it; null: calibrated for each layer, then frozen.",
    )
    sigma_lsb: float = Field(0.0, ge=0, description="Noise of a conversion, in LSB.")
    saturation_share: float = Field(1e-4, ge=0, lt=1, description="Share of column reads that may saturate at calibration.")
    conversion: Literal["integrated", "per_bit"] = Field(
        "integrated",
        description="integrated: one conversion after all input bits; per_bit: one for each input bit, shifted and added.",
    )
    flipped: bool = Field(
        False, description="Store a column complemented where that halves its largest sum (needs a unit column)."
    )


class Timing(Section):
    """Cost of one tile operation: one position, all columns of an array. null: not modelled."""

    tile_op_ns: float | None = Field(None, gt=0, description="Time of a tile operation, conversions included.")
    tile_op_energy_nj: float | None = Field(None, ge=0, description="Energy of a tile operation.")
    programming_energy_nj: float | None = Field(None, ge=0, description="Energy to program one device.")


class Mapping(Section):
    """How layers are cut to arrays."""

    split: Literal["channels", "rows"] = Field(
        "channels", description="channels: a tall kernel is cut at whole input channels; rows: anywhere."
    )
    depthwise: Literal["auto", "analog", "digital"] = Field(
        "auto",
        description="Depthwise convolutions (one input channel a group). auto: digital, as a column uses but k*k rows.",
    )
    max_unroll: int = Field(32, ge=0, description="Longest static sequence of a recurrent node that is unrolled to crossbars.")


class Input(Section):
    """The model's real-valued inputs."""

    range: tuple[float, float] | None = Field(
        None, description="Smallest and largest input; null: from calibration, else 0 to 1."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"input.range {self.range} must rise")
        return self


class Target(Section):
    """A whole chip. ``sources`` says where each figure comes from, by dotted path."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    array: Array = Array()
    device: Device = Device()
    weights: Weights = Weights()
    dac: Dac = Dac()
    adc: Adc = Adc()
    timing: Timing = Timing()
    mapping: Mapping = Mapping()
    input: Input = Input()
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weights.representation == "offset" and not self.array.unit_column:
            raise ValueError("weights.representation=offset needs array.unit_column")
        if self.adc.flipped and not self.array.unit_column:
            raise ValueError("adc.flipped needs array.unit_column")
        if self.adc.conversion == "per_bit" and (self.dac.bits is None or self.adc.bits is None):
            raise ValueError("adc.conversion=per_bit needs dac.bits and adc.bits")
        if self.dac.signed == "twos_complement" and self.adc.conversion != "per_bit":
            raise ValueError("dac.signed=twos_complement needs adc.conversion=per_bit")
        planes = self.planes
        if self.array.columns is not None and self.array.columns < planes:
            raise ValueError(f"array.columns {self.array.columns} cannot hold the {planes} device columns of one weight column")
        if self.weights.cells > 1 and self.device.levels is None:
            raise ValueError("weights.cells above 1 needs device.levels")
        return self

    @property
    def planes(self) -> int:
        """Device columns of one weight column."""
        return self.weights.cells * (2 if self.weights.representation == "differential_pair" else 1)

    @property
    def is_ideal(self) -> bool:
        """No quantisation, noise, error or fault anywhere: products are exact in the model's own precision."""
        d = self.device
        return (
            self.dac.bits is None
            and self.adc.bits is None
            and d.levels is None
            and self.weights.bits is None
            and not (d.read_sigma_us or d.programming.sigma_us or d.programming.mean_us)
            and not (d.stuck_low_rate or d.stuck_high_rate or self.adc.sigma_lsb)
        )


@cache
def field_table() -> dict[str, FieldInfo]:
    """Every figure of a description by its dotted path, in the order of the sections; ``sources`` is none."""

    def walk(section: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
        table: dict[str, FieldInfo] = {}
        for name, info in section.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                table |= walk(info.annotation, f"{prefix}{name}.")
            else:
                table[f"{prefix}{name}"] = info
        return table

    table = walk(Target, "")
    del table["sources"]
    return table


_UNITS = {
    "us": "µS",
    "ua": "µA",
    "v": "V",
    "nj": "nJ",
    "ns": "ns",
    "lsb": "LSB",
    "bits": "bit",
    "sigma": "RMS",
    "share": "of 1",
    "rate": "of 1",
}


def unit_of(path: str) -> str:
    """Unit of a figure, from the last word of its name; "" where it has none."""
    return _UNITS.get(path.rsplit(".", 1)[-1].rsplit("_", 1)[-1], "")
