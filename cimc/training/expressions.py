"""Training through the expression f by which a crossbar's weight W = f(p) is computed: a weight norm, ``Softplus(p)``.

The gradient of W goes back through f to the parameters p, which the optimizer changes in digital. The layer is then given the
step from what its crossbar is asked to hold, W and the pending ΔW, to f(p), clipped to the window. So the update rule acts on W
as on every other weight, and W + ΔW stays f(p).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from cimc.errors import CimcError, ModelError
from cimc.ir.onnx_io import join, session, split
from cimc.ir.program import Layer, Program, to_matrix
from cimc.passes.gradients.build import backward
from cimc.passes.gradients.survey import OPSET
from cimc.passes.recipes import TENSOR, Recipes
from cimc.passes.training.upgrade import converted
from cimc.training.accumulator import F32, LayerState
from cimc.training.rules.threshold import Threshold

Arrays = dict[str, NDArray[Any]]

_PLAIN = (
    "or export the model with the weight itself (PyTorch: remove_parametrizations of a weight norm, or "
    "cimc compile MODEL.onnx --stop-after fold --emit onnx -o PLAIN.onnx)"
)
_LOSS = "cimc/loss"


class Expressions:
    """The expressions of one training program; most have none.

    Args:
        step: The training program.
        program: For inference: it holds the recipes.

    Attributes:
        into: Parameters that train through expressions, each with the weights that are computed from it, by initializer name.
        weights: All these weights.
        layers: Layers that hold them, by name.

    Raises:
        ModelError: An expression has an operator without a gradient.
    """

    def __init__(self, step: Program, program: Program) -> None:
        self.into = {row.name: row.into for row in step.plan if row.into}
        self.weights = tuple(dict.fromkeys(name for weights in self.into.values() for name in weights))
        self.layers: dict[str, Layer] = {one.name: one for one in program.layers if one.weight.tensor in self.weights}
        self._part = Recipes.of(program).behind(self.weights)
        if self.into:
            try:
                _ = self._backward
            except ModelError as error:
                what = f"its weight is computed by {', '.join(self._part.operators())}, which has no gradient: {error.what}"
                raise self._refused(what) from error

    def _refused(self, what: str) -> ModelError:
        name = next(iter(self.layers))
        return ModelError(what, where=f"layer {name}", fix=f"freeze {name}, {_PLAIN}")

    def check(self, rule: Any, init: str | None) -> None:
        """See that the update rule and the start of a training allow them.

        Raises:
            CimcError: They do not.
        """
        if not self.into:
            return
        sources = ", ".join(self.into)
        if not isinstance(rule, Threshold):
            what = "only threshold updates train that, as they alone keep the sum of W and what is pending in digital"
            raise self._refused(f"its weight is computed from {sources}, and {what}")
        if init == "devices":
            name = next(iter(self.layers))
            raise CimcError(
                f"its weight is computed from {sources}, and what its devices were born with is not",
                where=f"layer {name}",
                fix=f"init='weights', or freeze {name}",
            )

    def start(self) -> Arrays:
        """The parameters as the program has them, by initializer name."""
        return {name: np.array(self._part.sources[name].numpy()) for name in self.into}

    def gradients(self, parameters: Mapping[str, NDArray[Any]], gradients: Mapping[str, NDArray[Any]]) -> Arrays:
        """Gradients of the parameters.

        Args:
            parameters: Their present values, by initializer name.
            gradients: Of the loss, by name of the weights, in their own shape.
        """
        feeds = {f"{name}.dy": np.asarray(gradients[name], self._dtypes[name]) for name in self.weights}
        found = self._backward.run(None, {**{name: parameters[name] for name in self.into}, **feeds})
        return dict(zip(self.into, found, strict=True))

    def changes(self, parameters: Mapping[str, NDArray[Any]], states: Mapping[str, LayerState]) -> dict[str, F32]:
        """The step of each layer to the weights that these values of the parameters mean.

        Args:
            parameters: By initializer name.
            states: Of the layers, by name.
        """
        found = self._forward.run(None, {name: parameters[name] for name in self.into})
        weights = dict(zip(self.weights, found, strict=True))
        steps = {}
        for name, layer in self.layers.items():
            state = states[name]
            wanted = to_matrix(layer.once, weights[layer.weight.tensor]).astype(np.float32)
            span = state.w_max[:, None]
            steps[name] = np.clip(wanted, -span, span) - (state.weights + state.delta)
        return steps

    # Models -------------------------------------------------------------------------------------------------------

    @cached_property
    def _model(self) -> ir.Model:
        """From the parameters to the weights, at the training opset."""
        tensors = self._part.tensors()
        small = onnx.ModelProto.FromString(tensors[TENSOR].tobytes())
        opset = small.opset_import[0].version
        arrays = {name.removeprefix("initializer/"): array for name, array in tensors.items()}
        model = join(small.SerializeToString() if opset == OPSET else converted(small, opset), arrays)
        graph = model.graph
        for name in self.into:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
        made = {str(value.name): value for node in graph for value in node.outputs}
        graph.outputs[:] = [made[name] for name in self.weights]
        return model

    @cached_property
    def _dtypes(self) -> dict[str, np.dtype[Any]]:
        return {str(v.name): (v.dtype or ir.DataType.FLOAT).numpy() for v in self._model.graph.outputs}

    @cached_property
    def _forward(self) -> ort.InferenceSession:
        return session(*split(self._model), outputs=self.weights, threads=1)

    @cached_property
    def _backward(self) -> ort.InferenceSession:
        """Gradients of the sum of the products of each weight and its gradient, by the parameters."""
        model = self._model.clone()
        graph = model.graph
        terms = []
        for weight in list(graph.outputs):
            given = ir.Value(name=f"{weight.name}.dy", type=weight.type, shape=weight.shape)
            graph.inputs.append(given)
            product = ir.node("Mul", [weight, given])
            term = ir.node("ReduceSum", [product.outputs[0]], attributes={"keepdims": 0})
            terms.append(term.outputs[0])
            graph.extend([product, term])
        total = ir.node("Sum", terms)
        total.outputs[0].name = _LOSS
        graph.append(total)
        return session(*split(backward(model, _LOSS, list(self.into))), outputs=[f"{name}.grad" for name in self.into], threads=1)
