"""How folded constants follow from the model's parameters, so that training can go through what `fold` has computed.

Example: `fold` replaces ``b2`` by its value, and the recipe keeps the node::

    before  b2 = Mul (b1, half)      y = Add (x, b2)
    after   y = Add (x, b2)          recipe: b2 = Mul (b1, half)

A program holds its recipes as the tensor ``recipes``, an ONNX model. Their sources, parameters that nothing else may read, are
``initializer/NAME`` as all others are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.names import Names
from cimc.ir.onnx_io import join, session, split
from cimc.ir.program import Program
from cimc.passes.selection.operand import FLOATS, VIEW_OPS

#: Metadata of an initializer that was a constant or was computed from some: it is no parameter to train.
CONSTANT = "cimc.constant"
#: Metadata of a node that a recipe brought into a training graph.
RECIPE = "cimc.recipe"
TENSOR = "recipes"
_MOVES = VIEW_OPS | {"Cast", "CastLike", "Slice", "Split", "Gather", "Concat", "Expand", "Tile"}
_CASTS = {"Cast", "CastLike"}
#: How PyTorch calls the gain of a weight norm.
_GAINS = ("weight_g", "weight.original0")
#: Results of the first stand for a weight that was quantised, which trains as it is; of the others no value goes in.
_NO_EXPRESSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Shape", "Size")


class Recipes:
    """Folded nodes in their order, and the constants that they read.

    Attributes:
        nodes: Serialised; at the opset of the model.
        sources: Tensors that they read and none of them makes, by name.
        constants: Those of them that are no parameters.
        opset: Of the nodes, that of the model.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.sources: dict[str, ir.TensorProtocol] = {}
        self.constants: set[str] = set()
        self.opset, self.ir_version = 0, 4

    @property
    def made(self) -> set[str]:
        """Names of the values that nodes make."""
        return {name for node in self.nodes for name in node.output}

    def record(self, node: ir.Node, model: ir.Model) -> None:
        """Keep a node that `fold` is about to replace, if a real parameter goes into its result.

        Args:
            node: All its inputs are initializers.
            model: Whose node it is.
        """
        made, values = self.made, [value for value in node.inputs if value is not None]
        if node.op_type in _NO_EXPRESSIONS or any(value.const_value is None for value in values):
            return
        real = [value for value in values if value.const_value is not None and value.const_value.dtype in FLOATS]
        if not any(value.name in made for value in values) and all(CONSTANT in value.metadata_props for value in real):
            return
        self.opset, self.ir_version = model.opset_imports.get("", 1), max(model.ir_version, 4)
        self.nodes.append(ir.to_proto(node))
        for value in values:
            if value.name not in made and value.const_value is not None:
                self.sources[str(value.name)] = value.const_value
                if CONSTANT in value.metadata_props:
                    self.constants.add(str(value.name))

    def behind(self, names: Iterable[str]) -> Recipes:
        """The part that makes these values."""
        wanted, kept = set(names), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted.update(node.input)
        part = Recipes()
        part.opset, part.ir_version = self.opset, self.ir_version
        part.nodes = kept[::-1]
        part.sources = {name: tensor for name, tensor in self.sources.items() if name in wanted}
        part.constants = self.constants & part.sources.keys()
        return part

    @property
    def parameters(self) -> list[str]:
        """Sources that may train: real, no constants, and no single numbers but the gain of a weight norm over all axes."""
        real = [name for name, tensor in self.sources.items() if tensor.dtype in FLOATS and name not in self.constants]
        return [name for name in real if len(self.sources[name].shape) or name.endswith(_GAINS)]

    @property
    def moves_only(self) -> bool:
        """Whether each entry of a result is one of a source, cast at most."""
        return all(node.op_type in _MOVES for node in self.nodes)

    def operators(self) -> list[str]:
        """Operators of the nodes, each once."""
        return list(dict.fromkeys(node.op_type for node in self.nodes))

    def readers(self, name: str) -> set[str]:
        """Values that depend on a source."""
        reached = {name}
        for node in self.nodes:
            if reached & set(node.input):
                reached.update(node.output)
        return reached - {name}

    def disjoint(self, source: str, names: Iterable[str], whole: bool) -> bool:
        """Whether copies of a source share none of its entries.

        Args:
            source: Its name.
            names: Values that recipes make.
            whole: The source itself is one of the copies.
        """
        names, tensor = set(names), self.sources[source]
        if whole or tensor.size > 1 << 24 or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return False
        part = self.behind(names)
        if not part.moves_only:
            return False
        zeros = {name: np.zeros(t.shape.numpy(), t.dtype.numpy()) for name, t in part.sources.items() if t.dtype in FLOATS}
        index = np.arange(1, tensor.size + 1, dtype=tensor.dtype.numpy()).reshape(tensor.shape.numpy())
        copies = part.follow({**zeros, source: index})
        entries = np.concatenate([np.unique(copies[name]) for name in names])
        entries = entries[entries > 0]
        return len(np.unique(entries)) == len(entries)

    # In a program ------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a program keeps of them; nothing where there are none."""
        if not self.nodes:
            return {}
        small, arrays = split(self._model())
        return {TENSOR: np.frombuffer(small, np.uint8)} | {f"initializer/{name}": array for name, array in arrays.items()}

    @classmethod
    def of(cls, program: Program) -> Recipes:
        """Those of a program."""
        found = cls()
        if TENSOR in program.tensors:
            model = join(program.tensors[TENSOR].tobytes(), program.initializers())
            found.opset, found.ir_version = model.opset_imports.get("", 1), model.ir_version
            found.nodes = [ir.to_proto(node) for node in model.graph]
            values = model.graph.initializers
            found.sources = {name: value.const_value for name, value in values.items() if value.const_value is not None}
            found.constants = {name for name, value in values.items() if CONSTANT in value.metadata_props}
        return found

    def _model(self) -> ir.Model:
        graph = onnx.GraphProto(name="recipes", node=self.nodes)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(self.made) if name)
        for name, tensor in self.sources.items():
            graph.initializer.add(name=name, dims=tensor.shape.numpy(), data_type=int(tensor.dtype)).external_data.add(
                key="location", value=name
            )
            graph.initializer[-1].data_location = onnx.TensorProto.EXTERNAL
        opset = onnx.OperatorSetIdProto(domain="", version=self.opset)
        model: ir.Model = ir.from_proto(onnx.ModelProto(ir_version=self.ir_version, graph=graph, opset_import=[opset]))
        for name, tensor in self.sources.items():
            model.graph.initializers[name].const_value = tensor
        for name in self.constants:
            model.graph.initializers[name].metadata_props[CONSTANT] = "source"
        return model

    # Their values ------------------------------------------------------------------------------------------------

    def follow(self, changed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Take in new values of sources; what the values that depend on them are now, by ONNX Runtime."""
        new = [name for name in changed if name in self.sources]
        for name in new:
            self.sources[name] = ir.Tensor(np.ascontiguousarray(changed[name]), name=name)
        wanted = sorted(set().union(*(self.readers(name) for name in new)) - set(changed) - {""})
        if not wanted:
            return {}
        small, arrays = split(self.behind(wanted)._model())
        return dict(zip(wanted, session(small, arrays, outputs=wanted, threads=1).run(None, {}), strict=True))

    def before(self, changed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The reverse of `follow`, for values whose entries are entries of sources that were only moved.

        Args:
            changed: New values of tensors, by name; those that no recipe makes are left out.

        Returns:
            Sources by name: entries that were moved into a changed value are that value's, all others what they were.
        """
        found: dict[str, NDArray[Any]] = {}
        for name in sorted(self.made & changed.keys()):
            part = self.behind([name])
            kinds = {self.sources[source].dtype for source in part.parameters}
            if part.moves_only and kinds in ({ir.DataType.FLOAT}, {ir.DataType.DOUBLE}) and not _CASTS & set(part.operators()):
                part._take_apart(name, changed[name], found)
        return found

    def _take_apart(self, name: str, value: NDArray[Any], into: dict[str, NDArray[Any]]) -> None:
        """Write the entries of a made value into copies of the sources that they come from.

        Every entry of a source gets a number of its own, as the bits of a normal floating-point number. The recipe moves these.
        """
        first = {source: into.get(source, np.array(self.sources[source].numpy())) for source in self.parameters}
        kind = next(iter(first.values())).dtype
        whole, begin = (np.int32, 1 << 23) if kind == np.float32 else (np.int64, 1 << 52)
        ends = begin + np.cumsum([array.size for array in first.values()])
        marks = np.arange(begin, ends[-1], dtype=whole).view(kind)
        parts = np.split(marks, ends[:-1] - begin)
        own = {source: part.reshape(array.shape) for (source, array), part in zip(first.items(), parts, strict=True)}
        moved = np.ascontiguousarray(self.follow(own)[name]).view(whole).reshape(-1)
        for (source, array), end in zip(first.items(), ends, strict=True):
            number = moved - (end - array.size)
            here = (number >= 0) & (number < array.size)
            array.reshape(-1)[number[here]] = value.reshape(-1)[here]
            into[source] = array


def inlined(program: Program, names: Iterable[str]) -> onnx.ModelProto:
    """A program's graph that computes these initializers by their recipes; large tensors stay external under their own names."""
    small = onnx.ModelProto.FromString(program.tensors["graph"].tobytes())
    part = Recipes.of(program).behind(names)
    if not part.nodes:
        return small
    brought = onnx.ModelProto.FromString(part.tensors()[TENSOR].tobytes())
    free = Names(node.name for node in small.graph.node)
    for node in brought.graph.node:
        node.name = free.fresh(node.name)
        node.metadata_props.append(onnx.StringStringEntryProto(key=RECIPE, value=node.op_type))
    nodes, made = [*brought.graph.node, *small.graph.node], part.made
    tensors = [tensor for tensor in small.graph.initializer if tensor.name not in made]
    there = {tensor.name for tensor in tensors}
    tensors += [tensor for tensor in brought.graph.initializer if tensor.name not in there]
    model = onnx.ModelProto()
    model.CopyFrom(small)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    return model
