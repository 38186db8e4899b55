"""A program with other weights: the graph it was lowered from, lowered again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.dialect import register_schemas
from cimc.ir.onnx_io import join
from cimc.ir.program import Layer, Program
from cimc.passes.base import Compilation
from cimc.passes.lower import Lower
from cimc.passes.manager import PassManager
from cimc.passes.recipes import Recipes
from cimc.passes.schedule import Schedule
from cimc.passes.training.form import to_inference_form
from cimc.passes.training.plan import transposes
from cimc.training.accumulator import LayerState
from cimc.training.step import to_initializer

#: Tensors that belong to the layers, not to the graph.
_KEPT = ("blocks/", "weight_max/", "state/", "bound/")


def with_initializers(program: Program, changed: Mapping[str, NDArray[Any]], layers: tuple[Layer, ...]) -> Program:
    """The program with other values of some initializers, and with these codings and ranges of its layers.

    Args:
        program: For inference.
        changed: By initializer name, in its own shape and dtype.
        layers: Other versions of the program's layers.
    """
    model = join(program.tensors["graph"].tobytes(), program.initializers())
    recipes = Recipes.of(program)
    for name, array in {**changed, **recipes.follow(changed)}.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.Tensor(np.ascontiguousarray(array), name=name)
    lowered = _lowered(program, model, recipes)
    return program.model_copy(update={"layers": layers, "steps": lowered.steps, "tensors": lowered.tensors})


def in_inference_form(program: Program) -> tuple[Program, list[str]]:
    """The program of a model that was exported for training, in inference form, with a note; any other as it is."""
    model = join(program.tensors["graph"].tobytes(), program.initializers())
    if not (notes := to_inference_form(model)):
        return program, []
    lowered = _lowered(program, model, Recipes.of(program))
    names = ("steps", "tensors", "placements")
    return program.model_copy(update={name: getattr(lowered, name) for name in names}), notes


def _lowered(program: Program, model: ir.Model, recipes: Recipes) -> Program:
    """A graph with the layers of the program, lowered to steps; counted positions and the tensors of layers stay."""
    register_schemas()
    placements = {row.name: row for row in program.placements}
    state = Compilation(model, program.target, placements=placements, recipes=recipes)
    lowered = PassManager((Lower(), Schedule())).run(state).need_program()
    counted = {step.name: step.model_dump(include={"positions", "positions_basis"}) for step in program.vmm_steps}
    steps = tuple(step.model_copy(update=counted.get(step.name, {})) for step in lowered.steps)
    kept = {name: tensor for name, tensor in program.tensors.items() if name.startswith(_KEPT)}
    return lowered.model_copy(update={"steps": steps, "tensors": {**lowered.tensors, **kept}})


def initializers_of(program: Program) -> dict[str, NDArray[Any]]:
    """All initializers of the graph that a program was lowered from, by name."""
    values = join(program.tensors["graph"].tobytes(), program.initializers()).graph.initializers
    return {name: value.const_value.numpy() for name, value in values.items() if value.const_value is not None}


def into_model(model: onnx.ModelProto, changed: Mapping[str, NDArray[Any]]) -> list[str]:
    """Write values into the user's own model, in place, where it has an initializer or a Constant of that name and shape.

    Returns:
        Names that it has not.
    """
    places = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            places.setdefault(node.output[0], node.attribute[0].t)
    missing = []
    for name, array in changed.items():
        place = places.get(name)
        if place is None or tuple(place.dims) != array.shape:
            missing.append(name)
            continue
        label = place.name
        place.CopyFrom(ir.to_proto(ir.Tensor(np.ascontiguousarray(array), name=label)))
    return missing


def in_own_names(program: Program, changed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Values by the names of the user's initializers, where the compiler has moved, computed or transposed those.

    Args:
        program: For inference.
        changed: Values of its initializers, by their names in it.

    Returns:
        All of ``changed`` that the user's model may have under that name, and the initializers that the others were made
        from. A value that was computed in a way that cannot be reversed keeps its name: the user's model lacks it.
    """
    recipes = Recipes.of(program)
    before = recipes.before(changed)
    known = changed.keys() | before.keys()
    settled = {name for name in recipes.made & changed.keys() if known >= set(recipes.behind([name]).parameters)}
    own = {name: array for name, array in {**before, **changed}.items() if name not in settled}
    return own | transposed(program, changed)


def transposed(program: Program, changed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Values of the user's initializers that are transposes of changed ones, see `cimc.passes.tie`."""
    graph = join(program.tensors["graph"].tobytes(), program.initializers()).graph
    tied = {name: transposes(value) for name, value in graph.initializers.items() if name in changed}
    return {other: changed[name].transpose(perm) for name, others in tied.items() for other, perm in others.items()}


def trained_initializers(program: Program, states: Mapping[str, LayerState]) -> dict[str, NDArray[Any]]:
    """Initializers that hold the weights of trained layers, by name; where several layers view one, each fills its part."""
    changed: dict[str, NDArray[Any]] = {}
    for layer in program.layers:
        if layer.name not in states:
            continue
        name = layer.weight.tensor
        old = program.tensors[f"initializer/{name}"]
        into = changed.setdefault(name, np.array(old))
        filled = to_initializer(layer, states[layer.name].weights, old.shape)
        into[layer.weight.index] = filled[layer.weight.index].astype(old.dtype)
    return changed


def tied_initializers(program: Program, trained: Sequence[str], digital: Sequence[str]) -> dict[str, list[Layer]]:
    """Initializers that live in several places, with the layers that hold them: their gradients add up.

    Args:
        program: For inference.
        trained: Layers that train.
        digital: Initializers that digital nodes read anew at each step.

    Raises:
        CimcError: A layer that does not train holds weights of one that does.
    """
    held: dict[str, list[Layer]] = {}
    for layer in program.layers:
        held.setdefault(layer.weight.tensor, []).append(layer)
    tied = {}
    for name, layers in held.items():
        own = [layer for layer in layers if layer.name in trained]
        if not own or (len(layers) == 1 and name not in digital):
            continue
        shape = program.tensors[f"initializer/{name}"].shape
        share = {
            layer.name: to_initializer(layer, np.ones((layer.groups, layer.inputs, layer.once.columns), np.uint8), shape)
            for layer in layers
        }
        for layer in layers:
            if layer not in own and any((share[layer.name] & share[other.name]).any() for other in own):
                raise CimcError(
                    f"{name} is its weight and that of layer {own[0].name}, which trains, but it has no influence on the loss",
                    where=f"layer {layer.name}",
                    fix=f"freeze {name}, or give each its own (--tie none)",
                )
        if name in digital or (np.sum([share[layer.name] for layer in own], axis=0, dtype=np.int64) > 1).any():
            tied[name] = own
    return tied
