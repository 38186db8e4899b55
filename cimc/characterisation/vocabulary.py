"""Which measurements there are, and the columns that each has. Units stand in the names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantity = Literal["name", "conductance", "time", "voltage", "number", "polarity"]

#: Factor of each unit to that of the vocabulary, by quantity: µS, s, V. A resistance is inverted and has no factor here.
UNITS: dict[Quantity, dict[str, float]] = {
    "conductance": {"us": 1.0, "ns": 1e-3, "ms": 1e3, "s": 1e6},
    "time": {"s": 1.0, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "voltage": {"v": 1.0, "mv": 1e-3},
}
#: Resistances that may stand for a conductance: the conductance in µS of one such unit.
RESISTANCES = {"ohm": 1e6, "kohm": 1e3, "mohm": 1.0}


@dataclass(frozen=True)
class Column:
    """A column of a measurement file."""

    name: str
    quantity: Quantity
    meaning: str
    needed: bool = True
    signed: bool = False
    """Whether values below 0 are possible, as of a noisy read near 0."""

    @property
    def base(self) -> str:
        """The name without its unit."""
        return self.name.rpartition("_")[0] if self.quantity in UNITS else self.name

    @property
    def unit(self) -> str | None:
        """The unit of the vocabulary, as it stands in the name; None: the column has none."""
        return self.name.rpartition("_")[2] if self.quantity in UNITS else None


@dataclass(frozen=True)
class Table:
    """A kind of measurement, which a file holds."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the columns that a file must have."""
        return tuple(column.name for column in self.columns if column.needed)


_DEVICE = Column("device", "name", "name of the device, the same in all files")
_PLACE = (
    Column("row", "number", "word line of the device", needed=False),
    Column("column", "number", "bit line of the device", needed=False),
)

TABLES = {
    table.name: table
    for table in (
        Table(
            "programming",
            "program-and-verify: where a write landed",
            (
                _DEVICE,
                Column("goal_us", "conductance", "goal of the write"),
                Column("read_us", "conductance", "conductance that was read back", signed=True),
                Column("age_s", "time", "time from the write to this read", needed=False),
                *_PLACE,
            ),
        ),
        Table(
            "reads",
            "repeated reads of a device that is not written in between",
            (
                _DEVICE,
                Column("time_s", "time", "time of the read, from any zero"),
                Column("read_us", "conductance", "conductance that was read", signed=True),
                *_PLACE,
            ),
        ),
        Table(
            "retention",
            "a conductance over the time since its write",
            (
                _DEVICE,
                Column("age_s", "time", "time since the write"),
                Column("g_us", "conductance", "conductance at that time", signed=True),
                *_PLACE,
            ),
        ),
        Table(
            "pulses",
            "trains of blind pulses",
            (
                _DEVICE,
                Column("pulse", "number", "number of the pulse, in the order of time"),
                Column("polarity", "polarity", "up or down; also +1 and -1, set and reset"),
                Column("before_us", "conductance", "conductance before the pulse", signed=True),
                Column("after_us", "conductance", "conductance after it", signed=True),
                Column("amplitude_v", "voltage", "amplitude of the pulse", needed=False, signed=True),
                *_PLACE,
            ),
        ),
    )
}
