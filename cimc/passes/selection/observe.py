"""Sizes that no inference tells, seen in two runs of the model.

A size counts as fixed if it is the same in both runs, and could have been another one: every size that the model's inputs
leave open differs between the runs, the batch too, and no operator on the way makes a size from the data (NonZero, a Reshape
to a computed target that depends on more than shapes, control flow). What does not run on such inputs tells nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import DataError
from cimc.ir.bodies import bodies, used_values
from cimc.ir.expand import expand
from cimc.ir.onnx_io import reason, session, split
from cimc.ir.samples import keyed
from cimc.passes.base import Compilation
from cimc.passes.samples import draw, given
from cimc.passes.selection.shapes import NamedDims, named_dims

#: Batch, and every other open size, of two runs; the first pair that the model runs on is taken.
SIZES = (((2, 16), (3, 24)), ((2, 32), (3, 64)), ((2, 224), (3, 256)), ((2, 512), (3, 1024)))
#: Operators whose output's size follows from the contents of these inputs; None: of all.
_SIZED_BY: dict[str, tuple[int, ...] | None] = {
    "NonZero": None, "Unique": None, "NonMaxSuppression": None, "Compress": (1,), "StringSplit": None, "ImageDecoder": None,
    "Reshape": (1,), "Expand": (1,), "Tile": (1, 2), "Slice": (1, 2, 3, 4), "Pad": (1,), "Resize": (1, 2, 3), "Upsample": (1,),
    "ConstantOfShape": (0,), "Range": None, "OneHot": (1,), "Split": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "TopK": (1,),
    "CenterCropPad": (1,), "Col2Im": (1, 2), "MaxUnpool": (2,), "AffineGrid": (1,), "DFT": (1, 2), "STFT": (1, 3),
    "BlackmanWindow": None, "HannWindow": None, "HammingWindow": None, "MelWeightMatrix": None,
}  # fmt: skip

Feeds = dict[str, NDArray[Any]]
log = logging.getLogger(__name__)


def observe(state: Compilation, values: Collection[ir.Value]) -> bool:
    """Write down what two runs show of the values' sizes; True if anything is known now that was not."""
    by_data = _sized_by_data(state.model.graph)
    asked = [v for v in values if v not in by_data and not v.is_graph_input() and not v.is_initializer()]
    if not asked:
        return False
    names = [str(value.name) for value in asked]
    try:
        runner = session(*split(expand(state.model)), outputs=names)
    except Exception as error:  # ONNX Runtime has a class of its own for every status code
        log.info("sizes are not seen in a run of the model: %s", reason(error))
        return False
    for pair in _pairs(state):
        try:
            first, second = (runner.run(names, {i.name: feeds[i.name] for i in runner.get_inputs()}) for feeds in pair)
        except Exception as error:  # as above
            log.info("sizes are not seen in a run of the model: %s", reason(error))
            continue
        learned = [_learn(value, a.shape, b.shape) for value, a, b in zip(asked, first, second, strict=True)]
        if any(learned):
            state.notes.append(
                f"sizes of {sum(learned)} values were seen in two runs of the model in which every open size differed "
                f"('{names[learned.index(True)]}', ...); data that lead to other sizes are refused when it runs"
            )
        return any(learned)
    return False


def _learn(value: ir.Value, first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Take over what both runs agree on; a rank that differs tells nothing."""
    if len(first) != len(second) or (value.shape is not None and len(value.shape) != len(first)):
        return False
    before: NamedDims = (None,) * len(first) if value.shape is None else named_dims(value.shape)
    dims = tuple(d if isinstance(d, int) else a if a == b else d for d, a, b in zip(before, first, second, strict=True))
    changed = value.shape is None or dims != before
    value.shape = ir.Shape(dims)
    return changed


def _pairs(state: Compilation) -> Iterator[tuple[Feeds, Feeds]]:
    """Inputs of two runs: the user's where only the batch is open, then synthetic ones of growing size."""
    inputs = [v for v in state.model.graph.inputs if not v.is_initializer()]
    opened = {id(d) if d.value is None else d.value for v in inputs for d in v.shape or () if not isinstance(d, int)}
    if state.calibration is not None and len(opened) < 2:
        try:
            source = given(state.model, state.calibration)
            one, other = (2, 3) if source.step is None else (source.step, source.step)
            if source.images >= other:
                yield source.feeds(np.arange(one)), source.feeds(np.arange(source.images - other, source.images))
        except DataError as error:  # `calibrate` says it
            log.info("sizes are not seen in a run of the model: %s", reason(error))
    if any(not isinstance(v.type, ir.TensorType) or v.shape is None for v in inputs):
        return
    batch = next((v.shape[0] for v in inputs if v.shape and not isinstance(v.shape[0], int)), None)
    span = state.target.input.range or (0.0, 1.0)
    for pair in SIZES if opened else SIZES[:1]:
        first, second = ({str(v.name): _drawn(v, batch, sizes, span) for v in inputs} for sizes in pair)
        yield first, second


def _drawn(value: ir.Value, batch: Any, sizes: tuple[int, int], span: tuple[float, float]) -> NDArray[Any]:
    dims = [d if isinstance(d, int) else sizes[0] if d is batch or d == batch else sizes[1] for d in value.shape or ()]
    return draw(value, tuple(dims), span, keyed("observe", str(value.name), *sizes))


def made_from_data(value: ir.Value) -> bool:
    """Whether the size of a value stays unknown although all inputs have fixed sizes: an operator makes it from the data."""
    seen: set[ir.Node] = set()
    todo: list[ir.Value] = [value]
    while todo:
        node = todo.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in ("Loop", "Scan") or _SIZED_BY.get(node.op_type, ()) is None:
            return True
        todo += used_values(node)
    return False


def _sized_by_data(graph: ir.Graph) -> set[ir.Value]:
    """Values whose size may depend on what the inputs hold, not only on how large they are."""
    contents = {value for value in graph.inputs if not value.is_initializer()}
    sizes: set[ir.Value] = set()
    for node in graph:
        read = list(used_values(node))
        sized = any(value in sizes for value in read) or any(value in contents for value in _sizing(node))
        if sized:
            sizes.update(node.outputs)
        if any(value in (sizes if node.op_type in ("Shape", "Size") else contents) for value in read) or sized:
            contents.update(node.outputs)
    return sizes


def _sizing(node: ir.Node) -> list[ir.Value]:
    """Inputs whose contents say how large the outputs are."""
    if bodies(node) or "Sequence" in node.op_type or "Optional" in node.op_type:
        return list(used_values(node))
    given_to = [value for value in node.inputs if value is not None]
    if node.domain not in ("", "ai.onnx"):
        return [value for value in given_to if value.dtype is None or value.dtype.is_integer()]
    slots = _SIZED_BY.get(node.op_type, (1,) if node.op_type.startswith("Reduce") else ())
    return given_to if slots is None else [v for i in slots if i < len(node.inputs) and (v := node.inputs[i]) is not None]
