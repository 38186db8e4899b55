"""A layer's crossbars on one chip: programmed conductances, and the products they compute.

The effective current of a row slice and device column is ``I = V * sum of code / 2**bits * g`` (µA, with V in volt and g in
µS). Its read noise is one Gaussian of variance ``(V * read_sigma)**2 * sum of (code / 2**bits)**2``, which is the
distribution of independent noise on every device; the conversion adds ``sigma_lsb`` LSB. See `cimc.ir.encoding` for how
codes become the product again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError, FitError, RunError
from cimc.ir.encoding import quantise, steps_of_full_weight
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.program import Layer
from cimc.runtime import im2col
from cimc.runtime.arrays.devices import Devices
from cimc.runtime.arrays.layer_arrays import LayerArrays
from cimc.runtime.backends.cpu import Cpu
from cimc.runtime.backends.interface import Backend, Handle
from cimc.runtime.coding import Coding
from cimc.runtime.converters import ColumnErrors
from cimc.runtime.copies import SharedRead
from cimc.runtime.layout import leak_steps
from cimc.runtime.planes import Window
from cimc.runtime.read_spec import ReadSpec
from cimc.runtime.repeats import mean_of_columns, mean_of_reads, on_columns
from cimc.runtime.slow_noise import SlowRead
from cimc.runtime.unfold import Unfolding, unfolding
from cimc.runtime.wires.grid import on_wires

F32 = NDArray[np.float32]
Array = NDArray[Any]


@dataclass
class Crossbar(LayerArrays):
    """One layer on one chip; arguments as of `LayerArrays`, and these.

    Args:
        layer: From the program; ``row_cuts``, ``column_cuts`` set; its ``adc_range_ua`` is where the ADC's range starts.
        adc_range_ua: That range instead of the layer's.
        backend: Computes its reads.

    Raises:
        FitError: The leakage of the array's rows reaches half a level step, which a conversion per bit would count.
    """

    adc_range_ua: float | None = None
    backend: Backend = field(default_factory=Cpu)

    def __post_init__(self) -> None:
        super().__post_init__()
        target, layer = self.target, self.layer
        self._ideal = target.is_ideal
        #: Made ready for reads; None: not since what it was made of changed.
        self._read: Handle | None = None
        self._changes = self.watch()
        #: Handle of transposed reads, which `cimc.runtime.transposed` makes, and the changes that it has not taken in.
        self.turned: Handle | None = None
        self.turned_changes = self.watch()
        self._errors: dict[int, ColumnErrors | None] = {}
        #: Of the digital sum, where `rescale` has changed it since the handle was made; None: the handle's own.
        self._factor: NDArray[np.float64] | None = None
        self._rescaled = False
        self.recode(layer if self.adc_range_ua is None else layer.model_copy(update={"adc_range_ua": self.adc_range_ua}))
        leak = leak_steps(target) * max(end - begin for begin, end in pairwise(self.row_cuts))
        if self._coding.per_bit and leak >= 0.5 and target.adc.pair_read == "separate":
            raise FitError(
                f"rows at g_min leak {leak:.3g} level steps into a column; a conversion per bit needs less than 0.5",
                where=f"target {target.name}, layer {layer.name}",
                fix="fewer array.rows, a lower device.g_min_us, or adc.conversion=integrated",
            )

    @property
    def steps_of_window(self) -> float:
        """Level steps that the window has."""
        return steps_of_full_weight(self.target)

    def devices(self, begin: int, end: int) -> F32:
        """What a read sees of rows ``begin`` to ``end``, µS, ``[groups, rows, read planes * columns]``, without unit columns."""
        read = self.effective[0].of_planes(self.target.read_planes)
        return read.g_us[:, begin:end].reshape(self.groups, end - begin, -1)

    def weights(self) -> F32:
        """What a product without noise multiplies by, ``[groups, rows, columns]``: `held_weights`, and the IR drop of wires."""
        return self.matrix.astype(np.float32) if self._ideal else self._in_weight_units(self.effective[0])

    def held_weights(self) -> F32:
        """What the devices hold now, in weight units, ``[groups, rows, columns]``."""
        return self.matrix.astype(np.float32) if self._ideal else self._in_weight_units(self.present[0])

    def _in_weight_units(self, devices: Devices) -> F32:
        return devices.weights(self.row_cuts, self.unit_cuts, self.target)

    def recode(self, layer: Layer) -> None:
        """Take the input coding and the ADC range of another version of the layer; conductances stay."""
        self.layer, self.adc_range_ua = layer, layer.adc_range_ua
        self._coding = Coding.of(self.target, layer)
        self._read = None
        self._shift: NDArray[np.float64] | None = None

    def rescale(self, weight_max: Array) -> None:
        """See `LayerArrays.rescale`. Nothing is made ready anew, so it may be called at each training step."""
        super().rescale(weight_max)
        self._rescaled = True

    def _ready(self, positions: int) -> Handle:
        """The layer made ready for reads, of what its devices hold now."""
        changes = self._changes
        if changes.anew:
            self._read = None
        elif self._read is not None and changes.some:
            self._read = self._read if self._refreshed(self._read, changes.written) else None
            self._set_shift()
        changes.clear()
        if self._read is not None:
            if self._rescaled and not self._ideal:
                self._rescaled, self._factor = False, self.read_spec().factor
                self._set_shift()
            return self._read
        self._rescaled, self._factor = False, None
        if self._ideal:
            self._read = self.backend.prepare_ideal(self.matrix)
            return self._read
        handles = [self.handle(self.read_spec(copy), positions) for copy in range(len(self.held))]
        self._read = handles[0] if len(handles) == 1 else SharedRead(handles)
        self._set_shift()
        return self._read

    def handle(self, spec: ReadSpec, positions: int) -> Handle:
        """A read made ready by the backend, with the slow noise of the devices where they have any."""
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
        cuts = self.row_cuts, self.unit_cuts
        devices = self.effective[copy].of_planes(self.target.read_planes)
        spec = ReadSpec.from_target(devices, self._coding, *cuts, self.target, range_ua, self._errors_of(copy))
        return spec if self.target.array.wires is None else on_wires(spec)

    def _errors_of(self, copy: int) -> ColumnErrors | None:
        """Of the converters of one copy; they are those of its cells' lines and never change."""
        if copy not in self._errors:
            errors = ColumnErrors.of(self.target, self.cells_of(copy))
            planes = self.target.read_planes, self.target.planes
            self._errors[copy] = None if errors is None else errors.of_planes(*planes, self.columns)
        return self._errors[copy]

    def _set_shift(self) -> None:
        """What inputs of 0, which have a code of their own where inputs are offset, add to each product."""
        if self._coding.shift and not self._ideal:
            sums = quantise(self.matrix, self.weight_max, self.target).sum(axis=1).reshape(-1)
            self._shift = sums * self._coding.shift * self.coefficients.weight_step / self._coding.gain

    def _refreshed(self, read: Handle, written: NDArray[np.int64] | None) -> bool:
        """Whether the handle could take in what was written: devices by flat numbers; None: any."""
        if self._ideal:
            read.refresh_ideal(self.matrix)
            return True
        spec = self.read_spec()
        # Wires spread a change over their lines; a subtracted pair, and devices beside an array without a share, are numbered
        # otherwise.
        alone = self.target.array.wires is None and self.target.adc.pair_read == "separate"
        alone = alone and len(self.target.read_planes) == self.target.planes
        return read.refresh(spec, written if alone else None)

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
            scale: One digital factor for each output column; None: 1.
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
            where = unfolding(geometry, x.shape, self.groups, self.layer.inputs, self.layer.repeats.rows)
        except DataError as error:
            fix = "give data of the shape that the model takes"
            raise DataError(error.what, where=f"layer {self.layer.name}", fix=fix) from None
        positions, total, repeats = where.positions, self.groups * self.columns, self.layer.repeats
        read = self._ready(positions)
        codes = self._codes(x, where, dtype)
        images = codes.shape[1]
        factor, constant = self._digital(read, scale, None if isinstance(geometry, ConvTranspose) else offset)
        y = np.empty(images * positions * total, dtype)
        strides = (positions * total, *((total, 1) if isinstance(geometry, Dense) else (1, positions)))
        saturated = mean_of_reads(
            read, repeats.reads, codes, where, seed_key, first_image, factor, constant, y, strides
        )  # fmt: skip
        self._count(images * positions, saturated)
        y = mean_of_columns(y, repeats.columns, self.groups, self.columns, None if isinstance(geometry, Dense) else positions)
        total //= repeats.columns
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
        scale, offset = (self._on_columns(word, values) for word, values in (("scale", scale), ("offset", offset)))
        if (rows := self.layer.repeats.rows) > 1:  # the sum over the repeats of all rows
            scale = np.full(self.groups * self.columns, 1 / rows) if scale is None else scale / rows
        own = read.factor if self._factor is None else self._factor
        factor = own if scale is None else own * scale
        constant = np.zeros(factor.size) if offset is None else offset.astype(np.float64).reshape(-1)
        if read.intercept is not None:
            constant = constant + factor * read.intercept
        if self._shift is not None:
            constant = constant - (self._shift if scale is None else self._shift * scale)
        return factor, constant

    def _on_columns(self, word: str, values: Array | None) -> Array | None:
        """One number for each column on the crossbars, from one for each output column."""
        if values is None:
            return None
        repeats = self.layer.repeats.columns
        self._need_one_a_column(word, values, self.groups * self.columns // repeats)
        return on_columns(values, repeats, self.groups)

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
        reads = self.layer.repeats.reads
        stats.tile_reads += positions * reads * coding.polarities * self.tiles
        stats.adc_saturations += saturations
        if self.target.adc.bits is not None:
            stats.adc_conversions += positions * reads * coding.weights.size * self.slices * self.lines
