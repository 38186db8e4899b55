"""What a selection rule sees of the model, and the nodes that it writes in place of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import ModelError
from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv, ConvTranspose, Dense, WeightView
from cimc.ir.names import Names
from cimc.passes.selection.finite import beyond_float32
from cimc.passes.selection.nodes import typed_attributes
from cimc.passes.selection.observe import made_from_data
from cimc.passes.selection.operand import Operand, is_constant, resolve
from cimc.passes.selection.packing import group_packing
from cimc.passes.selection.placement import OWNER, all_nodes
from cimc.passes.selection.shapes import Dims, named_dims, output_dims
from cimc.targets.description import Target

LayerKey = tuple[WeightView, int, int]


class StaysDigital(Exception):  # noqa: N818 - a decision, not an error
    """A node does not go to crossbars; the message is the reason."""


class SizeUnknown(StaysDigital):
    """A node stays digital because a size of its input is not known."""


@dataclass
class Product:
    """A ``Vmm`` that a rule wrote; its layer gets its name when all are known."""

    node: ir.Node
    weight: ir.Value
    key: LayerKey
    layer: str


@dataclass
class Site:
    """The place where one node is replaced. ``nodes``, ``products`` and ``read`` collect what its rule writes."""

    model: ir.Model
    target: Target
    owner: str = ""
    op_type: str = ""
    nodes: list[ir.Node] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    made: list[ir.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph, nodes = self.model.graph, list(all_nodes(self.model))
        values = (*graph.inputs, *graph.initializers.values(), *(output for node in nodes for output in node.outputs))
        self._names, self._node_names = Names(value.name for value in values), Names(node.name for node in nodes)

    @property
    def opset(self) -> int:
        return self.model.opset_imports.get("", 1)

    def begin(self, owner: str, op_type: str) -> None:
        """Start on another node."""
        self.owner, self.op_type = owner, op_type
        self.nodes, self.products, self.made = [], [], []

    def name(self, wish: str) -> str:
        """A name that no value of the graph has."""
        return self._names.fresh(wish)

    def node_name(self, suffix: str) -> str:
        """The name of the user's node, with a suffix if there is one."""
        return self._node_names.fresh(f"{self.owner}/{suffix}") if suffix else self.owner

    def refuse(self, what: str) -> NoReturn:
        """Say that no runtime can run the node.

        Raises:
            ModelError: Always.
        """
        raise ModelError(what, where=f"node '{self.owner}' ({self.op_type})", fix="correct the node, or export the model again")

    def need_shape(self, value: ir.Value | None, shape: Sequence[int | str | None], what: str, *, known: bool = True) -> None:
        """Compare a value's shape with the one that the operator's definition asks for.

        Args:
            value: An input of the node; None: it is not given.
            shape: Sizes, symbols included; None where any will do.
            what: The value, in words.
            known: Sizes of the value must be known where those of ``shape`` are.

        Raises:
            ModelError: The shape is another.
            StaysDigital: It is not known, or a size of 1 meets one that is not: a rewrite could broadcast what the operator
                refuses.
        """
        if value is None:
            return
        if value.shape is None:
            if not known:
                return
            raise StaysDigital(f"the rank of its {what} '{value.name}' is not known")
        found = named_dims(value.shape)
        pairs = list(zip(found, shape, strict=False))
        if len(found) != len(shape) or any(isinstance(f, int) and isinstance(w, int) and f != w for f, w in pairs):
            wanted = ", ".join("?" if size is None else str(size) for size in shape)
            self.refuse(f"its {what} '{value.name}' has the shape {list(found)}, it must be [{wanted}]")
        if any((known and isinstance(w, int) and f != w) or (f == 1 and not isinstance(w, int)) for f, w in pairs):
            raise StaysDigital(f"the shape of its {what} '{value.name}' is not known before it runs")

    def weight(self, node: ir.Node, slot: int) -> Operand:
        """The node's constant operand.

        Raises:
            StaysDigital: It is no constant, not real, or empty; or on an ideal chip beyond float32, where others refuse it.
            ModelError: It holds numbers beyond float32.
        """
        value = node.inputs[slot]
        operand = resolve(value)
        if operand is None or value is None:
            raise StaysDigital(_why_no_weight(value))
        if not all(operand.factors):
            raise StaysDigital(f"its weight '{value.name}' is empty")
        if (largest := beyond_float32(operand.initializer)) is not None:
            what = f"its weight '{value.name}' holds {largest:g}, outside the range of float32, in which conductances are told"
            if self.target.is_ideal:
                raise StaysDigital(what)
            self.refuse(what)
        return operand

    def constant_side(self, node: ir.Node) -> tuple[int, Operand]:
        """Which of the two operands is the weight, and the weight.

        Raises:
            StaysDigital: Neither is constant.
        """
        try:
            return 1, self.weight(node, 1)
        except StaysDigital as right:
            try:
                return 0, self.weight(node, 0)
            except StaysDigital:
                raise right from None

    def dims(self, value: ir.Value) -> Dims:
        """Sizes of a value, None where dynamic.

        Raises:
            SizeUnknown: Not even the rank is known.
        """
        if value.shape is None:
            raise SizeUnknown(f"the rank of '{value.name}' is not known{self.remedy(value)}")
        return tuple(d if isinstance(d, int) else None for d in value.shape)

    def remedy(self, value: ir.Value) -> str:
        """How to fix a size of ``value`` that the model's inputs leave open, as an end of a reason; empty: there is no way."""
        open_ = [v for v in self.model.graph.inputs if not v.is_initializer() and v.shape is not None and not v.shape.is_static()]
        if not open_ or made_from_data(value):
            return ""
        return f"; --shape NAME=SIZE,… fixes the sizes of {', '.join(repr(v.name) for v in open_)}"

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        attributes: Mapping[str, Any] | None = None,
        outputs: int = 1,
    ) -> list[ir.Value]:
        """A digital node; its name is the user's, with the suffix if there is one."""
        name = self.node_name(suffix)
        node = ir.Node("", op_type, inputs, typed_attributes(attributes or {}), num_outputs=outputs, name=name)
        node.metadata_props[OWNER] = self.owner
        for output in node.outputs:
            output.name = self.name(name)
            output.dtype = next((v.dtype for v in inputs if v is not None), None)  # type: ignore[assignment]
        self.nodes.append(node)
        return list(node.outputs)

    def constant(self, array: NDArray[Any], suffix: str) -> ir.Value:
        """A further initializer; it joins the graph when the node is replaced."""
        name = self.name(f"{self.owner}/{suffix}")
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.made.append(value)
        return value

    def vmm(
        self,
        x: ir.Value,
        operand: Operand,
        view: WeightView,
        geometry: Dense | Conv | ConvTranspose,
        *,
        bias: ir.Value | None = None,
        channel_rows: int = 1,
        alpha: float = 1.0,
        beta: float = 1.0,
        suffix: str = "",
        layer: str = "",
    ) -> ir.Value:
        """A product on crossbars, named as the user's node.

        Raises:
            StaysDigital: The activation is a constant too.
        """
        if is_constant(x):
            raise StaysDigital(f"both its operands are constant: '{x.name}' too")
        packing = group_packing(view, self.target)
        attributes: dict[str, Any] = {
            "geometry": geometry.model_dump_json(),
            "view_split": list(view.split),
            "view_perm": list(view.perm),
            "view_shape": list(view.shape),
            "origin": self.op_type,
        }
        if view.index:
            attributes["view_index"] = list(view.index)
        for name, value, default in (
            ("channel_rows", channel_rows, 1),
            ("group_packing", packing, 1),
            ("alpha", float(alpha), 1.0),
            ("beta", float(beta), 1.0),
        ):
            if value != default:
                attributes[name] = value
        name = self.node_name(suffix)
        inputs = [x, operand.initializer, *([bias] if bias else [])]
        node = ir.Node(DOMAIN, "Vmm", inputs, typed_attributes(attributes), name=name)
        node.metadata_props[OWNER] = self.owner
        y = node.outputs[0]
        y.name = self.name(name)
        y.type = ir.TensorType(operand.initializer.const_value.dtype)  # type: ignore[union-attr]
        if x.shape is not None:
            dims = output_dims(geometry, named_dims(x.shape), view)
            y.shape = None if dims is None else ir.Shape(dims)
        self.nodes.append(node)
        self.products.append(Product(node, operand.initializer, (view, channel_rows, packing), layer or self.owner))
        return y

    def replace(self, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
        """Put the new nodes in the node's place; ``values`` take over its outputs and their names."""
        graph = self.model.graph
        for value in self.made:
            graph.register_initializer(value)
        pairs = [(old, new) for old, new in zip(node.outputs, values, strict=False) if new is not None]
        names = [old.name for old, _ in pairs]
        for old, _ in pairs:
            old.name = None
        olds, news = [old for old, _ in pairs], [new for _, new in pairs]
        ir.convenience.replace_nodes_and_values(graph, node, [node], self.nodes, olds, news)
        for new, name in zip(news, names, strict=True):
            new.name = name


def _why_no_weight(value: ir.Value | None) -> str:
    if value is None:
        return "it has no weight"
    if value.is_graph_input():
        what = f"no product with a constant weight: '{value.name}' is an input of the model"
        if value.is_initializer():
            return f"{what}, and the initializer of that name is only its default; --bind {value.name} makes it the weight"
        return f"{what}; --bind {value.name}=FILE.npy makes it a constant"
    if is_constant(value):
        return f"its weight '{value.name}' is not of a real type ({value.dtype})"
    return f"no product with a constant weight: '{value.name}' is computed at run time"
