"""Recurrent networks and attention: gradients through time, a noisy chip that learns a sequence task, what cannot train."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.errors import CimcError

from .networks import Network
from .test_step import in_double

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, I, H, CLASSES = 4, 6, 3, 5, 4  # noqa: E741


def cell(op: str, direction: str = "forward", extra: str = "", slots: str = "", **more: tuple[int, ...]) -> Network:
    """A recurrent node whose states of every step meet in the loss; ``more`` are further weights, read in ``slots``."""
    d, rows = 2 if direction == "bidirectional" else 1, GATES[op] * H
    text = f"""net (double[N, {T}, {I}] x) => (double[N, {CLASSES}] y) {{
        rows = Transpose <perm = [1, 0, 2]> (x)
        s = {op} <hidden_size = {H}, direction = "{direction}"{extra}> (rows, w, r, b{slots})
        t = Transpose <perm = [2, 0, 1, 3]> (s)  f = Flatten (t)  y = Gemm (f, v)
    }}"""
    weights = {"w": (d, rows, I), "r": (d, rows, H), "b": (d, 2 * rows), "v": (T * d * H, CLASSES), **more}
    return Network(text, weights, {"x": (B, T, I)}, (B,), classes=CLASSES, layers=2 * d + 1)


# Gelu by tanh, because the reference evaluator's erf is float32.
ATTENTION = Network(
    """attention (double[N, 1, 6, 4] x) => (double[N, 3] y) {
        tokens = Constant <value = int64[3] {0, 6, 6}> ()  heads = Constant <value = int64[5] {0, 6, 3, 2, 3}> ()
        flat = Constant <value = int64[3] {0, 6, 6}> ()  zero = Constant <value_ints = [0]> ()
        root = Constant <value = double {0.6}> ()  one = Constant <value_ints = [1]> ()
        c = Conv <strides = [2, 2]> (x, wc, bc)  cf = Reshape (c, tokens)  ct = Transpose <perm = [0, 2, 1]> (cf)
        e = Add (ct, position)  n = LayerNormalization <axis = -1> (e, n_scale, n_bias)
        p = MatMul (n, wp)  pb = Add (p, bp)  h = Reshape (pb, heads)  ht = Transpose <perm = [2, 0, 3, 1, 4]> (h)
        q1, k1, v1 = Split <axis = 0, num_outputs = 3> (ht)
        q = Squeeze (q1, zero)  k = Squeeze (k1, zero)  v = Squeeze (v1, zero)
        kt = Transpose <perm = [0, 1, 3, 2]> (k)  l = MatMul (q, kt)  ls = Mul (l, root)  a = Softmax <axis = -1> (ls)
        m = MatMul (a, v)  mt = Transpose <perm = [0, 2, 1, 3]> (m)  mf = Reshape (mt, flat)
        o = MatMul (mf, wo)  ob = Add (o, bo)  r1 = Add (e, ob)  n2 = LayerNormalization <axis = -1> (r1, n2_scale, n2_bias)
        u = MatMul (n2, wu)  ub = Add (u, bu)
        g = Gelu <approximate = "tanh"> (ub)  d = MatMul (g, wd)  db = Add (d, bd)  r2 = Add (r1, db)
        pooled = ReduceMean <keepdims = 0> (r2, one)  y = Gemm <transB = 1> (pooled, wh, bh)
    }""",
    {
        "wc": (6, 1, 2, 2), "bc": (6,), "position": (1, 6, 6), "n_scale": (6,), "n_bias": (6,), "wp": (6, 18), "bp": (18,),
        "wo": (6, 6), "bo": (6,), "n2_scale": (6,), "n2_bias": (6,), "wu": (6, 8), "bu": (8,), "wd": (8, 6), "bd": (6,),
        "wh": (3, 6), "bh": (3,),
    },
    {"x": (4, 1, 6, 4)},
    (4,),
    classes=3,
    layers=6,
)  # fmt: skip

NETWORKS = {
    **{f"{op}-{way}": cell(op, way) for op in GATES for way in ("forward", "reverse", "bidirectional")},
    "GRU-reset-after": cell("GRU", extra=", linear_before_reset = 1"),
    "LSTM-peephole": cell("LSTM", slots=", , h0, c0, p", h0=(1, B, H), c0=(1, B, H), p=(1, 3 * H)),
    "GRU-state": cell("GRU", "bidirectional", slots=", , h0", h0=(2, B, H)),
    "attention": ATTENTION,
}


def trainer_of(model: onnx.ModelProto, target: str = "ideal", calibration: Any = None, **options: Any) -> cimc.Trainer:
    program = cimc.compile(model, target=target, calibration=calibration)
    return cimc.Trainer(cimc.Chip(program, 0), **{"batch_size": 32, "calibration_images": 64, **options})


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_differences(name: str) -> None:
    """Along a random direction of each weight, in double precision, by ONNX's reference evaluator."""
    network = NETWORKS[name]
    trainer = trainer_of(network.model(), loss=network.loss)
    inputs, labels = network.batch()
    gradients = trainer.gradients(inputs, labels)
    assert len(trainer.chip.program.layers) == network.layers
    assert sorted(gradients) == sorted(network.weights)
    loss = in_double(network)
    random, h = np.random.default_rng(6), 1e-5
    for weight, gradient in gradients.items():
        assert gradient.shape == network.weights[weight]
        direction = random.standard_normal(gradient.shape)
        numeric = (loss({weight: h * direction}) - loss({weight: -h * direction})) / (2 * h)
        # float32: a few hundred roundings of the largest terms.
        bound = 1e-5 * float(np.abs(gradient * direction).sum() + 1e-2)
        assert abs(float((gradient * direction).sum()) - numeric) < bound, weight


def test_a_cells_gradients_need_no_shapes_at_run_time() -> None:
    """The symbolic batch is known to be one size in every step, so nothing asks what was broadcast."""
    trainer = trainer_of(NETWORKS["LSTM-forward"].model())
    program = trainer._step.program
    segments = [program.tensors[f"segment/{step.name}"].tobytes() for step in program.steps if step.kind == "digital"]
    operators = {node.op_type for segment in segments for node in onnx.ModelProto.FromString(segment).graph.node}
    assert "NonZero" not in operators


RECURRENT = """net (float[N, {steps}, 3] x) => (float[N, 4] y) {{
    rows = Transpose <perm = [1, 0, 2]> (x)  s, h = GRU <hidden_size = 5> (rows, w, r, b)
    zero = Constant <value_ints = [0]> ()  f = Squeeze (h, zero)  y = Gemm (f, v)
}}"""
GRU_WEIGHTS = {"w": (1, 15, 3), "r": (1, 15, 5), "b": (1, 30), "v": (5, 4)}
LOOP = """net (float[N, 3] x) => (float[N, 3] y) {
    count = Constant <value = int64 {3}> ()  yes = Constant <value = bool {1}> ()
    s = MatMul (x, w)
    turned = Loop (count, yes, s) <body = turn (int64 i, bool go, float[N, 3] a) => (bool on, float[N, 3] b) {
        on = Identity (go)  b = Tanh (a)
    }>
    shape = Constant <value_ints = [-1, 3]> ()  f = Reshape (turned, shape)  y = MatMul (f, v)
}"""


def network(text: str, weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    return Network(text, weights, {}, ()).model()


@pytest.mark.parametrize("steps", ["T", "40"])
def test_a_recurrent_node_that_stayed_digital_names_itself_and_the_way_out(steps: str) -> None:
    model = network(RECURRENT.format(steps=steps), GRU_WEIGHTS)
    with pytest.raises(CimcError) as refused:
        trainer_of(model)
    text = str(refused.value)
    assert "(GRU)" in text
    assert ("fixed length" if steps == "T" else "mapping.max_unroll=40") in text
    assert "freeze" in text
    trainer = trainer_of(model, freeze=["w", "r", "b"])  # the one way out that the text tells of
    assert trainer.weights().keys() == {"v"}
    if steps == "40":  # and the other
        program = cimc.compile(model, target="ideal", settings={"mapping.max_unroll": 40})
        assert cimc.Trainer(cimc.Chip(program)).weights().keys() == set(GRU_WEIGHTS)


def test_lengths_of_its_own_keep_a_node_from_training() -> None:
    text = (
        RECURRENT.format(steps=6)
        .replace("float[N, 6, 3] x)", "float[N, 6, 3] x, int32[N] lengths)")
        .replace("b)", "b, lengths)", 1)
    )
    with pytest.raises(CimcError, match=r"(?s)lengths 'lengths' are known only at run time.*without lengths"):
        trainer_of(network(text, GRU_WEIGHTS))


def test_a_loop_names_itself_and_the_way_out() -> None:
    model = network(LOOP, {"w": (3, 3), "v": (3, 3)})
    with pytest.raises(CimcError, match=r"(?s)Loop.*any number of times.*written out"):
        trainer_of(model)
    assert trainer_of(model, freeze=["w"]).weights().keys() == {"v"}


def test_ranges_suit_every_step_that_reads_a_layer() -> None:
    """A state that sums its inputs is twelve times as large in the end: were the first step to decide, all others would clip."""
    text = """net (float[N, 12, 3] x) => (float[1, N, 3] y) {
        rows = Transpose <perm = [1, 0, 2]> (x)  s, y = RNN <hidden_size = 3, activations = ["Relu"]> (rows, w, r)
    }"""
    model = network(text, {})
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32)[None], name) for name in "wr")
    x = np.random.default_rng(1).uniform(0, 1, (256, 12, 3)).astype(np.float32)
    chip = cimc.Chip(cimc.compile(model, target="bulk-rram-256", calibration={"x": x}))
    chip.calibrate({"x": x})
    layer = next(name for name in chip.stats() if name.endswith(".R"))
    before = chip.stats()[layer]
    chip.run({"x": x}, 0)
    after = chip.stats()[layer]
    clips, inputs = (after[name] - before[name] for name in ("dac_clips", "dac_inputs"))
    assert inputs == 256 * 11 * 3
    # The largest state seen drives full scale; the noise of this run lifts a few above it.
    assert clips < 0.01 * inputs
