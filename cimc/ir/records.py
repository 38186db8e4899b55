"""The CIM target IR: crossbar layers, typed steps, and the tensors that they name.

A program is immutable; a pass returns a changed copy. Everything small is in the pydantic models and prints as JSON;
everything large is an array in ``tensors``, by name:

====================  =====================================================================================
``initializer/NAME``  the model's own initializer NAME, weights included, in its own dtype
``segment/NAME``      uint8: the ONNX model of the digital step NAME; its large initializers are external
                      data whose location is the initializer's name
``graph``             uint8: the ONNX model after ``select``, initializers external in the same way
``recipes``           uint8: ONNX model of how folded constants follow from parameters; absent where none does
``bound/NAME``        the value of the bound input NAME
``blocks/LAYER``      int32 ``[blocks, 9]``, columns as in ``BLOCK_FIELDS``
``weight_max/LAYER``  float32 ``[1]`` or ``[groups * columns]``: the weight that spans the conductance window
``scale/STEP``        float32 or float64, one for each output channel: digital factor after the crossbar sum; absent: 1
``offset/STEP``       the same shape: digital offset (bias, merged batch normalisation); absent: 0
====================  =====================================================================================

A trained program also holds its chip, in tensors that a checkpoint has too, and its initializers are the trained ones:

==========================  ===============================================================================
``state/seed``              int64 ``[1]``: of the chip
``state/draws``             int64 ``[3]``: images trained on, evaluations, calibrations, as `cimc.runtime.draws` counts them
``state/noise_seed``        int64 ``[1]``: of its read noise; absent: that of the chip
``state/images``            int64 ``[1]``: images that it has run, as `cimc.runtime.draws` counts them; absent: 0
``state/time_s``            float64 ``[1]``: present time of the chip, s; absent: 0
``state/LAYER/g_us``        float32 ``[groups, rows, planes, columns]``: conductances that the last writes left, µS
``state/LAYER/device.NAME`` as ``g_us``, numbers of any type: what the device model keeps beside, such as the time of the
                            last write; ``unit_device.NAME``, ``copies_device.NAME``, ``copies_unit_device.NAME`` likewise
``state/LAYER/unit_g_us``   float32 ``[groups, rows, column tiles]``: those of unit columns, where there are any
``state/LAYER/copies_g_us`` float32 ``[copies - 1, ...]``: ``g_us`` of the further copies; ``copies_unit_g_us`` likewise
``state/LAYER/alpha``       float64 ``[groups, slices, planes, columns]``: how columns count, where some are stored complemented;
                            ``unit_alpha`` ``[groups, slices, columns]``: that of the unit column
``state/LAYER/drift_factor`` float64 ``[copies, groups, slices, planes, columns]``: factors against drift; ``drift_unit_factor``
                            ``[copies, groups, slices, column tiles]``: of unit columns
``state/LAYER/sites``       int32, as a block table: where the blocks of all copies are, if the program does not say; ``lines``
                            int32, flat: word lines, then bit lines, of one block after the other
``state/STEP/fit_scale``    float64, one for each output channel: factor fitted to the outputs of this chip;
                            ``fit_offset``, the same shape, is added then; both act behind ``scale`` and ``offset``
``state/LAYER/weights``     float32 ``[groups, rows, columns]``: W, once where the layer has repeats; of trained layers alone, as
                            all below
``state/LAYER/delta``       the same shape: ΔW
``state/LAYER/written_us``  float32 ``[groups, rows, planes, columns]``: last target of each weight's devices, NaN where never
                            written; the same for all repeats of a weight
``state/LAYER/updates``     uint32, as ``weights``: updates of each weight in training
``state/LAYER/writes``      uint32, as ``g_us``: writes of each device in training
``state/LAYER/pulses``      uint32, likewise: pulses of each device, where the target's endurance counts pulses
``state/LAYER/w_max``       float32 ``[groups, columns]``: the weight that spans the window
``state/LAYER/factor``      float32, likewise: what learning has multiplied it by; of learnt scales alone
==========================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator

from cimc.arguments import checked, named
from cimc.errors import CimcError
from cimc.ir.forecast import Forecast
from cimc.ir.geometry import Conv, Geometry, Positive, WeightView, Whole
from cimc.targets.description import Target
from cimc.targets.told import Record

SCHEMA_VERSION = 1

#: Repeats of a layer's rows, columns or reads at most.
MOST_REPEATS = 64

#: Parts of ``state/STEP``: what outputs of the chip were fitted with.
FIT_PARTS = ("fit_scale", "fit_offset")

#: Columns of a ``blocks/LAYER`` table. A block is the part of one group's matrix that lies on one array. ``slice`` and
#: ``column_tile`` number the row slices and column tiles; ``chip``, ``tile``, ``row``, ``column`` say where its first cell
#: is (-1 before ``place``); ``height`` and ``width`` count word lines and device bit lines.
BLOCK_FIELDS = ("group", "slice", "column_tile", "chip", "tile", "row", "column", "height", "width")


class _Record(Record):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ValueSpec(_Record):
    """A graph input or output: ONNX element type by name, symbolic dimensions as strings, unknown ones null."""

    name: str
    dtype: str = Field(description='numpy or ml_dtypes name, "string", or "" where the type is no plain tensor.')
    shape: tuple[Whole | str | None, ...] | None
    type: str = Field("tensor", description="tensor, sequence, optional, map or sparse.")
    has_default: bool = Field(False, description="An input that the initializer of its name stands in for where it is not given.")
    range: tuple[float, float] | None = Field(None, description="Data outside is refused: the chip was calibrated for this only.")


class InputCoding(_Record):
    """How a layer's inputs become DAC codes: ``code = clip(rint(x * gain))``.

    ``full_scale`` is the largest input that does not clip. A signed layer uses the target's ``dac.signed`` encoding.
    """

    gain: float = Field(1.0, gt=0, description="Codes per unit of input; 1 where the DAC has no quantisation.")
    signed: bool = True
    full_scale: float | None = Field(None, ge=0)
    basis: str = Field("", description="Where range and sign come from: calibration, synthetic input, interval analysis.")
    bits_lost: float = Field(0.0, description="log2 of how far the gain stays below the DAC's full scale, for the ADC's sake.")
    clip_share: float = Field(0.0, ge=0, le=1, description="Share of the calibration inputs beyond the full scale, by choice.")


class Repeats(_Record):
    """How often a layer's matrix is laid out on its crossbars, and how often they are read: errors average.

    The matrix ``W`` lies on the crossbars ``rows * columns`` times, as a block matrix. Every repeat of a row gets the same input.
    The digital side divides sums by ``rows``, and averages the repeats of a column and the ``reads`` of an input.
    """

    rows: int = Field(1, ge=1, le=MOST_REPEATS, description="Times that each row lies on word lines.")
    columns: int = Field(1, ge=1, le=MOST_REPEATS, description="Times that each column lies on bit lines.")
    reads: int = Field(1, ge=1, le=MOST_REPEATS, description="Reads of each input, averaged.")

    @property
    def cells(self) -> int:
        """Places of each weight on the crossbars."""
        return self.rows * self.columns

    def averaged(self, array: NDArray[Any]) -> NDArray[Any]:
        """The mean over the repeats of each weight, of ``[groups, rows, ..., columns]`` of the layer's crossbars."""
        if self.cells == 1:
            return array
        groups, rows, *inner, columns = array.shape
        parts = array.reshape(groups, self.rows, rows // self.rows, *inner, self.columns, columns // self.columns)
        mean: NDArray[Any] = parts.mean(axis=(1, -2), dtype=np.float64).astype(array.dtype)
        return mean

    def laid_out(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """A matrix ``[groups, rows, columns]`` as it lies on the crossbars; the same array where nothing is repeated."""
        return matrix if self.cells == 1 else np.tile(matrix, (1, self.rows, self.columns))

    def on_columns(self, values: NDArray[Any], groups: int) -> NDArray[Any]:
        """One number, or one of each column (any shape), as those of all columns on the crossbars, flat."""
        if self.columns == 1 or values.size == 1:
            return values.reshape(-1)
        return np.tile(values.reshape(groups, -1), self.columns).reshape(-1)

    def of_columns(self, values: NDArray[Any], groups: int) -> NDArray[Any]:
        """The reverse of `on_columns`: the numbers of the first repeat, flat."""
        if self.columns == 1 or values.size == 1:
            return values.reshape(-1)
        return values.reshape(groups, self.columns, -1)[:, 0].reshape(-1)


#: Each weight once, and one read.
ONCE = Repeats()


class Layer(_Record):
    """One weight matrix on crossbars; several steps may use it."""

    name: str
    weight: WeightView
    channel_rows: Positive = Field(1, description="Rows of one input channel: a cut at whole channels falls on multiples.")
    group_packing: Positive = Field(1, description="ONNX groups in one group here, on the block diagonal of its matrix.")
    repeats: Repeats = ONCE
    coding: InputCoding = InputCoding()
    adc_range_ua: float | None = Field(None, gt=0, description="Full scale of the ADC for this layer; null without an ADC.")
    row_cuts: tuple[Whole, ...] = Field((), description="Row slice s is rows row_cuts[s] to row_cuts[s + 1]; set by `tile`.")
    column_cuts: tuple[Whole, ...] = Field((), description="The same for the column tiles, in weight columns.")
    weight_error: float | None = Field(None, description="RMS error of the quantised weights over the RMS weight.")

    @property
    def groups(self) -> int:
        return self.weight.shape[0] // self.group_packing

    @property
    def rows(self) -> int:
        """Rows of one group's matrix on the crossbars, packed ONNX groups and repeats included."""
        return self.inputs * self.repeats.rows

    @property
    def columns(self) -> int:
        """Weight columns of one group's matrix on the crossbars, packed ONNX groups and repeats included."""
        return self.weight.shape[2] * self.group_packing * self.repeats.columns

    @property
    def inputs(self) -> int:
        """Inputs of one group's matrix, packed ONNX groups included."""
        return self.weight.shape[1] * self.group_packing

    @property
    def once(self) -> Layer:
        """The layer as if each weight lay on its crossbars once."""
        return self.model_copy(update={"repeats": ONCE})

    @property
    def crossbars(self) -> int:
        """Logical arrays that fire at a position."""
        return self.groups * max(0, len(self.row_cuts) - 1) * max(0, len(self.column_cuts) - 1)


class DigitalStep(_Record):
    """A maximal segment of nodes that the digital unit (ONNX Runtime) executes."""

    kind: Literal["digital"] = "digital"
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...] = Field(description="Names of the ONNX nodes in it.")
    splits_exactly: bool = Field(True, description="Proved to give the same bytes for any split along the batch axis.")


class VmmStep(_Record):
    """A layer's crossbars applied to one activation: ``y = (x @ W) * scale + offset``."""

    kind: Literal["vmm"] = "vmm"
    name: str
    layer: str
    input: str
    output: str
    geometry: Geometry
    dtype: str = Field("float32", description="dtype of the output.")
    positions: Whole | None = Field(None, description="Positions of one image; null where the shape is not known.")
    positions_basis: str = Field("", description="What the positions assume, or why they are null; empty: the model alone.")
    nodes: tuple[str, ...] = Field(description="The ONNX node it stands for, then those merged into scale and offset.")
    stage: Whole = Field(0, description="Order of firing, set by `schedule`; steps of one stage do not depend on each other.")


class VmmBackwardStep(_Record):
    """Gradient of a crossbar step's activation: ``dX = dY @ W^T * alpha``, overlapping windows added up."""

    kind: Literal["vmm_backward"] = "vmm_backward"
    name: str
    layer: str
    input: str = Field(description="Gradient of the product.")
    activation: str = Field(description="The forward activation: its shape, and where it left the DAC's range.")
    output: str
    geometry: Geometry
    alpha: float = 1.0
    mode: Literal["digital", "analog"] = Field(
        "digital", description="digital: by the FP32 copy of W; analog: on the transposed array."
    )
    ste: Literal["pass", "clipped"] = Field("pass", description="What becomes of a gradient where the DAC saturated.")
    positions: Whole | None = Field(None, description="Positions of one image; null where the shape is not static.")
    nodes: tuple[str, ...]


class OuterStep(_Record):
    """A layer's weight gradient, ``[groups, rows, columns]``: the outer products of inputs and output gradients, summed."""

    kind: Literal["outer"] = "outer"
    name: str
    layer: str
    input: str = Field(description="The forward activation, real-valued.")
    gradient: str = Field(description="Gradient of the product.")
    output: str
    geometry: Geometry
    alpha: float = 1.0
    positions: Whole | None = Field(None, description="Positions of one image; null where the shape is not static.")
    nodes: tuple[str, ...]


class PoolBackwardStep(_Record):
    """Gradient of a MaxPool's input: each output's gradient goes to the first element of its window that equals it.

    ONNX Runtime has no such operator, and its pooling is ten times slower where it must tell the winners.
    """

    kind: Literal["pool_backward"] = "pool_backward"
    name: str
    input: str = Field(description="Gradient of the output.")
    activation: str = Field(description="The forward input.")
    pooled: str = Field(description="The forward output.")
    output: str
    geometry: Conv


class MaskStep(_Record):
    """Dropout factors in the shape of ``input``, keyed by seed, step and image: 0, or ``1 / (1 - ratio)``."""

    kind: Literal["mask"] = "mask"
    name: str
    input: str
    output: str
    ratio: float = Field(gt=0, lt=1)


class RandomStep(_Record):
    """A random operator of the model; its draws are keyed by seed, step and image.

    ``normal`` and ``uniform`` give ``offset + factor * draw``, with a standard normal draw or one from 0 to 1, in the shape of
    ``input`` or in ``shape``. ``bernoulli`` gives 1 with the probabilities ``input``. ``multinomial`` gives ``samples`` class
    numbers for each row of ``input``, which holds logarithms of probabilities. ``dropout`` gives ``input`` times 0 or
    ``1 / (1 - ratio)``, then perhaps the mask.
    """

    kind: Literal["random"] = "random"
    name: str
    operator: Literal["normal", "uniform", "bernoulli", "multinomial", "dropout"]
    input: str | None = Field(None, description="A value or an initializer; null: the shape is static.")
    outputs: tuple[str, ...] = Field(min_length=1, max_length=2)
    dtype: str = Field(description="Of the first output.")
    shape: tuple[Whole, ...] | None = None
    offset: float = 0.0
    factor: float = 1.0
    samples: Positive = 1
    ratio: float = Field(0.0, ge=0, lt=1)


#: Which digital factors of a layer train.
Scales = Literal["none", "layer", "column"]


class UpdateStep(_Record):
    """Hands a parameter its gradient, the sum of ``inputs``; the trainer makes the step."""

    kind: Literal["update"] = "update"
    name: str
    parameter: str = Field(description="Name of the initializer.")
    layer: str | None = Field(None, description="The layer that holds it, gradients then [groups, rows, columns]; null: digital.")
    inputs: tuple[str, ...]
    action: Literal["descend", "assign"] = Field(
        "descend", description="assign: the input is the new value (running statistics)."
    )
    scales: Scales = Field("none", description="Digital factors of the layer that train too: one, or one a column.")


Step = Annotated[
    DigitalStep | VmmStep | VmmBackwardStep | OuterStep | PoolBackwardStep | MaskStep | RandomStep | UpdateStep,
    Field(discriminator="kind"),
]


class Placement(_Record):
    """Where one ONNX node of the user's model went, and why."""

    name: str
    op_type: str
    where: Literal["analog", "digital", "folded"]
    why: str


class Parameter(_Record):
    """A real initializer of the model, and what training does with it."""

    name: str
    where: Literal["crossbar", "digital"]
    shape: tuple[int, ...]
    trains: bool
    why: str = Field(description="Its role where it trains, else why it does not.")
    shared_by: tuple[str, ...] = Field((), description="Nodes that share it; empty where one alone reads it.")
    into: tuple[str, ...] = Field((), description="Weights of crossbars that are computed from it; it trains through that.")


class Provenance(_Record):
    """What the program was made from."""

    cimc_version: str = ""
    model: str = Field("", description="File name of the model.")
    model_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    calibration: str = Field("", description="The data behind input scales and ADC ranges, in words.")
    fitted: str = Field("", description="How outputs of the chip in the program were fitted (state/STEP/fit_scale), in words.")
    training: dict[str, Any] | None = Field(None, description="Settings of its training on a chip, by name; null: none.")
    notes: tuple[str, ...] = ()


class Preprocessing(_Record):
    """Stored with the model, applied to data files and training data, for chip and ONNX Runtime alike.

    ``(x * scale - mean) / std``. With a scale, x are the numbers as they stand in the data, 0 to 255 of uint8 images; without
    one, uint8 images are scaled to 0...1 first, as they are without preprocessing.
    """

    scale: float | None = Field(None, description="Not 0, which would make all images equal.")
    mean: tuple[float, ...] = Field((0.0,), min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, scale: float | None) -> float | None:
        if scale == 0:
            raise ValueError("scale is 0, which makes all images equal")
        return scale


class ProgramRecord(_Record):
    """The data of a compiled model; `cimc.ir.program.Program` is what users hold. ``tensors`` is kept out of the JSON."""

    schema_version: int = SCHEMA_VERSION
    target: Target
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    layers: tuple[Layer, ...] = ()
    steps: tuple[Step, ...] = ()
    bound: tuple[str, ...] = Field((), description="Inputs of the model that became constants when it was compiled.")
    parameters: tuple[str, ...] = Field((), description="Digital initializers that a training program reads anew at each run.")
    plan: tuple[Parameter, ...] = Field((), description="Of a training program: every real initializer, and whether it trains.")
    loss: str | None = Field(None, description="Of a training program: the output that is its loss.")
    labels: str | None = Field(None, description="Of a training program: the input that the loss compares with; null: none.")
    placements: tuple[Placement, ...] = ()
    expected: Forecast | None = Field(None, description="What the program is expected to lose; null: nothing, or not known.")
    provenance: Provenance = Provenance()
    preprocessing: Preprocessing | None = None
    tensors: Mapping[str, NDArray[Any]] = Field(default_factory=dict, exclude=True, repr=False)

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    @checked()
    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            CimcError: There is none.
        """
        layers = {layer.name: layer for layer in self.layers}
        return layers[named(name, layers, "layer")]

    def forecast(self) -> Forecast:
        """What the program is expected to lose, by layer and cause and at the outputs.

        Raises:
            CimcError: The program was compiled for the ideal target, for training, or by an older version.
        """
        if self.expected is None:
            raise CimcError("the program holds no forecast", fix="compile the model for a chip with errors, by this version")
        return self.expected

    def placement(self) -> list[dict[str, str]]:
        """A row for each node of the user's model: name, op_type, where (analog, digital, folded), why."""
        return [row.model_dump() for row in self.placements]

    def initializers(self) -> dict[str, NDArray[Any]]:
        """The model's own initializers by their own names."""
        prefix = "initializer/"
        return {name.removeprefix(prefix): array for name, array in self.tensors.items() if name.startswith(prefix)}

    def bound_values(self) -> dict[str, NDArray[Any]]:
        """The values of the inputs that became constants when the model was compiled, by name."""
        return {name: self.tensors[f"bound/{name}"] for name in self.bound}

    @property
    def vmm_steps(self) -> tuple[VmmStep, ...]:
        return tuple(s for s in self.steps if isinstance(s, VmmStep))


def polarities(layer: Layer, target: Target) -> int:
    """Tile operations that one read of a position takes: 2 where signed inputs go in two phases, else 1.

    Without a DAC's quantisation too, if there is an ADC, which takes no negative current.
    """
    quantised = target.dac.bits is not None
    two_phase = target.dac.signed == "two_phase" if quantised else target.adc.bits is not None
    return 2 if layer.coding.signed and two_phase else 1


def position_firings(layer: Layer, target: Target) -> int:
    """Tile operations that one position of the layer takes: one for each polarity and each repeated read."""
    return polarities(layer, target) * layer.repeats.reads


def output_channels(step: VmmStep, layer: Layer) -> int:
    """Channels of a step's outputs: as many entries have its digital scale and offset."""
    groups, _, columns = layer.weight.shape
    taps = prod(step.geometry.kernel_shape) if step.geometry.kind == "conv_transpose" else 1
    return groups * columns // taps


def weight_matrix(program: ProgramRecord, layer: Layer) -> NDArray[Any]:
    """The layer's weights as ``[groups, rows, columns]`` in the initializer's dtype, as they lie on the crossbars.

    Packed groups lie on the block diagonal, repeats of rows and columns side by side.
    """
    return to_matrix(layer, program.tensors[f"initializer/{layer.weight.tensor}"])


def to_matrix(layer: Layer, tensor: NDArray[Any]) -> NDArray[Any]:
    """What a layer views of an array of its initializer's shape, as `weight_matrix` gives it."""
    return on_crossbars(layer.weight.matrix_of(tensor), layer)


def on_crossbars(matrix: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The model's matrix ``[groups, rows, columns]`` as it lies on the layer's crossbars: groups packed, then repeated."""
    return layer.repeats.laid_out(pack(matrix, layer.group_packing))


def pack(matrix: NDArray[Any], packing: int) -> NDArray[Any]:
    """``[groups, rows, columns]`` with so many groups in one, on the block diagonal of its matrix."""
    if packing == 1:
        return matrix
    groups, rows, columns = matrix.shape
    packed = np.zeros((groups // packing, packing, rows, packing, columns), matrix.dtype)
    packed[:, np.arange(packing), :, np.arange(packing), :] = matrix.reshape(-1, packing, rows, columns).swapaxes(0, 1)
    return packed.reshape(groups // packing, packing * rows, packing * columns)
