"""Small programs written by hand: a chain of crossbar layers, and hypothesis over layers and chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from cimc.ir.geometry import Dense, WeightView
from cimc.ir.program import InputCoding, Layer, Program, ValueSpec, VmmStep
from cimc.passes.base import Compilation, Pass
from cimc.passes.manager import PassManager
from cimc.passes.map import Map
from cimc.passes.place import Place
from cimc.passes.schedule import Schedule
from cimc.passes.tile import Tile
from cimc.targets.description import Adc, Dac, Device, Target, Timing, Weights
from cimc.targets.description import Array as CrossbarArray
from cimc.targets.description import Mapping as MappingRules

#: The fabricated chip of Wu et al., arXiv 2305.14547, as far as mapping and cost see it.
BULK = Target(
    name="bulk",
    array=CrossbarArray(rows=64, columns=64, tiles_per_chip=4),
    dac=Dac(bits=8),
    timing=Timing(tile_op_ns=720, tile_op_energy_nj=2.66),
)


#: The same with as few arrays as the placement finds.
DENSE = BULK.model_copy(update={"mapping": MappingRules(packing="dense")})


@dataclass(frozen=True)
class Matrix:
    """A layer: its matrix, how channels lie in it, and the positions of its one step."""

    name: str
    rows: int
    columns: int
    channel_rows: int = 1
    positions: int | None = 1
    groups: int = 1
    packing: int = 1
    signed: bool = False


#: LeNet of the same paper: 1x28x28, 5x5 conv to 4, pool, 5x5 conv to 12, pool, dense 192 to 10.
LENET = (Matrix("conv1", 25, 4, 25, 24 * 24), Matrix("conv2", 100, 12, 25, 8 * 8), Matrix("dense", 192, 10, 1, 1))


def conv(name: str, channels: int, outputs: int, side: int, kernel: int = 3) -> Matrix:
    """A square convolution with ``side * side`` positions."""
    return Matrix(name, channels * kernel**2, outputs, kernel**2, side**2)


#: VGG-8 of the same paper: 3x3 convolutions on 32x32 pixels, pooled after each pair, and two dense layers.
VGG8 = (
    conv("c1", 3, 32, 32), conv("c2", 32, 32, 32), conv("c3", 32, 64, 16), conv("c4", 64, 64, 16),
    conv("c5", 64, 128, 8), conv("c6", 128, 128, 8), Matrix("d1", 2048, 128), Matrix("d2", 128, 10),
)  # fmt: skip


def chain(target: Target, matrices: Sequence[Matrix]) -> Program:
    """``x0 -> layer -> x1 -> layer -> ...``; the weight of each layer is stored transposed, as Gemm with transB has it."""
    layers, steps, tensors = [], [], {}
    for k, m in enumerate(matrices):
        shape = (m.groups, m.columns, m.rows)
        tensors[f"initializer/{m.name}.weight"] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        view = WeightView(tensor=f"{m.name}.weight", split=shape, perm=(0, 2, 1), shape=(m.groups, m.rows, m.columns))
        coding = InputCoding(signed=m.signed)
        layers.append(Layer(name=m.name, weight=view, channel_rows=m.channel_rows, group_packing=m.packing, coding=coding))
        geometry = Dense(input_perm=(0, 1), kept=1, output_dims=(m.groups * m.columns,), output_perm=(0, 1))
        steps.append(
            VmmStep(
                name=f"{m.name}.step", layer=m.name, input=f"x{k}", output=f"x{k + 1}", geometry=geometry,
                positions=m.positions, nodes=(m.name,),
            )
        )  # fmt: skip
    return Program(
        target=target,
        inputs=(ValueSpec(name="x0", dtype="float32", shape=None),),
        outputs=(ValueSpec(name=f"x{len(matrices)}", dtype="float32", shape=None),),
        layers=tuple(layers),
        steps=tuple(steps),
        tensors=tensors,
    )


ALL: tuple[type[Pass], ...] = (Tile, Map, Place, Schedule)


def through(
    program: Program, passes: Sequence[type[Pass]] = ALL, copies: Mapping[str, int] | None = None, chips: int | None = None
) -> Program:
    """The program after these passes, each with its contract checked before and after."""
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    state = Compilation(model=model, target=program.target, program=program)
    steps = [Place(chips, copies or {}) if kind is Place else kind() for kind in passes]
    return PassManager(steps, verify=True).run(state).need_program()


def changed(program: Program, **tensors: Any) -> Program:
    """With tensors replaced (None: dropped); ``__`` in a name stands for ``/``."""
    new = {name.replace("__", "/"): array for name, array in tensors.items()}
    kept = {name: array for name, array in (dict(program.tensors) | new).items() if array is not None}
    return program.model_copy(update={"tensors": kept})


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Arrays of every size, pairs and offset weights, bit-sliced and not."""
    cells = draw(st.integers(1, 3))
    pair = draw(st.booleans())
    weights = Weights(
        representation="differential_pair" if pair else "offset", bits=None if cells == 1 else cells + pair, cells=cells
    )
    size = st.one_of(st.none(), st.integers(8, 40))
    array = CrossbarArray(
        rows=draw(size), columns=draw(size), tiles_per_chip=draw(st.sampled_from([None, 1, 3])), unit_column=not pair
    )
    split = draw(st.sampled_from(["channels", "rows"]))
    return Target(
        name="any", array=array, device=Device(levels=2), weights=weights, adc=Adc(bits=8),
        mapping=MappingRules(split=split), timing=Timing(tile_op_ns=100),
    )  # fmt: skip


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Matrix, ...]:
    """Up to four layers with grouped, packed and convolution-like matrices."""
    made = []
    for k in range(draw(st.integers(1, 4))):
        channel_rows, packing = draw(st.integers(1, 8)), draw(st.integers(1, 3))
        made.append(
            Matrix(
                name=f"layer{k}",
                rows=channel_rows * draw(st.integers(1, 12)),
                columns=draw(st.integers(1, 30)),
                channel_rows=channel_rows,
                positions=draw(st.integers(1, 50)),
                groups=packing * draw(st.integers(1, 3)),
                packing=packing,
            )
        )
    return tuple(made)


@st.composite
def copy_counts(draw: st.DrawFn, layers: Sequence[Matrix]) -> dict[str, int]:
    """Copies of some of the layers, no more than would fire."""
    most = {m.name: m.positions if m.positions and m.positions > 1 else 5 for m in layers}
    return {name: draw(st.integers(1, min(5, count))) for name, count in most.items() if draw(st.booleans())}
