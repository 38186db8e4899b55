"""How often a product fires for one image, from the shape of its activation.

A run is one image, or the batch that the model fixes. Its activation may hold tokens or frames that a reshape folded into
the first axis, so all of its vectors are counted and shared out among the images, as the executor numbers them.

Example: ``x [N, 16, 20] -> Reshape [-1, 20] -> Gemm`` has 16 positions an image.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from cimc.ir.dialect import DOMAIN
from cimc.ir.expand import expand
from cimc.ir.geometry import Geometry, Shape
from cimc.ir.onnx_io import split
from cimc.ir.vmm import is_vmm
from cimc.passes.base import Compilation
from cimc.passes.samples import batch_axis, image_axes, model_inputs


class Positions:
    """Positions of the activations of one model.

    Args:
        state: Its ``model`` selected; ``input_shapes`` as `calibrate` saw them, if it ran.
    """

    def __init__(self, state: Compilation) -> None:
        self._state = state
        self._inputs = model_inputs(state.model)
        self._batch = batch_axis(self._inputs)
        self._images = _images(self._inputs)
        self._inferred: dict[str, Shape] | None = None

    def of(self, activation: ir.Value, geometry: Geometry) -> tuple[int | None, str]:
        """Positions of one image, and what they rest on: "" for the model alone, else what was assumed, or why they are None."""
        static, seen = self._static(activation), self._state.input_shapes.get(str(activation.name))
        if static is not None and seen in (None, static):
            return self._for_one_image(geometry, static), ""
        why = "its input's size depends on the data, or on sizes that the model leaves open"
        if seen is None:
            return None, why
        return self._for_one_image(geometry, seen), f"{why}; counted for {'×'.join(map(str, seen))}, the size in calibration"

    def _for_one_image(self, geometry: Geometry, shape: Shape) -> int:
        """Positions of a run, shared among its images where they divide, as the executor has it."""
        total = geometry.images(shape) * geometry.positions(shape)
        return total // self._images if total % self._images == 0 else total

    def _static(self, activation: ir.Value) -> Shape | None:
        """The shape in a run, where the model alone says it."""
        dims = list(activation.shape or (None,))
        if self._batch is not None and dims[0] == self._batch:
            dims[0] = 1
        if all(isinstance(d, int) for d in dims):
            return tuple(d for d in dims if isinstance(d, int))
        if self._inferred is None:
            self._inferred = self._infer()
        return self._inferred.get(str(activation.name))

    def _infer(self) -> dict[str, Shape]:
        """Shapes of a run by ONNX's inference, with a batch of one; none for a training step, whose operators ONNX lacks."""
        model = self._state.model
        if any(node.domain == DOMAIN and not is_vmm(node) for node in model.graph):
            return {}
        proto = onnx.ModelProto.FromString(split(expand(model))[0])
        del proto.graph.value_info[:]
        axes, _ = image_axes(self._inputs)
        for value in proto.graph.input:
            axis, dims = axes.get(value.name), value.type.tensor_type.shape.dim
            if axis is not None and axis < len(dims) and not dims[axis].HasField("dim_value"):
                dims[axis].dim_value = 1
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")
        try:
            found = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except Exception:  # onnx has no class for what it cannot infer: then nothing is known
            return {}
        shapes = {}
        for value in found.graph.value_info:
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
                shapes[value.name] = tuple(d.dim_value for d in dims)
        return shapes


def _images(inputs: list[ir.Value]) -> int:
    """Images of a run: the first axis of the first input that has one, 1 where it is open."""
    for value in inputs:
        if value.shape is not None and len(value.shape):
            first = value.shape[0]
            return max(1, first) if isinstance(first, int) else 1
    return 1
