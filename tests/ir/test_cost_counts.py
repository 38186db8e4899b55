"""What `cost` says of one image is what a chip counts when it runs: for networks and targets drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

import cimc
from cimc.ir.program import OuterStep, Program, VmmBackwardStep


@dataclass
class Network:
    """A chain of operators; text and shapes grow as operators are added."""

    lines: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    value: str = "x"

    def add(self, text: str, **weights: tuple[int, ...] | list[int]) -> None:
        """``text`` has ``{x}`` for the value so far and ``{name}`` for its weights (a tuple: a shape; a list: integers)."""
        k = len(self.lines)
        names = {name: f"{name}{k}" for name in weights}
        rng = np.random.default_rng(k)
        for name, size in weights.items():
            made = np.array(size, np.int64) if isinstance(size, list) else rng.uniform(-1, 1, size).astype(np.float32)
            self.weights[names[name]] = made
        self.lines.append(f"v{k} = " + text.format(x=self.value, **names))
        self.value = f"v{k}"

    def model(self, inputs: str, rank: int, opset: int = 17) -> onnx.ModelProto:
        out = ", ".join(f"o{axis}" for axis in range(rank))
        text = f"""<ir_version: 8, opset_import: ["": {opset}]>
        network (float[{inputs}] x) => (float[{out}] {self.value}) {{ {"  ".join(self.lines)} }}"""
        proto = parser.parse_model(text)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items())
        return proto


@st.composite
def sequences(draw: st.DrawFn, batch: str) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Tokens of an image: dense products on the sequence, folded into the first axis and back, or a recurrent node."""
    steps, first = draw(st.integers(2, 5)), draw(st.integers(3, 20))
    net, width = Network(), first
    for _ in range(draw(st.integers(1, 3))):
        kind, wide = draw(st.sampled_from(["plain", "folded", "moved", "recurrent"])), draw(st.integers(2, 20))
        if kind == "folded":
            net.add("Reshape ({x}, {s})", s=[-1, width])
        if kind == "moved":
            net.add("Transpose <perm = [1, 0, 2]> ({x})")
        if kind == "recurrent":
            net.add("Transpose <perm = [1, 0, 2]> ({x})")
            net.add(f"LSTM <hidden_size = {wide}> ({{x}}, {{w}}, {{r}})", w=(1, 4 * wide, width), r=(1, 4 * wide, wide))
            net.add("Squeeze ({x}, {a})", a=[1])
            net.add("Transpose <perm = [1, 0, 2]> ({x})")
        else:
            net.add("Gemm ({x}, {w})" if kind == "folded" else "MatMul ({x}, {w})", w=(width, wide))
        if kind == "folded":
            net.add("Reshape ({x}, {s})", s=[-1, steps, wide])
        if kind == "moved":
            net.add("Transpose <perm = [1, 0, 2]> ({x})")
        width = wide
    return net.model(f"{batch}, {steps}, {first}", 3), (steps, first)


@st.composite
def pictures(draw: st.DrawFn, batch: str) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Convolutions, grouped and transposed, then a dense layer on all or on each pixel."""
    channels, side = draw(st.sampled_from([2, 4])), draw(st.integers(6, 9))
    net, shape = Network(), (channels, side, side)
    for _ in range(draw(st.integers(1, 2))):
        groups, wide = draw(st.sampled_from([1, 2])), draw(st.sampled_from([2, 4, 6]))
        stride, transposed = draw(st.integers(1, 2)), draw(st.booleans())
        if transposed:
            net.add(
                f"ConvTranspose <group = {groups}, strides = [{stride}, 1]> ({{x}}, {{w}})", w=(channels, wide // groups, 2, 2)
            )
        else:
            net.add(f"Conv <group = {groups}, strides = [{stride}, 1]> ({{x}}, {{w}})", w=(wide, channels // groups, 2, 3))
        channels = wide
    if draw(st.booleans()):
        net.add("Transpose <perm = [0, 2, 3, 1]> ({x})")
        net.add("Reshape ({x}, {s})", s=[-1, channels])
        net.add("Gemm ({x}, {w})", w=(channels, 5))
        return net.model(f"{batch}, {', '.join(map(str, shape))}", 2), shape
    net.add("GlobalAveragePool ({x})")
    net.add("Flatten ({x})")
    net.add("Gemm ({x}, {w})", w=(channels, 5))
    return net.model(f"{batch}, {', '.join(map(str, shape))}", 2), shape


TARGETS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ideal", {"array.rows": 8, "array.columns": 8, "mapping.split": "rows"}),
    ("bulk-rram", {}),
    ("bulk-rram", {"array.rows": 8, "array.columns": 8, "mapping.split": "rows", "dac.signed": "offset"}),
    ("bulk-rram", {"array.rows": 16, "array.columns": 12, "dac.bits": None}),
    ("bulk-rram", {"adc.conversion": "per_bit", "array.rows": 16, "device.levels": 64, "device.g_min_us": 0.0}),
    ("isaac", {"array.rows": 16, "array.columns": 16}),
)


def counted(program: Program, x: np.ndarray[Any, Any]) -> dict[str, tuple[int, int]]:
    """Firings and tile operations of each layer in one run, as the chip counts them, whatever the backend."""
    chip = cimc.Chip(program, backend="reference")
    chip.run({"x": x})
    return {name: (s["tile_reads"] // program.layer(name).crossbars, s["tile_reads"]) for name, s in chip.stats().items()}


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_operations_are_what_a_chip_counts(data: st.DataObject) -> None:
    """The model's batch is open, one, or fixed; an image costs its share of the run."""
    batch = data.draw(st.sampled_from(["N", "1", "3"]))
    model, shape = data.draw(st.one_of(sequences(batch), pictures(batch)))
    target, changes = data.draw(st.sampled_from(TARGETS))
    images = 1 if batch == "N" else int(batch)
    low = data.draw(st.sampled_from([0.0, -1.0]))
    x = np.random.default_rng(1).uniform(low, 1, (images, *shape)).astype(np.float32)
    ort.InferenceSession(model.SerializeToString())  # the network is one
    program = cimc.compile(model, target=target, settings={**changes, "input.range": (-1.0, 1.0)})
    copies = {layer.name: 2 for layer in program.layers[:1]} if data.draw(st.booleans()) else None
    if copies and not program.target.is_ideal:
        program = cimc.compile(model, target=target, settings={**changes, "input.range": (-1.0, 1.0)}, copies=copies)
    cost = program.cost()
    assert not any("operations of layer" in note for note in cost.notes)
    found = counted(program, x)
    assert {c.name: (c.ops, c.tile_ops) for c in cost.layers} == {
        name: (ops // images, reads // images) for name, (ops, reads) in found.items()
    }
    assert cost.ops is not None
    assert cost.ops * images == sum(ops for ops, _ in found.values())


@pytest.mark.parametrize("target", ["ideal", "bulk-rram"])
def test_tokens_folded_into_the_first_axis_count(target: str) -> None:
    """16 tokens of 200 values on 64 rows: four arrays a token, 64 tile operations; on `ideal` one array takes all rows."""
    net = Network()
    net.add("Reshape ({x}, {s})", s=[-1, 200])
    net.add("Gemm ({x}, {w})", w=(200, 10))
    cost = cimc.compile(net.model("N, 16, 200", 2), target=target).cost()
    assert (cost.ops, cost.tile_ops) == (16, 16 if target == "ideal" else 64)
    assert cost.flops == 2 * 16 * 200 * 10


OPEN = """<ir_version: 8, opset_import: ["": 17]> open (float[N, T, 6] x) => (float[N, T, 4] y) { y = MatMul (x, w) }"""
PICKED = """<ir_version: 8, opset_import: ["": 17]> picked (float[N, 6] x) => (float[M, 4] y) {
    m = ReduceMax <axes = [1], keepdims = 0> (x)  h = Constant <value_float = 0.5> ()  b = Greater (m, h)
    z = Compress <axis = 0> (x, b)  y = MatMul (z, w)
}"""


@pytest.mark.parametrize("text", [OPEN, PICKED], ids=["open length", "rows that the data pick"])
def test_where_data_decide_the_cost_says_so(text: str) -> None:
    """Null with the reason; or, after calibration, what it assumes."""
    model = parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 4), np.float32), "w"))
    exact = cimc.compile(model, target="ideal").cost()
    assert (exact.ops, exact.tile_ops, exact.flops) == (None, None, None)
    assert "not counted, as its input's size depends on the data" in exact.notes[0]
    shape = (4, 5, 6) if text == OPEN else (4, 6)
    assumed = cimc.compile(model, target="bulk-rram", calibration={"x": np.full(shape, 0.75, np.float32)}).cost()
    assert assumed.ops == (5 if text == OPEN else 1)
    assert f"counted for 1×{'5×6' if text == OPEN else '6'}, the size in calibration" in assumed.notes[0]


def test_a_body_of_a_loop_is_digital_and_no_operation() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> looped (float[N, 6] x, int64 n) => (float[N, 4] y) {
            c = Constant <value = bool {1}> ()
            z = Loop (n, c, x) <body = body (int64 i, bool a, float[N, 6] s) => (bool b, float[N, 6] t) {
                b = Identity (a)  t = MatMul (s, v)
            }>
            q = Constant <value = int64[2] {-1, 6}> ()  r = Reshape (z, q)  y = MatMul (r, w)
        }"""
    )
    arrays = {"w": np.ones((6, 4), np.float32), "v": np.eye(6, dtype=np.float32) / 2}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    program = cimc.compile(model, target="bulk-rram")
    chip = cimc.Chip(program)
    chip.run({"x": np.ones((1, 6), np.float32), "n": np.array(3)})
    assert sum(s["tile_reads"] for s in chip.stats().values()) == program.cost().tile_ops == 1
    assert "the size in calibration" in program.cost().notes[0]


@settings(max_examples=8, deadline=None)
@given(steps=st.integers(1, 4), images=st.integers(1, 5), analog=st.booleans())
def test_training_counts_the_products_that_ran(steps: int, images: int, analog: bool) -> None:
    """Two products on folded tokens: each a forward read and an outer product; only the second wants its input's gradient."""
    net = Network()
    net.add("Reshape ({x}, {s})", s=[-1, 6])
    net.add("Gemm ({x}, {w})", w=(6, 70))
    net.add("Relu ({x})")
    net.add("Gemm ({x}, {w})", w=(70, 3))
    net.add("Reshape ({x}, {s})", s=[-1, 3 * steps])
    model = net.model(f"N, {steps}, 6", 2)
    program = cimc.compile(model, target="bulk-rram", settings={"array.transposed": {}})
    trainer = cimc.Trainer(cimc.Chip(program), batch_size=images, backward="analog" if analog else "digital")
    x = np.random.default_rng(0).random((images, steps, 6), np.float32)
    for _ in range(2):
        trainer.step(x, np.zeros(images, np.int64))
    rows = 2 * images * steps
    cost = trainer.cost()
    assert cost["images"] == 2 * images
    # 70 columns of pairs on 64 bit lines: three tiles; 70 rows: two.
    assert cost["tile_ops"] == {"forward": rows * (3 + 2), "backward": 2 * 2 * rows if analog else 0, "transfer": 0}
    assert cost["digital_macs"] == rows * (6 * 70 + 70 * 3 + (0 if analog else 70 * 3))
    assert {type(s) for s in trainer._training.step.program.steps} >= {OuterStep, VmmBackwardStep}
    assert prod(program.layers[0].weight.shape) == 6 * 70
