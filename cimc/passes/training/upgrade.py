"""The inference graph at the opset of training graphs, compared with what it was on the same inputs and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import DataError, ModelError
from cimc.ir.expand import expand
from cimc.ir.onnx_io import join, reason, session, split
from cimc.ir.program import Program
from cimc.ir.seeds import REAL_SEEDED, fix_seeds
from cimc.passes.gradients.expand import spell_out_defaults
from cimc.passes.gradients.survey import OPSET
from cimc.passes.lowering.random import hidden_random
from cimc.passes.parameters import uses
from cimc.passes.recipes import RECIPE, Recipes, inlined
from cimc.passes.samples import Source, synthetic
from cimc.passes.selection.operand import FLOATS

#: The first IR version that the opset needs.
_IR_VERSION = 11
#: The opset from which on Resize says where it samples.
_RESIZE = 11
#: Images of the comparison.
_IMAGES = 2
#: Told of a conversion that no synthetic input could check.
UNCHECKED = f"the conversion to opset {OPSET} is compared on the first training data: the model runs on no synthetic input"


def upgraded(program: Program) -> tuple[ir.Model, list[str]]:
    """The program's graph, ``Vmm`` nodes as they are, at opset `survey.OPSET`.

    Constants that are computed from parameters are computed in the graph, by their recipes. Operators of other domains have no
    version there and stay. ONNX's converter only sees the small form of the model: large initializers stand in as inputs.

    Args:
        program: Compiled for inference.

    Returns:
        The model, and notes: `UNCHECKED`, if it remains to be compared on data; see `check_upgrade`.

    Raises:
        ModelError: ONNX cannot convert it, or what comes out has other inputs or outputs, is refused by ONNX Runtime, or
            computes something else; or a random operator stands where its draws have no key.
    """
    before, after = _both(program)
    if after is before:
        return after, []
    source = synthetic(before, program.target.input.range)
    expected = _first_run(before, source)
    if expected is None:
        return after, [UNCHECKED]
    _same_results(before, after, *expected)
    return after, []


def check_upgrade(program: Program, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Compare the graph before and after the conversion on these inputs.

    Raises:
        ModelError: They differ.
        DataError: ONNX Runtime does not run the model on the inputs.
    """
    before, after = _both(program)
    try:
        expected = _run(before, inputs)
    except Exception as error:  # ONNX Runtime has a class for every status
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        raise DataError(f"the model does not run on it ({shapes}): {reason(error)}", where="data") from error
    _same_results(before, after, inputs, expected)


def _both(program: Program) -> tuple[ir.Model, ir.Model]:
    """The graph at its own opset, and at that of training; the same object where they are one."""
    small = inlined(program, _computed(program))
    before = join(small.SerializeToString(), program.initializers())
    for node in hidden_random(before.graph):
        raise ModelError(
            "ONNX Runtime draws it from a generator of its own, so a step would not repeat, and no checkpoint would hold it",
            where=f"node '{node.name}' ({node.op_type})",
            fix="export the model with it outside of If, Loop and Scan, with constant attributes",
        )
    opset = before.opset_imports.get("", OPSET)
    if opset == OPSET:
        return before, before
    after = join(converted(small, opset), program.initializers())
    _annotate(before, after)
    _same_interface(before, after)
    return before, after


def _computed(program: Program) -> list[str]:
    """Initializers that train through the recipe that makes them."""
    made = Recipes.of(program).made - {layer.weight.tensor for layer in program.layers}
    graph = join(program.tensors["graph"].tobytes(), program.initializers()).graph
    values = (v for v in graph.initializers.values() if v.name in made and v.dtype in FLOATS)
    return [str(v.name) for v in values if any(use.trains for use in uses(v))]


def _refused(why: str, opset: int) -> ModelError:
    return ModelError(
        f"training needs opset {OPSET}, the model has {opset}, and {why}",
        fix=f"export the model again with opset {OPSET}, or as near to it as your exporter goes",
    )


def converted(small: onnx.ModelProto, opset: int) -> bytes:
    """The small form of a model at the training opset, `survey.OPSET`; raises ModelError as `upgraded`."""
    from onnx import version_converter

    aside = [t for t in small.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    names = {t.name for t in aside}
    given = {value.name for value in small.graph.input}
    kept = [t for t in small.graph.initializer if t.name not in names]
    model = onnx.ModelProto()
    model.CopyFrom(small)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    stand_in = [t for t in aside if t.name not in given]
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in stand_in)
    if opset > OPSET:
        model = _without_newer(model, opset)
    try:
        after = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError, ValueError or its own type
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise _refused(f"ONNX's converter does not manage it: {last}", opset) from error
    if opset < _RESIZE:
        _sample_as_before(after.graph)
    drop = {t.name for t in stand_in}
    inputs = [value for value in after.graph.input if value.name not in drop]
    del after.graph.input[:]
    after.graph.input.extend(inputs)
    after.graph.initializer.extend(aside)
    after.ir_version = max(after.ir_version, _IR_VERSION)
    return after.SerializeToString()


def _without_newer(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Operators that came after the training opset are written out, as the standard defines them by older ones."""
    newer = set()
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            continue
        if onnx.defs.get_schema(node.op_type, opset).since_version > OPSET and not _older(node.op_type):
            spell_out_defaults(node, opset)
            newer.add(node.op_type)
    return onnx.inliner.inline_selected_functions(model, [("", name) for name in newer], inline_schema_functions=True)


def _older(op_type: str) -> bool:
    """Whether the training opset has it too."""
    try:
        onnx.defs.get_schema(op_type, OPSET)
    except onnx.defs.SchemaError:
        return False
    return True


def _sample_as_before(graph: onnx.GraphProto) -> None:
    """Before opset 11 Upsample and Resize had one way to sample; the converter leaves the later default, which is another."""
    for node in graph.node:
        if node.op_type == "Resize" and node.domain in ("", "ai.onnx"):
            ways = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            node.attribute.extend(onnx.helper.make_attribute(name, way) for name, way in ways.items())


def _annotate(before: ir.Model, after: ir.Model) -> None:
    """Types, shapes and notes of values that the converter leaves out."""
    known = {v.name: v for n in before.graph for v in n.outputs} | dict(before.graph.initializers)
    for value in (*(v for n in after.graph for v in n.outputs), *after.graph.initializers.values()):
        old = known.get(value.name)
        if old is not None:
            value.type, value.shape = value.type or old.type, value.shape or old.shape
            value.metadata_props.update(old.metadata_props)
    marked = {n.outputs[0].name: n for n in before.graph if RECIPE in n.metadata_props}
    for node in after.graph:
        if node.outputs[0].name in marked:
            node.metadata_props[RECIPE] = marked[node.outputs[0].name].op_type


def _same_interface(before: ir.Model, after: ir.Model) -> None:
    for word in ("inputs", "outputs"):
        old, new = ([(v.name, v.type) for v in getattr(model.graph, word)] for model in (before, after))
        if old != new:
            raise _refused(f"the conversion changed its {word}", before.opset_imports.get("", 0))


def _first_run(model: ir.Model, source: Source) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """The first synthetic input that the model runs on, with its outputs; None: there is none."""
    while True:
        feeds = source.feeds(np.arange(min(_IMAGES, source.images) if source.step is None else source.step))
        try:
            return feeds, _run(model, feeds)
        except Exception:  # ONNX Runtime has a class for every status
            if not source.guess_again():
                return None


def _same_results(before: ir.Model, after: ir.Model, feeds: Mapping[str, NDArray[Any]], expected: Mapping[str, Any]) -> None:
    opset = before.opset_imports.get("", 0)
    try:
        found = _run(after, feeds, expected)
    except Exception as error:  # as above
        raise _refused(f"ONNX Runtime refuses the conversion: {reason(error)}", opset) from error
    for name, new in found.items():
        if not _close(expected[name], new):
            raise _refused(f"its output {name} is another after conversion", opset)


def _run(model: ir.Model, feeds: Mapping[str, NDArray[Any]], drawn: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The outputs by name; what random operators drew is among them, or is taken from ``drawn``.

    ONNX Runtime has none of these operators at the training opset, but for Dropout, which draws from one seed.
    """
    model = expand(model)
    fix_seeds(model)
    outputs = {str(value.name): value for value in model.graph.outputs}
    random = {str(node.outputs[0].name): node for node in model.graph if node.op_type in REAL_SEEDED}
    if drawn is None:
        outputs |= {name: node.outputs[0] for name, node in random.items()}
    else:
        for name, node in random.items():
            old = node.outputs[0]
            given = ir.Value(name=name, type=old.type, shape=old.shape)
            old.replace_all_uses_with(given, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)
            model.graph.inputs.append(given)
        feeds = {**feeds, **{name: drawn[name] for name in random}}
    small, tensors = split(model)
    return dict(zip(outputs, session(small, tensors, outputs=list(outputs)).run(None, feeds), strict=True))


def _close(old: Any, new: Any) -> bool:
    if not (isinstance(old, np.ndarray) and isinstance(new, np.ndarray)):
        return type(old) is type(new)
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    if old.dtype.kind != "f":
        return bool((old == new).all())
    a, b = old.astype(np.float64), new.astype(np.float64)
    eps = float(np.finfo(old.dtype).eps)
    # Other kernels add up in another order: a thousand roundings of the largest value.
    return bool(np.allclose(a, b, rtol=0, atol=1000 * eps * max(1.0, float(np.abs(a).max(initial=0))), equal_nan=True))
