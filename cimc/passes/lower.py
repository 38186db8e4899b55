"""``lower``: from the selected ONNX graph to a program of digital and crossbar steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import ModelError
from cimc.ir.bodies import used_values
from cimc.ir.onnx_io import split
from cimc.ir.program import DigitalStep, Layer, Preprocessing, Program, Provenance, Step, ValueSpec, VmmStep
from cimc.ir.runnable import verify_models
from cimc.ir.verify import verify
from cimc.ir.vmm import geometry_of, is_vmm, layer_of, view_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_order, need_reasons
from cimc.passes.lowering.affine import Affine, affine_of
from cimc.passes.lowering.exact import splits_exactly
from cimc.passes.lowering.positions import Positions
from cimc.passes.lowering.random import dtype_name, hidden_random, is_random, random_step
from cimc.passes.lowering.segments import cut, to_model
from cimc.passes.lowering.stages import is_own, node_stages
from cimc.passes.lowering.training import is_update, training_step, updated_parameters
from cimc.passes.lowering.types import complete_types
from cimc.passes.reasons import not_applied


@dataclass(frozen=True)
class Lower(Pass):
    """Every ``cimc::Vmm`` becomes a step on its layer; everything between, maximal digital segments.

    Args:
        provenance: What the model is; the data behind input scales, and the notes so far, come from the compilation.
        preprocessing: Stored with the program.
    """

    provenance: Provenance = field(default_factory=Provenance)
    preprocessing: Preprocessing | None = None

    name: ClassVar[str] = "lower"

    def requires(self, state: Compilation) -> None:
        """It is decided of each node where it runs, and nodes stand in the order of their data.

        Raises:
            ModelError: A node reads what a later one makes.
            VerifyError: `select` has not run, or the graph is lowered already.
        """
        need_reasons(state)
        need_order(state.model)

    def call(self, state: Compilation) -> Sequence[str]:
        complete_types(state.model)
        graph_bytes, tensors = split(state.model)
        lowering = _Lowering(state, {f"initializer/{name}": array for name, array in tensors.items()})
        lowering.run()
        state.notes += [
            f"node {node.name} ({node.op_type}) draws from ONNX Runtime's own generator: other numbers in each process"
            for node in hidden_random(state.model.graph)
        ]
        graph = state.model.graph
        parameters = updated_parameters(graph)
        recipes = state.recipes.behind(graph.initializers)
        lowering.tensors |= recipes.tensors()
        lowering.tensors["graph"] = np.frombuffer(graph_bytes, np.uint8)
        lowering.tensors |= {f"bound/{name}": array for name, array in state.bound.items()}
        made_from = {"calibration": state.calibration_basis, "notes": tuple(state.notes)}
        state.program = Program(
            target=state.target,
            inputs=tuple(value_spec(value) for value in graph.inputs if value.name not in parameters),
            outputs=tuple(value_spec(value) for value in graph.outputs if not is_update(value.producer())),
            parameters=parameters,
            loss=graph.metadata_props.get("cimc.loss"),
            labels=graph.metadata_props.get("cimc.labels"),
            layers=tuple(lowering.layers.values()),
            steps=tuple(lowering.steps),
            bound=tuple(state.bound),
            plan=tuple(state.plan),
            placements=tuple(state.placements.values()),
            provenance=self.provenance.model_copy(update=made_from),
            preprocessing=self.preprocessing,
            tensors=lowering.tensors,
        )
        return [step.name for step in lowering.steps]

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where the program breaks a rule of the IR, or a segment lacks data; cuts, ranges and places are not
        set yet."""
        program = state.need_program()
        verify(program)
        verify_models(program)

    def unchanged(self, state: Compilation) -> str:
        """The program has no steps."""
        return "the graph has no nodes"


class _Lowering:
    """The steps, layers and tensors of one program, as they come to be."""

    def __init__(self, state: Compilation, initializers: dict[str, NDArray[Any]]) -> None:
        self.state = state
        self.layers: dict[str, Layer] = {}
        self.steps: list[Step] = []
        self.tensors = dict(initializers)
        self.positions = Positions(state)
        self.outside = {name.removeprefix("initializer/") for name in initializers}

    def run(self) -> None:
        graph = self.state.model.graph
        defaults = {str(v.name): v.const_value.numpy() for v in graph.inputs if v.const_value is not None}
        defaults |= {str(v.name): v.const_value.numpy() for v in graph.outputs if v.const_value is not None}
        self.tensors.update({f"initializer/{name}": array for name, array in defaults.items()})
        vmms = {node: self._affine(node) for node in graph if is_vmm(node)}
        merged = {inner for affine in vmms.values() for inner in affine.merged}
        made = {n: n.outputs[0] for n in graph if is_own(n)} | {n: a.output for n, a in vmms.items()}
        # A merged node goes with its Vmm, so the value that leaves the Vmm is the last merged node's output.
        nodes = [node for node in graph if node not in merged]
        digital: dict[int, list[ir.Node]] = {}
        own: dict[int, list[ir.Node]] = {}
        for node, stage in zip(nodes, node_stages(nodes, made, late=any(map(is_update, graph))), strict=True):
            (own if is_own(node) else digital).setdefault(stage, []).append(node)
        initializers = set(graph.initializers.values()) - set(graph.inputs)
        readers = _readers(nodes)
        for stage in sorted(digital.keys() | own.keys()):
            if stage in digital:
                self._digital(f"digital{stage}", digital[stage], readers, initializers)
            for node in own.get(stage, ()):
                if node in vmms:
                    self._vmm(node, vmms[node])
                elif is_random(node):
                    self._random(node, initializers)
                else:
                    self.steps.append(training_step(node, lambda x, geometry: self.positions.of(x, geometry)[0]))

    def _affine(self, node: ir.Node) -> Affine:
        view = view_of(node)
        geometry = geometry_of(node)
        channels = view.shape[0] * view.shape[2]
        if geometry.kind == "conv_transpose":
            channels //= int(np.prod(geometry.kernel_shape))
        return affine_of(node, geometry, channels)

    def _digital(
        self, name: str, nodes: list[ir.Node], readers: dict[ir.Value, set[ir.Node]], initializers: set[ir.Value]
    ) -> None:
        inside = set(nodes)
        outputs = set(self.state.model.graph.outputs)
        needed = {v for node in nodes for v in node.outputs if v in outputs or readers.get(v, set()) - inside}
        segment = cut(nodes, needed, initializers)
        if not segment.outputs:
            return  # dead work
        inexact = [node for node in nodes if not splits_exactly(node)]
        self._explain(inexact, "its last bits may depend on how a batch is split (--deterministic)", add=True)
        self.tensors[f"segment/{name}"] = np.frombuffer(to_model(segment, name, self.state.model, self.outside), np.uint8)
        self.steps.append(
            DigitalStep(
                name=name,
                inputs=tuple(str(value.name) for value in segment.inputs),
                outputs=tuple(str(value.name) for value in segment.outputs),
                nodes=tuple(str(node.name) for node in nodes),
                splits_exactly=not inexact,
            )
        )

    def _vmm(self, node: ir.Node, affine: Affine) -> None:
        activation = node.inputs[0]
        if activation is None:
            raise ModelError("a crossbar product without an input", where=f"node {node.name}")
        layer = self._layer(node)
        geometry = geometry_of(node)
        name = str(node.name)
        positions, basis = self.positions.of(activation, geometry)
        dtype = np.float64 if activation.dtype == ir.DataType.DOUBLE else np.float32
        if (affine.scale != 1).any():
            self.tensors[f"scale/{name}"] = affine.scale.astype(dtype)
        if affine.offset.any():
            self.tensors[f"offset/{name}"] = affine.offset.astype(dtype)
        self.steps.append(
            VmmStep(
                name=name,
                layer=layer.name,
                input=str(activation.name),
                output=str(affine.output.name),
                geometry=geometry,
                dtype=dtype_name(activation.dtype),
                positions=positions,
                positions_basis=basis,
                nodes=(name, *(str(inner.name) for inner in affine.merged)),
            )
        )
        self._explain(affine.merged, f"merged into the digital scale and offset of {name}")
        for left, why in affine.left.items():
            not_applied(f"merged into the digital scale and offset of {name}", left, why)
            self._explain([left], f"not merged into the digital scale and offset of {name}: {why}", add=True)

    def _random(self, node: ir.Node, initializers: set[ir.Value]) -> None:
        outputs = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if not outputs:
            return  # dead work
        source = node.inputs[0] if node.inputs else None
        if source in initializers and source is not None and source.const_value is not None:
            self.tensors[f"initializer/{source.name}"] = source.const_value.numpy()  # small ones are inline in the graph
        self.steps.append(random_step(node))
        self._explain([node], "its draws are keyed by the chip's seed and the image", add=True)

    def _explain(self, nodes: Iterable[ir.Node], why: str, *, add: bool = False) -> None:
        """Say of the user's digital nodes why they are where they are, or add to what was said."""
        for node in nodes:
            row = self.state.placements.get(str(node.name))
            if row is not None and row.where == "digital":
                said = f"{row.why}; {why}" if add else why
                self.state.placements[row.name] = row.model_copy(update={"why": said})

    def _layer(self, node: ir.Node) -> Layer:
        attributes = node.attributes
        name = attributes.get_string("layer")
        if name not in self.layers:
            weight = cast(ir.Value, node.inputs[1])
            if weight.const_value is None:
                raise ModelError(f"weight {weight.name} has no data", where=f"node {node.name}")
            # Small weights are inline in the graph; the layer wants them as arrays too.
            self.tensors[f"initializer/{weight.name}"] = weight.const_value.numpy()
            weight_max = attributes.get_floats("weight_max", None)
            if weight_max is not None:
                self.tensors[f"weight_max/{name}"] = np.array(weight_max, np.float32)
            self.layers[name] = layer_of(node)
        return self.layers[name]


def _readers(nodes: list[ir.Node]) -> dict[ir.Value, set[ir.Node]]:
    readers: dict[ir.Value, set[ir.Node]] = {}
    for node in nodes:
        for value in used_values(node):
            readers.setdefault(value, set()).add(node)
    return readers


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    """A stated size; shape inference makes negative ones of windows that do not fit, which the run then refuses."""
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return dim.value


def value_spec(value: ir.Value) -> ValueSpec:
    """What a graph input takes or a graph output gives."""
    kinds = {ir.SequenceType: "sequence", ir.OptionalType: "optional", ir.SparseTensorType: "sparse"}
    shape = value.shape
    allowed = value.metadata_props.get("cimc.range")
    return ValueSpec(
        name=str(value.name),
        dtype=dtype_name(value.dtype),
        shape=None if shape is None else tuple(_size(d) for d in shape),
        # onnx_ir has no maps: the loader tells the types of all other outputs.
        type=next((word for cls, word in kinds.items() if isinstance(value.type, cls)), "tensor" if value.type else "map"),
        has_default=value.is_graph_input() and value.const_value is not None,
        range=None if allowed is None else cast("tuple[float, float]", tuple(float(end) for end in allowed.split(","))),
    )
