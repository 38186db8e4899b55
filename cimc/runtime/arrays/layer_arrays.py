"""A layer's devices on one chip, in all its copies: what they hold, now and as a read sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.ir.encoding import Coefficients, has_units, steps_of_full_weight, unit_cuts
from cimc.ir.program import Layer
from cimc.runtime import rng
from cimc.runtime.arrays.ageing import Ageing
from cimc.runtime.arrays.changes import Changes
from cimc.runtime.arrays.compensation import Factors
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.arrays.fabricate import fabricate
from cimc.runtime.cells import Cells
from cimc.runtime.devices import Memristor, State, device_model
from cimc.runtime.stats import Stats
from cimc.runtime.wires.layer import LayerWires
from cimc.targets.description import Target

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Array = NDArray[Any]


@dataclass
class LayerArrays:
    """The devices that hold a layer.

    Args:
        layer: From the program; its name keys the devices.
        matrix: ``[groups, rows, columns]``, any real dtype: the weights that are programmed.
        weight_max: ``[1]`` or ``[groups * columns]``.
        target: The chip.
        chip_seed: Of the chip: the same seed programs the same conductances, faults and all.
        copies: Copies of the layer that work at once; each is programmed.
        cells: Of each copy on the die; copies that have none are cells of no array.
        time_s: Present time of the chip; `advance` changes it.
        programmed_s: Time at which the matrix is programmed, where it has to be.
        stats: Take the counts of reference reads.
    """

    layer: Layer
    matrix: Array
    weight_max: Array
    target: Target
    chip_seed: int = 0
    copies: int = 1
    cells: tuple[Cells, ...] = ()
    time_s: float = 0.0
    programmed_s: float = 0.0
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        target, layer = self.target, self.layer
        self.groups, self.rows, self.columns = self.matrix.shape
        self.row_cuts = layer.row_cuts or (0, self.rows)
        self.column_cuts = layer.column_cuts or (0, self.columns)
        #: Cuts between weight columns that share a unit column or a column of references.
        self.unit_cuts = unit_cuts(self.column_cuts, target)
        tiles = len(self.column_cuts) - 1
        lines = len(target.read_planes) // (2 if target.adc.pair_read == "subtracted" else 1)
        #: Lines that are converted.
        self.lines = lines * self.columns + (len(self.unit_cuts) - 1 if has_units(target) else 0)
        #: That fire at a position: row slices of all groups, and tiles.
        self.slices = self.groups * (len(self.row_cuts) - 1)
        self.tiles = self.slices * tiles
        self._model = device_model(target.device)
        self._ageing = Ageing(target.device, self._model)
        #: Of each copy, where drift is compensated and time has passed; else empty.
        self.factors: tuple[Factors, ...] = ()
        #: What each copy holds; empty until the layer is programmed.
        self._held: tuple[Devices, ...] = ()
        self._states: dict[tuple[int, bool], State] = {}
        #: What they hold at the present time; None: not known yet.
        self._present: tuple[Devices, ...] | None = None
        #: What a read of each copy sees, where the target has wires; empty until it is needed.
        self._effective: list[Devices] = []
        self._wires: list[LayerWires] = []
        self._watched: list[Changes] = []
        self._unsolved = self.watch()

    def watch(self) -> Changes:
        """Changes from now on, for one reader, who clears them; all is new to it."""
        self._watched.append(Changes())
        return self._watched[-1]

    # What devices hold ---------------------------------------------------------------------------------------------

    @property
    def programmed(self) -> bool:
        """Whether the devices hold something already; otherwise they are programmed when they are first needed."""
        return bool(self._held)

    @property
    def held(self) -> tuple[Devices, ...]:
        """What the last writes left in each copy; `g_us`, calibration and coefficients are those of the first."""
        if not self._held:
            seed = rng.key("devices", self.chip_seed, self.layer.name)
            layer = self.matrix, self.weight_max, self.row_cuts, self.unit_cuts, self.target
            keys = (rng.key(seed, "copy", copy) if copy else seed for copy in range(self.copies))
            self._held = tuple(fabricate(*layer, key, self.cells_of(copy), self.programmed_s) for copy, key in enumerate(keys))
        return self._held

    @property
    def present(self) -> tuple[Devices, ...]:
        """What each copy holds at the present time: the entries of `held` themselves where nothing has moved them."""
        if self._present is None:
            self._present = tuple(self._aged(copy) for copy in range(len(self.held)))
        return self._present

    @property
    def effective(self) -> tuple[Devices, ...]:
        """What a read of each copy sees: what it holds now, where lines have resistance with effective conductances."""
        wires = self.target.array.wires
        if wires is None:
            return self.present
        news = self._unsolved
        if not self._effective or news.anew:
            self._wires = self._wires or [LayerWires(self.cells_of(copy), wires) for copy in range(len(self.present))]
            self._effective = [own.solve(devices) for own, devices in zip(self._wires, self.present, strict=True)]
        elif news.some and (written := news.written) is not None:
            self._wires[0].solve_some(self.present[0], written, self._effective[0])
        elif news.some:
            self._effective = [self._wires[0].solve(self.present[0])]
        news.clear()
        return tuple(self._effective)

    @property
    def g_us(self) -> F32:
        """Conductances that the last writes left, µS, ``[groups, rows, planes, columns]``. Call `written` after a change."""
        return self.held[0].g_us

    @property
    def unit_g_us(self) -> F32:
        """The same of unit columns or references, µS, ``[groups, rows, unit columns]``."""
        return self.held[0].unit_g_us

    @property
    def coefficients(self) -> Coefficients:
        """How the digital side combines device columns."""
        return self.held[0].coefficients

    def cells_of(self, copy: int = 0) -> Cells:
        """The cells of one copy."""
        return self.cells[copy] if copy < len(self.cells) else Cells(self.layer, self.target, self.chip_seed, copy)

    def state(self, copy: int = 0, units: bool = False) -> State:
        """The devices of a copy, or its unit columns, as writers and the device model take them; views, so changes are real."""
        if (copy, units) not in self._states:
            devices, cells = self.held[copy], self.cells_of(copy)
            g_us, arrays = (devices.unit_g_us, devices.unit_arrays) if units else (devices.g_us, devices.arrays)
            keys, flat = cells.unit_keys if units else cells.keys, {name: array.reshape(-1) for name, array in arrays.items()}
            self._states[copy, units] = State(g_us.reshape(-1), keys, flat, self.time_s)
        return self._states[copy, units]

    # What changes them ---------------------------------------------------------------------------------------------

    def hold(self, held: Sequence[Devices]) -> None:
        """Let the copies of the layer hold these devices, one entry a copy; counts go on.

        Where the device model keeps more than conductances and an entry does not give it, its devices are written now.
        """
        self._held, self.copies = tuple(self._complete(devices) for devices in held), len(held)
        self._states.clear()
        self._wires, self.factors = [], ()
        self._forget()

    def set_conductances(self, g_us: F32, unit_g_us: F32 | None = None) -> None:
        """Let the first copy hold these conductances, of the shapes of `g_us` and `unit_g_us`."""
        old, *others = self.held
        self.hold((Devices(g_us, old.unit_g_us if unit_g_us is None else unit_g_us, old.coefficients), *others))

    def written(self, devices: I64 | None = None) -> None:
        """Conductances were changed in place: what is derived from them is brought up to date when it is next needed.

        Args:
            devices: Which, by flat numbers in `g_us`; None: any. Of a layer with copies, any device of any copy may have changed.
        """
        if len(self._held) > 1:
            self._forget()
            return
        if devices is None:
            self._present = None
        elif self._present is not None and self._present[0] is not self._held[0]:
            self._ageing.update(self._present[0], self.state(), devices)
        for changes in self._watched:
            changes.add(devices)

    def rescale(self, weight_max: Array) -> None:
        """Let another weight span the conductance window; devices keep what they hold. `matrix` is the caller's to scale.

        Args:
            weight_max: ``[1]``, or one a column, of any shape.
        """
        self.weight_max = weight_max
        step = np.asarray(weight_max, np.float64).reshape(-1) / steps_of_full_weight(self.target)
        for devices in (*self._held, *(self._present or ()), *self._effective):
            devices.coefficients.weight_step[...] = step

    def advance(self, time_s: float) -> None:
        """Let the present time be ``time_s``."""
        self.time_s = time_s
        for state in self._states.values():
            state.time_s = time_s
        if type(self._model) is not Memristor or any(devices.arrays for devices in self._held):
            self._forget()
        drift = self.target.device.drift
        if drift is not None and drift.compensation != "none":
            self._compensate(drift.compensation)

    def compensate(self, factors: Sequence[Factors]) -> None:
        """Let products take these factors against drift, one entry a copy; none: there is no compensation."""
        self.factors = tuple(factors)
        self._forget()

    def release(self) -> None:
        """Free what is made again from the seed when it is next needed."""
        self._held = ()
        self._states.clear()
        self._forget()

    def _compensate(self, kind: str) -> None:
        """A reference read of every copy; products take its factors from now on."""
        sigma_us, seed = self.target.device.read_sigma_us, rng.key("reference read", self.chip_seed, self.layer.name)
        self.compensate(())
        factors = []
        for copy, (written, now) in enumerate(zip(self.held, self.present, strict=True)):
            key = rng.key(seed, copy, int(np.float64(self.time_s).view(np.int64)))
            factors.append(Factors.measured(written, now, self.row_cuts, sigma_us, kind, key))
        self.compensate(factors)
        self.stats.reference_reads += self.tiles * self.copies
        if self.target.adc.bits is not None:
            self.stats.reference_conversions += self.slices * self.lines * self.copies

    def _forget(self) -> None:
        """What follows from the devices is made anew when it is next needed."""
        self._present, self._effective = None, []
        for changes in self._watched:
            changes.anew = True

    def _complete(self, devices: Devices) -> Devices:
        g_us, unit_g_us = np.ascontiguousarray(devices.g_us), np.ascontiguousarray(devices.unit_g_us)
        arrays = devices.arrays or self._model.arrays(g_us, self.time_s)
        unit_arrays = devices.unit_arrays or self._model.arrays(unit_g_us, self.time_s)
        return Devices(g_us, unit_g_us, devices.coefficients, arrays, unit_arrays)

    def _aged(self, copy: int) -> Devices:
        """What a copy holds now."""
        now = self._ageing.aged(self.held[copy], self.state(copy), self.state(copy, True))
        return self.factors[copy].applied(now, self.unit_cuts) if self.factors else now
