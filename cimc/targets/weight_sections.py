"""How a signed weight becomes conductances: the sections of weight codes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cimc.targets.section import Section


class Weights(Section):
    """How a signed weight becomes conductances; pairs and offset weights have these fields alone, other codes more."""

    younger = ("window",)

    representation: str = Field(
        "differential_pair",
        description="differential_pair: w = g+ - g-, each at least g_min; offset: w + w_max on one column, the shift taken off "
        "with the unit column; shared_reference: w + w_max on one column, and a column of references in the middle of the window "
        "that several weight columns share; or a name that is registered or from an entry point (cimc.weight_codes).",
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
        description="Weight that spans the window, in RMS of the layer's weights; larger ones are clipped. null: as "
        "`window` says.",
    )
    window: Literal["largest", "least_error"] = Field(
        "largest",
        description="Weight that spans the window, where clip_sigma is null. least_error: the one with the least expected error "
        "of the layer's product, from the figures of devices and converters and from the calibration inputs; larger weights are "
        "clipped. largest: the largest there is. The built-in chips with errors state least_error.",
    )
    scale: Literal["layer", "column"] = Field("layer", description="One weight scale for a layer, or one for each column.")

    @model_validator(mode="after")
    def _slicing(self) -> Self:
        if self.cells > 1 and (self.bits is None or not self.rounded):
            raise ValueError("weights.cells above 1 needs weights.bits and weights.rounded")
        return self

    @property
    def columns_per_weight(self) -> int:
        """Device columns of one weight column, references left out."""
        return self.cells * (2 if self.representation == "differential_pair" else 1)

    @property
    def needs_unit_column(self) -> bool | None:
        """Whether ``array.unit_column`` must be true, or must be false; None: either will do."""
        return True if self.representation == "offset" else None

    def values(self, bits: int) -> int:
        """Values that the cells of a weight of so many bits must hold, of a pair those of one polarity."""
        return 1 << (bits - (self.representation == "differential_pair"))

    def reference_columns(self, columns: int) -> int:
        """Columns of references, within its own block, that so many weight columns of one array need."""
        return 0


class SharedReferenceWeights(Weights):
    """A weight on one device, and references in the middle of the window, one column for several weight columns."""

    representation: Literal["shared_reference"] = "shared_reference"
    columns_per_reference: int | None = Field(
        None, ge=1, le=1 << 20, description="Weight columns that share a column of references; null: all of a layer in an array."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.cells > 1:
            raise ValueError("weights.representation=shared_reference needs weights.cells=1")
        return self

    @property
    def needs_unit_column(self) -> bool | None:
        """See `Weights`: its references do what the unit column does for offset weights."""
        return False

    def reference_columns(self, columns: int) -> int:
        """See `Weights`."""
        return -(-columns // (self.columns_per_reference or max(1, columns)))
