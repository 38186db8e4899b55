"""How a layer's weight matrix meets an activation: which inputs form a row vector, where the outputs go.

A *position* is one activation of the crossbars: one output pixel of a convolution, one input pixel of a transposed
convolution, one vector of a dense product. The layer's matrix is ``[groups, rows, columns]``; at every position each
group multiplies its ``rows`` inputs into its ``columns`` outputs.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Shape = tuple[int, ...]
#: Numbers that come from files: none is so large that arithmetic of array sizes in int64 overflows.
Whole = Annotated[int, Field(ge=0, lt=1 << 31)]
Positive = Annotated[int, Field(ge=1, lt=1 << 31)]


@lru_cache(maxsize=256)
def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation of axes that undoes one."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


class _Geometry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dense(_Geometry):
    """``X`` transposed by ``input_perm`` is ``[kept..., groups..., contracted...]``.

    Every index of the ``kept`` leading axes is one position, the first of them the image; the trailing axes flatten to
    ``groups * rows``. The outputs ``[kept..., output_dims...]`` (``output_dims`` flattens to ``groups * columns``) are
    transposed by ``output_perm``. This holds Gemm, MatMul with the constant on either side, and Einsum.
    """

    kind: Literal["dense"] = "dense"
    input_perm: tuple[Whole, ...]
    kept: Whole
    output_dims: tuple[Whole, ...]
    output_perm: tuple[Whole, ...]

    def output_shape(self, input_shape: Shape) -> Shape:
        full = tuple(input_shape[a] for a in self.input_perm[: self.kept]) + self.output_dims
        return tuple(full[a] for a in self.output_perm)

    def images(self, input_shape: Shape) -> int:
        """Length of the axis that a read takes for images; 1 without one. A reshape may have folded other axes into it."""
        return input_shape[self.input_perm[0]] if self.kept else 1

    def positions(self, input_shape: Shape) -> int:
        """Positions of one index of the image axis."""
        return prod(input_shape[a] for a in self.input_perm[1 : self.kept])


class _Window(_Geometry):
    kernel_shape: tuple[Positive, ...]
    strides: tuple[Positive, ...]
    dilations: tuple[Positive, ...]
    pads: tuple[Whole, ...] = Field(
        description="Begin of each axis, then end of each axis; unused with an auto_pad of SAME or VALID."
    )
    auto_pad: Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"] = "NOTSET"

    def images(self, input_shape: Shape) -> int:
        """Length of the axis that a read takes for images."""
        return input_shape[0]

    def extents(self) -> Shape:
        """Pixels from the first to the last that a window meets, both counted, along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_shape, self.dilations, strict=True))


class Conv(_Window):
    """Convolution of any rank over ``X [N, C, *spatial]``; rows are channel-major windows."""

    kind: Literal["conv"] = "conv"

    def resolved_pads(self, spatial: Shape) -> tuple[Shape, Shape]:
        """Padding at the begin and the end of each spatial axis."""
        return _pads(self, spatial)

    def output_spatial(self, spatial: Shape) -> Shape:
        return _output_spatial(self, spatial)

    def output_shape(self, input_shape: Shape, channels: int) -> Shape:
        return (input_shape[0], channels, *self.output_spatial(input_shape[2:]))

    def positions(self, input_shape: Shape) -> int:
        """Positions of one image: its output pixels."""
        return prod(self.output_spatial(input_shape[2:]))


class ConvTranspose(_Window):
    """Transposed convolution over ``X [N, C, *spatial]``: every input pixel is a position, its outputs
    ``[channels, *kernel_shape]`` are overlap-added digitally."""

    kind: Literal["conv_transpose"] = "conv_transpose"
    output_padding: tuple[Whole, ...]
    explicit_output: tuple[Whole, ...] | None = Field(None, description="The attribute output_shape, which overrides pads.")

    def resolved(self, spatial: Shape) -> tuple[Shape, Shape]:
        """Begin padding and output size of each spatial axis, by the rule of the ONNX operator."""
        return _resolved(self, spatial)

    def output_shape(self, input_shape: Shape, channels: int) -> Shape:
        return (input_shape[0], channels, *self.resolved(input_shape[2:])[1])

    def reaches(self, spatial: Shape) -> bool:
        """Whether an explicit output size is one that windows over this input cover, as ONNX Runtime demands."""
        if self.explicit_output is None:
            return True
        full = (
            s * (n - 1) + o + e for s, n, o, e in zip(self.strides, spatial, self.output_padding, self.extents(), strict=True)
        )
        return all(size - f < s for size, f, s in zip(self.explicit_output, full, self.strides, strict=True))

    def positions(self, input_shape: Shape) -> int:
        """Positions of one image: its input pixels."""
        return prod(input_shape[2:])


# A training step asks for the same few sizes at each of its products: they are worked out once.


@lru_cache(maxsize=256)
def _pads(conv: Conv, spatial: Shape) -> tuple[Shape, Shape]:
    rank = len(conv.kernel_shape)
    if conv.auto_pad == "VALID":
        return (0,) * rank, (0,) * rank
    if conv.auto_pad == "NOTSET":
        return conv.pads[:rank], conv.pads[rank:]
    total = tuple(
        max(0, (-(-size // stride) - 1) * stride + extent - size)
        for size, stride, extent in zip(spatial, conv.strides, conv.extents(), strict=True)
    )
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (small, large) if conv.auto_pad == "SAME_UPPER" else (large, small)


@lru_cache(maxsize=256)
def _output_spatial(conv: Conv, spatial: Shape) -> Shape:
    begin, end = conv.resolved_pads(spatial)
    return tuple(
        (size + b + e - extent) // stride + 1
        for size, b, e, extent, stride in zip(spatial, begin, end, conv.extents(), conv.strides, strict=True)
    )


@lru_cache(maxsize=256)
def _resolved(conv: ConvTranspose, spatial: Shape) -> tuple[Shape, Shape]:
    rank = len(conv.kernel_shape)
    begins, sizes = [], []
    for a, (size, stride, extent) in enumerate(zip(spatial, conv.strides, conv.extents(), strict=True)):
        full = stride * (size - 1) + conv.output_padding[a] + extent
        if conv.explicit_output is not None or conv.auto_pad.startswith("SAME"):
            # ONNX Runtime's SAME never makes more than the overlap-add does, where a stride exceeds the kernel.
            wanted = conv.explicit_output[a] if conv.explicit_output is not None else min(size * stride, full)
            total = max(0, full - wanted)
            half = total // 2
            begins.append(half if conv.auto_pad == "SAME_UPPER" else total - half)
            sizes.append(wanted)
        elif conv.auto_pad == "VALID":
            begins.append(0)
            sizes.append(full)
        else:
            begins.append(conv.pads[a])
            sizes.append(full - conv.pads[a] - conv.pads[rank + a])
    return tuple(begins), tuple(sizes)


Geometry = Annotated[Dense | Conv | ConvTranspose, Field(discriminator="kind")]


class WeightView(_Geometry):
    """A layer's matrix as a view of an ONNX initializer, so that trained weights find their way back.

    ``matrix = tensor[index].reshape(split).transpose(perm).reshape(groups, rows, columns)``
    """

    tensor: str = Field(description="Name of the ONNX initializer.")
    index: tuple[Whole, ...] = Field((), description="Leading indices, as of the direction of an LSTM.")
    split: tuple[Whole, ...]
    perm: tuple[Whole, ...]
    shape: tuple[Whole, Whole, Whole] = Field(description="Groups, rows, columns.")

    def matrix_of(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """``[groups, rows, columns]`` of an array of the initializer's shape, a view of it where the layout allows."""
        matrix: NDArray[Any] = tensor[self.index].reshape(self.split).transpose(self.perm).reshape(self.shape)
        return matrix
