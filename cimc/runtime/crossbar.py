"""A layer's crossbars on one chip: programmed conductances, and the products they compute.

The effective current of a row slice and device column is ``I = V * sum of code / 2**bits * g`` (µA, with V in volt and g in
µS). Its read noise is one Gaussian of variance ``(V * read_sigma)**2 * sum of (code / 2**bits)**2``, which is the
distribution of independent noise on every device; the conversion adds ``sigma_lsb`` LSB. See `cimc.ir.encoding` for how
codes become the product again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError, DataError, FitError, RunError
from cimc.ir.encoding import Coefficients, quantise
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.program import Layer
from cimc.runtime import im2col, rng
from cimc.runtime.backends.cpu import Cpu
from cimc.runtime.backends.interface import Backend, Handle
from cimc.runtime.cells import Cells, may_be_stuck, stick
from cimc.runtime.coding import Coding
from cimc.runtime.compensation import Factors
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.copies import SharedRead
from cimc.runtime.devices import Memristor, State, device_model, read_variance
from cimc.runtime.fabricate import Devices, fabricate
from cimc.runtime.layout import leak_steps
from cimc.runtime.planes import Window
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.slow_noise import SlowRead
from cimc.runtime.stats import Stats
from cimc.runtime.unfold import Unfolding, unfolding
from cimc.runtime.wires.grid import on_wires
from cimc.runtime.wires.layer import LayerWires
from cimc.targets.description import Target

F32 = NDArray[np.float32]
Array = NDArray[Any]


@dataclass
class Crossbar:
    """One layer on one chip.

    Args:
        layer: From the program; ``row_cuts``, ``column_cuts`` set; its ``adc_range_ua`` is where the ADC's range starts.
        matrix: ``[groups, rows, columns]``, any real dtype.
        weight_max: ``[1]`` or ``[groups * columns]``.
        target: The chip.
        chip_seed: Of the chip: the same seed programs the same conductances, faults and all.
        copies: Copies of the layer that work at once; each is programmed.
        cells: Of each copy on the die; copies that have none are cells of no array.
        time_s: Present time of the chip; `advance` changes it.
        programmed_s: Time at which the matrix is programmed, where it has to be.
        backend: Computes its reads.

    Raises:
        FitError: The leakage of the array's rows reaches half a level step, which a conversion per bit would count.
    """

    layer: Layer
    matrix: Array
    weight_max: Array
    target: Target
    chip_seed: int = 0
    adc_range_ua: float | None = None
    stats: Stats = field(default_factory=Stats)
    copies: int = 1
    cells: tuple[Cells, ...] = ()
    time_s: float = 0.0
    programmed_s: float = 0.0
    backend: Backend = field(default_factory=Cpu)

    def __post_init__(self) -> None:
        target, layer = self.target, self.layer
        self.groups, self.rows, self.columns = self.matrix.shape
        self.row_cuts = layer.row_cuts or (0, self.rows)
        self.column_cuts = layer.column_cuts or (0, self.columns)
        tiles = len(self.column_cuts) - 1
        lines = target.planes // 2 if target.adc.pair_read == "subtracted" else target.planes
        #: Lines that are converted.
        self.lines = lines * self.columns + (tiles if target.array.unit_column else 0)
        #: That fire at a position: row slices of all groups, and tiles.
        self.slices = self.groups * (len(self.row_cuts) - 1)
        self.tiles = self.slices * tiles
        self._ideal = target.is_ideal
        #: What each copy holds; empty until the layer is programmed.
        self._held: tuple[Devices, ...] = ()
        #: What they hold at the present time; None: not known yet.
        self._present: tuple[Devices, ...] | None = None
        self._model = device_model(target.device)
        #: Of each copy, where drift is compensated and time has passed; else empty.
        self.factors: tuple[Factors, ...] = ()
        self._states: dict[tuple[int, bool], State] = {}
        #: What a read of each copy sees, where the target has wires; empty until it is needed.
        self._effective: list[Devices] = []
        self._wires: list[LayerWires] = []
        #: Devices that were written since; None: any.
        self._unsolved: list[NDArray[np.int64]] | None = []
        #: Made ready for reads; None: not since what it was made of changed.
        self._read: Handle | None = None
        #: Devices that were written since the handle was made, a part for each call of `written`; None: any.
        self._changed: list[NDArray[np.int64]] | None = []
        #: Handle of transposed reads, which `cimc.runtime.transposed` makes, and whether conductances have changed since.
        self.turned: Handle | None = None
        self.turned_stale = False
        self._errors: dict[int, ColumnErrors | None] = {}
        self.recode(layer if self.adc_range_ua is None else layer.model_copy(update={"adc_range_ua": self.adc_range_ua}))
        leak = leak_steps(target) * max(end - begin for begin, end in pairwise(self.row_cuts))
        if self._coding.per_bit and leak >= 0.5 and target.adc.pair_read == "separate":
            raise FitError(
                f"rows at g_min leak {leak:.3g} level steps into a column; a conversion per bit needs less than 0.5",
                where=f"target {target.name}, layer {layer.name}",
                fix="fewer array.rows, a lower device.g_min_us, or adc.conversion=integrated",
            )

    # Devices ------------------------------------------------------------------------------------------------------

    @property
    def g_us(self) -> F32:
        """Conductances that the last writes left, µS, ``[groups, rows, planes, columns]``. Call `written` after a change."""
        return self._programmed().g_us

    @property
    def unit_g_us(self) -> F32:
        """The same of the unit columns, µS, ``[groups, rows, column tiles]``."""
        return self._programmed().unit_g_us

    @property
    def held(self) -> tuple[Devices, ...]:
        """What the last writes left in each copy; `g_us`, calibration and coefficients are those of the first."""
        self._programmed()
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
        if not self._effective:
            self._wires = self._wires or [LayerWires(self.cells_of(copy), wires) for copy in range(len(self.present))]
            self._effective = [own.solve(devices) for own, devices in zip(self._wires, self.present, strict=True)]
        elif self._unsolved is None:
            self._effective = [self._wires[0].solve(self.present[0])]
        elif self._unsolved:
            self._wires[0].solve_some(self.present[0], np.concatenate(self._unsolved), self._effective[0])
        self._unsolved = []
        return tuple(self._effective)

    def hold(self, held: Sequence[Devices]) -> None:
        """Let the copies of the layer hold these devices, one entry a copy; counts go on.

        Where the device model keeps more than conductances and an entry does not give it, its devices are written now.
        """
        self._held, self.copies = tuple(self._complete(devices) for devices in held), len(held)
        self._states.clear()
        self._wires, self.factors = [], ()
        self._forget()

    def state(self, copy: int = 0, units: bool = False) -> State:
        """The devices of a copy, or its unit columns, as writers and the device model take them; views, so changes are real."""
        if (copy, units) not in self._states:
            devices, cells = self.held[copy], self.cells_of(copy)
            g_us, arrays = (devices.unit_g_us, devices.unit_arrays) if units else (devices.g_us, devices.arrays)
            keys, flat = cells.unit_keys if units else cells.keys, {name: array.reshape(-1) for name, array in arrays.items()}
            self._states[copy, units] = State(g_us.reshape(-1), keys, flat, self.time_s)
        return self._states[copy, units]

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

    def _compensate(self, kind: str) -> None:
        """A reference read of every copy; products take its factors from now on."""
        sigma_us, seed = self.target.device.read_sigma_us, rng.key("reference read", self.chip_seed, self.layer.name)
        self.factors, factors = (), []
        self._forget()
        for copy, (written, now) in enumerate(zip(self.held, self.present, strict=True)):
            key = rng.key(seed, copy, int(np.float64(self.time_s).view(np.int64)))
            factors.append(Factors.measured(written, now, self.row_cuts, sigma_us, kind, key))
        self.factors = tuple(factors)
        self.stats.reference_reads += self.tiles * self.copies
        if self.target.adc.bits is not None:
            self.stats.reference_conversions += self.slices * self.lines * self.copies
        self._forget()

    def check_factors(self, columns: NDArray[Any] | None, units: NDArray[Any] | None) -> None:
        """See that factors against drift from a checkpoint suit the first copy; None: there are none.

        Raises:
            ArtifactError: They are not float64 of the shape of the layer's lines, or one of the two is missing.
        """
        if columns is None and units is None:
            return
        groups, slices = self.groups, len(self.row_cuts) - 1
        shapes = (groups, slices, *self.g_us.shape[2:]), (groups, slices, self.unit_g_us.shape[2])
        for array, shape in zip((columns, units), shapes, strict=True):
            if array is None or array.shape != shape or array.dtype != np.float64:
                raise ArtifactError(
                    "its factors against drift are those of other devices",
                    where=f"layer {self.layer.name}",
                    fix="resume with the same model and options, or start anew",
                )

    def take_factors(self, columns: NDArray[Any] | None, units: NDArray[Any] | None) -> None:
        """Take factors against drift of the first copy, which `check_factors` has let pass; None: there are none."""
        self.factors = () if columns is None or units is None else (Factors(np.array(columns), np.array(units)),)
        self._forget()

    def _forget(self) -> None:
        """What follows from the devices is made anew when it is next needed."""
        self._read = self.turned = self._present = None
        self._effective = []

    def _complete(self, devices: Devices) -> Devices:
        g_us, unit_g_us = np.ascontiguousarray(devices.g_us), np.ascontiguousarray(devices.unit_g_us)
        arrays = devices.arrays or self._model.arrays(g_us, self.time_s)
        unit_arrays = devices.unit_arrays or self._model.arrays(unit_g_us, self.time_s)
        return Devices(g_us, unit_g_us, devices.coefficients, arrays, unit_arrays)

    def _aged(self, copy: int) -> Devices:
        """What a copy holds now."""
        held = self.held[copy]
        shapes, states = (held.g_us.shape, held.unit_g_us.shape), (self.state(copy), self.state(copy, True))
        g_us = [self._conductance(state) for state in states]
        variances = [self._variance(state, g) for state, g in zip(states, g_us, strict=True)]
        if any(new is not state.g_us for new, state in zip(g_us, states, strict=True)) or variances[0] is not None:
            one, other = (None if v is None else v.reshape(shape) for v, shape in zip(variances, shapes, strict=True))
            g_us = [g.reshape(shape) for g, shape in zip(g_us, shapes, strict=True)]
            held = replace(held, g_us=g_us[0], unit_g_us=g_us[1], variance_us2=one, unit_variance_us2=other)
        return self.factors[copy].applied(held, self.column_cuts) if self.factors else held

    def _conductance(self, state: State) -> F32:
        """What devices hold now, µS, flat; ``state.g_us`` itself where nothing moves it. Stuck cells do not move."""
        g_us = self._model.conductance(state, self.time_s)
        if g_us is not state.g_us and may_be_stuck(self.target.device):
            stick(self.target.device, g_us, state.cells)
        return g_us

    def _variance(self, state: State, g_us: F32) -> F32 | None:
        """Variance of a read of each device that holds ``g_us`` now, µS², flat; None: that of ``device.read_sigma_us``."""
        return read_variance(self._model, self.target.device, state, g_us, self.time_s)

    @property
    def programmed(self) -> bool:
        """Whether the devices hold something already; otherwise they are programmed when they are first needed."""
        return bool(self._held)

    @property
    def coefficients(self) -> Coefficients:
        """How the digital side combines device columns."""
        return self._programmed().coefficients

    def devices(self, begin: int, end: int) -> F32:
        """What a read sees of rows ``begin`` to ``end``, µS, ``[groups, rows, planes * columns]``, without unit columns."""
        return self.effective[0].g_us[:, begin:end].reshape(self.groups, end - begin, -1)

    def weights(self) -> F32:
        """What a product without noise multiplies by, ``[groups, rows, columns]``: `held_weights`, and the IR drop of wires."""
        return self.matrix.astype(np.float32) if self._ideal else self._in_weight_units(self.effective[0])

    def held_weights(self) -> F32:
        """What the devices hold now, in weight units, ``[groups, rows, columns]``."""
        return self.matrix.astype(np.float32) if self._ideal else self._in_weight_units(self.present[0])

    def _in_weight_units(self, devices: Devices) -> F32:
        return devices.weights(self.row_cuts, self.column_cuts, self.target)

    def set_conductances(self, g_us: F32, unit_g_us: F32 | None = None) -> None:
        """Let the first copy hold these conductances, of the shapes of `g_us` and `unit_g_us`."""
        old, *others = self.held
        self.hold((Devices(g_us, old.unit_g_us if unit_g_us is None else unit_g_us, old.coefficients), *others))

    def written(self, devices: NDArray[np.int64] | None = None) -> None:
        """Conductances were changed in place: what is derived from them is brought up to date at the next product.

        Args:
            devices: Which, by flat numbers in `g_us`; None: any. Of a layer with copies, any device of any copy may have changed.
        """
        if len(self._held) > 1:
            self._forget()
            return
        if devices is None:
            self._present = None
        elif self._present is not None and self._present[0] is not self._held[0]:
            now, some = self._present[0], self.state().at(devices)
            g_us = self._conductance(some)
            now.g_us.reshape(-1)[devices] = g_us
            if now.variance_us2 is not None:
                now.variance_us2.reshape(-1)[devices] = self._variance(some, g_us)
        if self._effective:
            self._unsolved = None if devices is None or self._unsolved is None else [*self._unsolved, devices]
        self._changed = None if devices is None or self._changed is None else [*self._changed, devices]
        self.turned_stale = True

    def release(self) -> None:
        """Free what a later product makes again from the seed."""
        self._held = ()
        self._states.clear()
        self._forget()

    def recode(self, layer: Layer) -> None:
        """Take the input coding and the ADC range of another version of the layer; conductances stay."""
        self.layer, self.adc_range_ua = layer, layer.adc_range_ua
        self._coding = Coding.of(self.target, layer)
        self._read = None
        self._shift: NDArray[np.float64] | None = None

    def _programmed(self) -> Devices:
        if not self._held:
            seed = rng.key("devices", self.chip_seed, self.layer.name)
            layer = self.matrix, self.weight_max, self.row_cuts, self.column_cuts, self.target
            keys = (rng.key(seed, "copy", copy) if copy else seed for copy in range(self.copies))
            self._held = tuple(fabricate(*layer, key, self.cells_of(copy), self.programmed_s) for copy, key in enumerate(keys))
        return self._held[0]

    def cells_of(self, copy: int = 0) -> Cells:
        """The cells of one copy."""
        return self.cells[copy] if copy < len(self.cells) else Cells(self.layer, self.target, self.chip_seed, copy)

    def _ready(self, positions: int) -> Handle:
        """The layer made ready for reads, of what its devices hold now."""
        if self._read is not None and self._changed != []:
            self._read = self._read if self._refreshed(self._read) else None
            self._set_shift()
        self._changed = []
        if self._read is not None:
            return self._read
        if self._ideal:
            self._read = self.backend.prepare_ideal(self.matrix)
            return self._read
        handles = [self._handle(self.read_spec(copy), positions) for copy in range(len(self.held))]
        self._read = handles[0] if len(handles) == 1 else SharedRead(handles)
        self._set_shift()
        return self._read

    def _handle(self, spec: ReadSpec, positions: int) -> Handle:
        slow = self.target.device.slow_noise
        if slow is None:
            return self.backend.prepare(spec, positions)
        return SlowRead(spec, slow, lambda now: self.backend.prepare(now, positions))

    def read_spec(self, copy: int = 0) -> ReadSpec:
        """What a read of one copy does.

        Raises:
            RunError: The ADC's range is not known.
        """
        if self.target.adc.bits is not None and self.adc_range_ua is None and not self._coding.per_bit:
            fix = "calibrate, or --set adc.range_ua=..."
            raise RunError("the ADC's range is not known", where=f"layer {self.layer.name}", fix=fix)
        range_ua = self.adc_range_ua if self.target.adc.range_ua is not None or not self._coding.per_bit else None
        cuts = self.row_cuts, self.column_cuts
        read = self.effective[copy], self._coding, *cuts, self.target, range_ua, self._errors_of(copy)
        spec = ReadSpec.from_target(*read)
        return spec if self.target.array.wires is None else on_wires(spec)

    def _errors_of(self, copy: int) -> ColumnErrors | None:
        """Of the converters of one copy; they are those of its cells' lines and never change."""
        if copy not in self._errors:
            self._errors[copy] = ColumnErrors.of(self.target, self.cells_of(copy))
        return self._errors[copy]

    def _set_shift(self) -> None:
        """What inputs of 0, which have a code of their own where inputs are offset, add to each product."""
        if self._coding.shift and not self._ideal:
            sums = quantise(self.matrix, self.weight_max, self.target).sum(axis=1).reshape(-1)
            self._shift = sums * self._coding.shift * self.coefficients.weight_step / self._coding.gain

    def _refreshed(self, read: Handle) -> bool:
        """Whether the handle could take in what was written."""
        if self._ideal:
            read.refresh_ideal(self.matrix)
            return True
        spec = self.read_spec()
        # Wires spread a change over their lines, and a subtracted pair has other numbers than its devices.
        alone = self.target.array.wires is None and self.target.adc.pair_read == "separate"
        return read.refresh(spec, np.concatenate(self._changed) if alone and self._changed is not None else None)

    # Products -----------------------------------------------------------------------------------------------------

    def multiply(
        self,
        x: Array,
        geometry: Dense | Conv | ConvTranspose,
        seed_key: int,
        first_image: int = 0,
        scale: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """The product of every position of ``x`` with the layer's matrix, as this chip computes it.

        Args:
            x: The activation, any real float dtype.
            geometry: How its inputs form row vectors.
            seed_key: Key of the noise: chip seed, layer (or step) and direction, from `rng.key`.
            first_image: Number of the first image, so that a split along the batch draws the same noise.
            scale: ``[groups * columns]``: digital factor; None: 1.
            offset: The same shape: digital offset after the factor. Of a transposed convolution one a channel will do;
                a column's is taken from its channel's first.

        Returns:
            Shaped by ``geometry.output_shape``; float64 for float64 inputs, else float32 cast to the input's dtype.

        Raises:
            DataError: The input's shape does not suit the layer.
            RunError: The ADC's range is not known yet.
        """
        dtype: Any = np.float64 if x.dtype == np.float64 else np.float32
        try:
            where = unfolding(geometry, x.shape, self.groups, self.rows)
        except DataError as error:
            fix = "give data of the shape that the model takes"
            raise DataError(error.what, where=f"layer {self.layer.name}", fix=fix) from None
        positions, total = where.positions, self.groups * self.columns
        read = self._ready(positions)
        codes = self._codes(x, where, dtype)
        images = codes.shape[1]
        factor, constant = self._digital(read, scale, None if isinstance(geometry, ConvTranspose) else offset)
        y = np.empty(images * positions * total, dtype)
        strides = (positions * total, *((total, 1) if isinstance(geometry, Dense) else (1, positions)))
        self._count(images * positions, read.read(codes, where, seed_key, first_image, factor, constant, y, strides))
        out: Array
        if isinstance(geometry, ConvTranspose):
            added = im2col.fold(y.reshape(images, total, positions), Window.of(geometry, x.shape))
            out = added.reshape(*added.shape[:2], *geometry.resolved(x.shape[2:])[1])
            if offset is not None:
                self._need_one_a_column("offset", offset, out.shape[1] if offset.size == out.shape[1] else total)
                per_channel = offset.reshape(out.shape[1], -1)[:, 0].astype(dtype)
                out += per_channel.reshape(-1, *(1,) * (out.ndim - 2))
        elif isinstance(geometry, Conv):
            out = y.reshape(geometry.output_shape(x.shape, total))
        else:
            kept = tuple(x.shape[a] for a in geometry.input_perm[: geometry.kept])
            out = y.reshape(kept + geometry.output_dims).transpose(geometry.output_perm)
        return np.asarray(out, x.dtype, order="C")

    def _codes(self, x: Array, where: Unfolding, dtype: Any) -> Array:
        """Coded images, ``[phases, images, padded image]``."""
        codes, clips = self._coding.apply(where.padded_images(x, dtype))
        self.stats.dac_inputs += x.size
        self.stats.dac_clips += clips
        return codes

    def _digital(self, read: Handle, scale: Array | None, offset: Array | None) -> tuple[Array, Array]:
        """Factor and constant of each column after the digital sum, float64."""
        total = self.groups * self.columns
        self._need_one_a_column("scale", scale, total)
        self._need_one_a_column("offset", offset, total)
        factor = read.factor if scale is None else read.factor * scale
        constant = np.zeros(factor.size) if offset is None else offset.astype(np.float64).reshape(-1)
        if read.intercept is not None:
            constant = constant + factor * read.intercept
        if self._shift is not None:
            constant = constant - (self._shift if scale is None else self._shift * scale)
        return factor, constant

    def _need_one_a_column(self, word: str, array: Array | None, count: int) -> None:
        """Kernels index it without a further look.

        Raises:
            RunError: It has another size.
        """
        if array is not None and array.size != count:
            what = f"the digital {word} has {array.size} entries for {count} columns"
            raise RunError(what, where=f"layer {self.layer.name}", fix="compile the model again")

    def _count(self, positions: int, saturations: int) -> None:
        stats, coding = self.stats, self._coding
        stats.positions += positions
        stats.tile_reads += positions * coding.polarities * self.tiles
        stats.adc_saturations += saturations
        if self.target.adc.bits is not None:
            stats.adc_conversions += positions * coding.weights.size * self.slices * self.lines
