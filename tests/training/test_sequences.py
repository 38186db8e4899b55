"""Recurrent networks and attention: gradients through time, a noisy chip that learns a sequence task, what cannot train."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import cimc
from cimc.errors import CimcError
from cimc.training.history import Callback
from cimc.training.trained import into_model

from .networks import Network
from .test_step import in_double

EXAMPLE = Path(__file__).parents[2] / "examples" / "sequences" / "make_models.py"
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
    program = trainer._training.step.program
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


# A task for memory or attention -----------------------------------------------------------------------------------

LSTM = Network(
    """lstm (float[N, 6, 5] x) => (float[N, 4] y) {
        rows = Transpose <perm = [1, 0, 2]> (x)  s, h = LSTM <hidden_size = 24> (rows, w, r, b)
        zero = Constant <value_ints = [0]> ()  f = Squeeze (h, zero)  y = Gemm (f, v)
    }""",
    {"w": (1, 96, 5), "r": (1, 96, 24), "b": (1, 192), "v": (24, 4)},
    {},
    (),
)
ENCODER = Network(
    """encoder (float[N, 6, 5] x) => (float[N, 4] y) {
        e0 = MatMul (x, we)  e = Add (e0, position)  n = LayerNormalization <axis = -1> (e, n_scale, n_bias)
        q = MatMul (n, wq)  k = MatMul (n, wk)  u = MatMul (n, wv)  kt = Transpose <perm = [0, 2, 1]> (k)
        root = Constant <value = float {0.25}> ()  l = MatMul (q, kt)  ls = Mul (l, root)  a = Softmax <axis = -1> (ls)
        m = MatMul (a, u)  o = MatMul (m, wo)  r1 = Add (e, o)
        n2 = LayerNormalization <axis = -1> (r1, n2_scale, n2_bias)
        d = MatMul (n2, wu)  db = Add (d, bu)  g = Gelu (db)  c = MatMul (g, wd)  r2 = Add (r1, c)
        one = Constant <value_ints = [1]> ()  p = ReduceMean <keepdims = 0> (r2, one)  y = MatMul (p, wh)
    }""",
    {
        "we": (5, 16), "position": (1, 6, 16), "n_scale": (16,), "n_bias": (16,), "wq": (16, 16), "wk": (16, 16),
        "wv": (16, 16), "wo": (16, 16), "n2_scale": (16,), "n2_bias": (16,), "wu": (16, 32), "bu": (32,), "wd": (32, 16),
        "wh": (16, 4),
    },
    {},
    (),
)  # fmt: skip


def marked(images: int, seed: int) -> tuple[Any, Any]:
    """Six of four symbols, one of them marked: which? Who does not look at the mark guesses the most frequent: 0.47 right.

    (Of six draws among four the most frequent symbol has 2.8 on average, so 2.8 / 6 of the marks.)
    """
    random = np.random.default_rng(seed)
    symbols, at, image = random.integers(0, 4, (images, 6)), random.integers(0, 6, images), np.arange(images)
    x = np.zeros((images, 6, 5), np.float32)
    x[image[:, None], np.arange(6), symbols] = 1
    x[image, at, 4] = 1
    return x, symbols[image, at]


X, Y = marked(1536, 1)
X_TEST, Y_TEST = marked(800, 2)


def learner(network: Network, **options: Any) -> cimc.Trainer:
    return trainer_of(network.model(), "bulk-rram-256", {"x": X[:64]}, lr=0.01, **options)


def share_right(logits: Any) -> float:
    return float((logits.argmax(1) == Y_TEST).mean())


@pytest.fixture(scope="module", params=[LSTM, ENCODER], ids=["lstm", "encoder"])
def trained(request: pytest.FixtureRequest) -> tuple[Network, cimc.Trainer]:
    trainer = learner(request.param)
    history = trainer.fit(X, Y, epochs=4, validation=(X_TEST, Y_TEST))
    # It has looked, and remembered: far from 0.47; a chip's noise on 1536 examples leaves a few per cent.
    assert history.last["validation_accuracy"] > 0.8
    assert history.last["updates_per_weight"] < 0.1 * history.last["step"]  # and it has not written at every step
    assert sum(history["recalibrations"]) < 0.25 * history.last["step"]
    return request.param, trainer


def test_trained_weights_go_back_into_the_nodes(trained: tuple[Network, cimc.Trainer]) -> None:
    network, trainer = trained
    model = network.model()
    fresh = {t.name: onnx.numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    assert into_model(model, trainer.weights()) == []
    for tensor in model.graph.initializer:
        assert not np.array_equal(onnx.numpy_helper.to_array(tensor), fresh[tensor.name]), tensor.name
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert share_right(session.run(None, {"x": X_TEST})[0]) > 0.85  # no noise here


def test_a_trained_chip_is_saved_and_goes_to_another_one(trained: tuple[Network, cimc.Trainer], tmp_path: Path) -> None:
    _, trainer = trained
    logits = trainer.chip.run({"x": X_TEST}, 0)["y"]
    trainer.chip.save(tmp_path / "trained.cim")
    again = cimc.Chip(cimc.load(tmp_path / "trained.cim"))
    np.testing.assert_array_equal(again.run({"x": X_TEST}, 0)["y"], logits)
    cimc.export_image(trainer.chip).save(tmp_path / "trained.cimg")
    die = cimc.load_image(tmp_path / "trained.cimg").program(seed=5)
    # Programmed anew, half a level off: the same network still.
    assert share_right(die.run({"x": X_TEST})["y"]) > share_right(logits) - 0.15


@pytest.mark.parametrize("network", [LSTM, ENCODER], ids=["lstm", "encoder"])
def test_an_interrupted_run_ends_with_the_same_bytes(network: Network, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step(self, trainer: cimc.Trainer, row: Any) -> None:
            if row["step"] == 5:
                raise KeyboardInterrupt

    run: dict[str, Any] = {"epochs": 2, "checkpoint_steps": 2}
    whole, second = learner(network), learner(network)
    whole.fit(X[:128], Y[:128], **run)
    with pytest.raises(KeyboardInterrupt):
        learner(network, callbacks=[Stop()]).fit(X[:128], Y[:128], checkpoint=tmp_path, **run)
    second.fit(X[:128], Y[:128], checkpoint=tmp_path, resume=True, **run)
    expected, found = (trainer.program().tensors for trainer in (whole, second))
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "transformer"])
def test_the_examples_models_train(name: str) -> None:
    """Smaller, and exact: the chip's logits are ONNX Runtime's, and every initializer that is the user's gets a gradient."""
    spec = importlib.util.spec_from_file_location("make_models", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    model = models.transformer(16, 2, 1) if name == "transformer" else models.recurrent(name, 8)
    shape = (3, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    x = np.random.default_rng(2).uniform(0, 1, shape).astype(np.float32)
    trainer = trainer_of(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(trainer.chip.run({"input": x})["logits"], session.run(None, {"input": x})[0], atol=1e-5)
    assert trainer.gradients(x, np.array([3, 1, 4])).keys() == {t.name for t in model.graph.initializer}
