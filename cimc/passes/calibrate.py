"""Give each crossbar layer an input coding: run the graph in float on calibration data and see what the layer is given.

Example::

    before  conv1 | y = cimc.Vmm <layer = "conv1", ...> (x, w, b)
    after   conv1 | y = cimc.Vmm <layer = "conv1", ..., input_gain = 255.0, input_signed = 0, input_full_scale = 1.0,
                                  input_basis = "sign: interval analysis; full scale: stated range"> (x, w, b)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from math import ceil, inf, prod
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from cimc.errors import DataError, VerifyError
from cimc.ir.bodies import used_values
from cimc.ir.dialect import DOMAIN
from cimc.ir.expand import expand
from cimc.ir.geometry import Conv, Dense, Geometry
from cimc.ir.onnx_io import reason, session, split
from cimc.ir.ranging import SMALLEST_SCALE, input_coding
from cimc.ir.records import InputCoding
from cimc.ir.samples import Extent, rounded_up, row_vectors, wanted_vectors
from cimc.ir.seeds import fix_seeds
from cimc.ir.vmm import geometry_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_reasons
from cimc.passes.intervals import Interval, intervals
from cimc.passes.quantise import vmms
from cimc.passes.samples import Source, given, synthetic
from cimc.threads import parallel, threads

#: Images used at most; fewer for a large network, so that all together are so many multiply-accumulates, but never
#: fewer than `FEW_IMAGES` of those there are.
IMAGE_CAP, WORK_CAP, FEW_IMAGES = 256, 400e9, 16
#: The same for a synthetic input, whose images are all alike.
SYNTHETIC_WORK_CAP, FEW_SYNTHETIC = 10e9, 2
#: Activations of one run, and a weight that is fed, not built in.
_RUN_BYTES, _LARGE = 32 << 20, 1 << 20


_Found = tuple[dict[str, Any], list[NDArray[Any]]]
"""Feeds of a run, and the values asked for."""


@dataclass
class _Use:
    """One ``Vmm`` node and what it is given."""

    node: ir.Node
    layer: str
    value: str
    geometry: Geometry
    shape: tuple[int, int, int]
    wanted: int = 0
    parts: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True)
class Calibrate(Pass):
    """Sets input sign, full scale and gain of every ``Vmm``; keeps row vectors for `ranges`.

    Args:
        assumed_range: Where real inputs are taken to lie, where neither the target nor calibration data tell.
    """

    assumed_range: tuple[float, float] = (0.0, 1.0)

    name: ClassVar[str] = "calibrate"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `select` and after `lower`, or where a layer has an input coding already."""
        need_reasons(state)
        for node in vmms(state.model):
            if "input_gain" in node.attributes:
                raise VerifyError("its layer has an input coding already", where=f"Vmm '{node.name}'", fix="run this pass once")

    def call(self, state: Compilation) -> Sequence[str]:
        """Raises DataError where data do not suit the model, or it computes NaN or Inf from them."""
        uses = _uses(state.model)
        if state.target.is_ideal or not uses:
            return ()
        source = given(state.model, state.calibration) if state.calibration is not None else None
        bounds = intervals(state.model, _stated_ranges(state, uses, self.assumed_range))
        source = source or synthetic(state.model, state.target.input.range or self.assumed_range)
        extents, images, known = _observe(state, uses, source)
        state.source = source
        _describe(state, source, images)
        for layer in dict.fromkeys(use.layer for use in uses):
            mine = [use for use in uses if use.layer == layer]
            _set_coding(state, layer, mine, [extents[use.value] for use in mine], [bounds[use.value] for use in mine])
            state.samples[layer] = np.concatenate([part for use in mine for part in use.parts])
        for name, shape in known.items():
            state.input_shapes.setdefault(name, shape)
        return list(state.samples)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a ``Vmm`` has no coding, or nodes of one layer differ in it."""
        if state.target.is_ideal:
            return
        seen: dict[str, float | None] = {}
        for node in (use.node for use in _uses(state.model)):
            gain, layer = node.attributes.get_float("input_gain", None), node.attributes.get_string("layer", "")
            if gain is None or not gain > 0:
                raise VerifyError("it has no input gain", where=f"Vmm '{node.name}'")
            if seen.setdefault(str(layer), gain) != gain:
                raise VerifyError("its layer has two input codings", where=f"Vmm '{node.name}'")

    def unchanged(self, state: Compilation) -> str:
        """An ideal chip codes no inputs, or there is no layer."""
        return "an ideal chip codes no inputs" if state.target.is_ideal else "no product is on crossbars"


def _uses(model: ir.Model) -> list[_Use]:
    uses = []
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type == "Vmm":
            x = cast(ir.Value, node.inputs[0])
            shape = cast("tuple[int, int, int]", tuple(node.attributes.get_ints("view_shape") or ()))
            uses.append(_Use(node, node.attributes.get_string("layer") or "", str(x.name), geometry_of(node), shape))
    counts = {use.layer: sum(other.layer == use.layer for other in uses) for use in uses}
    for use in uses:
        use.wanted = ceil(wanted_vectors(use.shape[0], use.shape[1]) / counts[use.layer])
    return uses


def _stated_ranges(state: Compilation, uses: list[_Use], assumed: tuple[float, float]) -> dict[str, Interval]:
    """What is stated of real inputs on the way to crossbars; it goes into the model too, for the program to hold data to."""
    span = state.target.input.range
    if span is None and state.calibration is not None:
        return {}
    low, high = span or assumed
    found = {}
    for value in _inputs_on_the_way(uses):
        value.metadata_props["cimc.range"] = f"{low:.9g},{high:.9g}"
        found[str(value.name)] = Interval(low, high, exact=True)
        if span is None:
            state.notes.append(
                f"input {value.name} is taken to lie between {low:.3g} and {high:.3g}; other data are refused "
                "(--set input.range or --calibration), unless ranges are chosen on the chip, as training does"
            )
    return found


def _inputs_on_the_way(uses: list[_Use]) -> list[ir.Value]:
    todo = [cast(ir.Value, use.node.inputs[0]) for use in uses]
    seen: dict[ir.Value, None] = {}
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen[value] = None
        producer = value.producer()
        if producer is not None:
            todo += used_values(producer)
    real = [v for v in seen if v.is_graph_input() and v.dtype is not None and v.dtype.is_floating_point()]
    graph = uses[0].node.graph
    return sorted((v for v in real if v.graph is graph and not v.is_initializer()), key=lambda v: str(v.name))


def _observe(state: Compilation, uses: list[_Use], source: Source) -> tuple[dict[str, Extent], int, dict[str, tuple[int, ...]]]:
    """Run the model; extents by value, the images used, shapes in the first run."""
    model = expand(state.model)
    fix_seeds(model)
    values = list(dict.fromkeys(use.value for use in uses))
    made = {str(v.name): v for node in model.graph for v in node.outputs}
    asked = [name for name in values if name in made]
    constants = {name: v.const_value.numpy() for name, v in model.graph.initializers.items() if name in values and v.const_value}
    model.graph.outputs[:] = [made[name] for name in asked]
    RemoveUnusedNodesPass()(model)
    weights = _fed_weights(model)
    runner = None
    if asked:
        try:
            runner = session(*split(model), optimise=False, threads=1)  # the bytes of a product may depend on threads
        except Exception as error:  # ONNX Runtime has a class of its own for every status code
            raise DataError(reason(error), where="calibration: ONNX Runtime refuses the model in float") from error
    extents = {name: Extent(count=state.target.dac.clip_share > 0) for name in values}
    shapes: dict[str, tuple[int, ...]] = {}
    done = 0
    for chosen, images, (feeds, found) in _all_runs(
        _runs(source, uses, shapes), lambda part, again: _run(runner, asked, uses, part, weights, source, again=again)
    ):
        seen = constants | feeds | dict(zip(asked, found, strict=True))
        for name in values:
            if not extents[name].add(seen[name]):
                raise DataError("the model computes NaN or Inf from the calibration data", where=f"value {name}")
            shapes.setdefault(name, seen[name].shape)
        for use in uses:
            wanted = ceil(use.wanted * len(chosen) / images)
            key = f"{use.node.name}/{done}"
            use.parts.append(row_vectors(seen[use.value], use.geometry, use.shape[0], use.shape[1], wanted, key))
        done += len(chosen)
    return extents, done, {use.value: shapes[use.value] for use in uses}


def _all_runs(
    runs: Iterator[tuple[NDArray[np.int64], int]], run: Callable[[NDArray[np.int64], bool], _Found]
) -> Iterator[tuple[NDArray[np.int64], int, _Found]]:
    """Each run with what it gives, several at a time; the first by itself, as the sizes of the others come from it."""
    for chosen, images in islice(runs, 1):
        yield chosen, images, run(chosen, True)
    while group := list(islice(runs, threads())):
        found = _together(run, [chosen for chosen, _ in group])
        yield from ((chosen, images, one) for (chosen, images), one in zip(group, found, strict=True))


def _together(run: Callable[[NDArray[np.int64], bool], _Found], parts: list[NDArray[np.int64]]) -> list[_Found]:
    return parallel(lambda part: run(parts[part], False), len(parts))


def _runs(source: Source, uses: list[_Use], shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Image numbers of each run, chosen evenly, and how many there will be; the first run tells how many can be."""
    step = source.step or 1
    yield from ((np.arange(step), min(source.images, IMAGE_CAP)),)
    macs = 0.0
    for use in uses:
        positions = use.geometry.positions(_for_one_image(shapes[use.value], use.geometry, step))
        macs += positions * float(np.prod(use.shape))
    work, few = (SYNTHETIC_WORK_CAP, FEW_SYNTHETIC) if source.arrays is None else (WORK_CAP, FEW_IMAGES)
    images = min(source.images, IMAGE_CAP, max(few, int(work / max(1.0, macs))))
    images = max(1, images // step) * step
    chosen = np.arange(images) * (source.images // step * step) // images
    if source.step is None:
        size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        step = max(1, min(IMAGE_CAP, _RUN_BYTES // max(1, size)))
    first = source.step or 1
    for begin in range(first, images, step):
        yield chosen[begin : begin + step], images


def _for_one_image(shape: tuple[int, ...], geometry: Geometry, images: int) -> tuple[int, ...]:
    axis = geometry.input_perm[0] if isinstance(geometry, Dense) else 0
    if isinstance(geometry, Dense) and not geometry.kept:
        return shape
    return tuple(1 if a == axis and size == images else size for a, size in enumerate(shape))


def _fed_weights(model: ir.Model) -> dict[str, NDArray[Any]]:
    """Turn large weights into inputs: ONNX Runtime reads a feed where it lies, but copies an initializer for a moment."""
    weights = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= _LARGE and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            weights[name] = np.require(tensor.numpy(), requirements=("C", "A"))
            del model.graph.initializers[name]
            value.const_value = None
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            model.graph.inputs.append(value)
    return weights


def _run(
    runner: Any,
    asked: list[str],
    uses: list[_Use],
    chosen: NDArray[np.int64],
    weights: dict[str, NDArray[Any]],
    source: Source,
    *,
    again: bool,
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The feeds of these images and what the model makes of them; with ``again``, the source may guess other sizes."""
    feeds = source.feeds(chosen)
    wanted = set() if runner is None else {value.name for value in runner.get_inputs()}
    try:
        given_now = {name: array for name, array in feeds.items() if name in wanted}
        found = [] if runner is None else runner.run(asked, given_now | weights)
        _suits(uses, feeds | dict(zip(asked, found, strict=True)))
        return feeds, found
    except Exception as error:  # as above
        first = source.guess
        while again and source.guess_again():
            with suppress(DataError):
                return _run(runner, asked, uses, chosen, weights, source, again=False)
        source.guess = first
        shapes = ", ".join(f"{name} {'×'.join(map(str, array.shape)) or 'scalar'}" for name, array in feeds.items())
        if source.arrays is None:
            raise DataError(
                f"the model does not run on a synthetic input ({shapes}): {reason(error)}",
                where="calibrate",
                fix="give real data: --calibration DATA.npz",
            ) from error
        raise DataError(f"the model does not run on it ({shapes}): {reason(error)}", where="calibration data") from error


def _suits(uses: list[_Use], seen: dict[str, NDArray[Any]]) -> None:
    """The products themselves are not run, so what only they would refuse is refused here."""
    for use in uses:
        geometry, (groups, rows, _) = use.geometry, use.shape
        if use.value not in seen:
            continue  # a constant
        shape = seen[use.value].shape
        if isinstance(geometry, Dense):
            have, want = prod(shape[a] for a in geometry.input_perm[geometry.kept :]), groups * rows
        else:
            taps = prod(geometry.kernel_shape) if isinstance(geometry, Conv) else 1
            have, want = shape[1], groups * rows // taps
        if have != want:
            raise ValueError(f"node {use.node.name} wants rows of {want} values, its input {use.value} has {have}")


def _describe(state: Compilation, source: Source, images: int) -> None:
    if source.arrays is not None:
        state.calibration_basis = f"calibration data: {images} of {source.images} images"
    else:
        state.calibration_basis = f"{source.description}, {images} images"
    state.notes.append(f"input scales and ADC ranges come from {state.calibration_basis}")
    state.notes.extend(source.notes)


def _set_coding(state: Compilation, layer: str, uses: list[_Use], extents: list[Extent], bounds: list[Interval]) -> None:
    """One coding for all uses of a layer."""
    share = state.target.dac.clip_share
    proven = all(b.nonnegative for b in bounds)
    signed = not proven and any(e.signed for e in extents)
    sign_word = "interval analysis" if proven else "calibration" if state.calibration is not None else "synthetic input"
    stated = share == 0 and all(b.exact and b.low > -inf and b.high < inf for b in bounds)
    if stated:
        # Bounds have room for rounding, which is not to show.
        scale, scale_word = float(f"{max(max(-b.low, b.high) for b in bounds):.6g}"), "stated range"
        signed = any(b.low < 0 for b in bounds)
    else:
        scale, scale_word = rounded_up(max(e.full_scale(share) for e in extents)), state.calibration_basis
    if scale <= SMALLEST_SCALE:
        state.notes.append(f"layer {layer}: all its calibration inputs are 0; its input full scale is taken as 1")
    basis = f"sign: {sign_word}; full scale: {scale_word}"
    coding = state.codings[layer] = input_coding(scale, signed, basis, state.target)
    for use in uses:
        write_coding(use.node, coding)


def write_coding(node: ir.Node, coding: InputCoding) -> None:
    """Write an input coding to a ``Vmm``, as `calibrate` chooses it."""
    attributes = node.attributes
    attributes.add(ir.AttrFloat32("input_gain", coding.gain))
    attributes.add(ir.AttrInt64("input_signed", int(coding.signed)))
    attributes.add(ir.AttrFloat32("input_full_scale", cast(float, coding.full_scale)))
    attributes.add(ir.AttrString("input_basis", coding.basis))
