"""Whole blocks, batch open: the derivative along a random direction of all parameters, in double."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cimc.passes.gradients.build import backward
from cimc.passes.gradients.survey import OPSET

from .harness import Array, rng, session

TRANSFORMER = """g (double[N, 4, 6] x, double[6, 18] qkv, double[18] b, double[6, 6] o, double[6] g1, double[6] h1,
                    double[6, 8] u, double[8, 6] d, double[6] g2, double[6] probe) => (double loss) {
    all = MatMul(x, qkv)  biased = Add(all, b)  heads = Constant<value_ints=[0, 4, 3, 2, 3]>()
    split = Reshape(biased, heads)  turned = Transpose<perm=[2, 0, 3, 1, 4]>(split)
    q1, k1, v1 = Split<axis=0, num_outputs=3>(turned)  zero = Constant<value_ints=[0]>()
    q = Squeeze(q1, zero)  k = Squeeze(k1, zero)  v = Squeeze(v1, zero)  kt = Transpose<perm=[0, 1, 3, 2]>(k)
    logits = MatMul(q, kt)  root = Constant<value=double {1.7320508}>()  scaled = Div(logits, root)
    attention = Softmax<axis=-1>(scaled)  mixed = MatMul(attention, v)  back = Transpose<perm=[0, 2, 1, 3]>(mixed)
    flat = Constant<value_ints=[0, 0, -1]>()  joined = Reshape(back, flat)  out = MatMul(joined, o)  sum1 = Add(x, out)
    norm1 = LayerNormalization<axis=-1>(sum1, g1, h1)  up = MatMul(norm1, u)  active = Gelu<approximate="tanh">(up)
    down = MatMul(active, d)  sum2 = Add(norm1, down)  norm2 = RMSNormalization(sum2, g2)
    one = Constant<value_ints=[1]>()  pooled = ReduceMean<keepdims=0>(norm2, one)  score = MatMul(pooled, probe)
    squares = Mul(score, score)  loss = ReduceMean<keepdims=0>(squares)
}"""
#: A gated recurrent cell over two steps that share weights, and a gather of embeddings.
RECURRENT = """g (int64[N, 2] tokens, double[5, 3] table, double[3, 8] w, double[4, 8] r, double[8] b, double[N, 4] h0)
        => (double loss) {
    embedded = Gather(table, tokens)  one = Constant<value_ints=[1]>()
    e0, e1 = Split<axis=1, num_outputs=2>(embedded)  x0 = Squeeze(e0, one)  x1 = Squeeze(e1, one)
    a0 = MatMul(x0, w)  c0 = MatMul(h0, r)  s0 = Add(a0, c0)  t0 = Add(s0, b)  z0, n0 = Split<axis=1, num_outputs=2>(t0)
    g0 = Sigmoid(z0)  m0 = Tanh(n0)  p0 = Mul(g0, m0)  h1 = Add(p0, h0)
    a1 = MatMul(x1, w)  c1 = MatMul(h1, r)  s1 = Add(a1, c1)  t1 = Add(s1, b)  z1, n1 = Split<axis=1, num_outputs=2>(t1)
    g1 = Sigmoid(z1)  m1 = Tanh(n1)  p1 = Mul(g1, m1)  h2 = Add(p1, h1)
    squares = Mul(h2, h2)  loss = ReduceMean<keepdims=0>(squares)
}"""
#: Attention has no rule, but a body in the standard. It stands beside values that bear the names of its body.
WRITTEN_OUT = """g (double[N, 4, 6] x, double[N, 5, 6] k, double[N, 5, 6] v) => (double loss) {
    "attend.NegOne__1" = Exp(x)  "attend.QReshaped__1" = Neg("attend.NegOne__1")
    [attend] y = Attention<q_num_heads=2, kv_num_heads=2>("attend.QReshaped__1", k, v)
    squares = Mul(y, y)  loss = ReduceMean<keepdims=0>(squares)
}"""


@pytest.mark.parametrize("body", [TRANSFORMER, RECURRENT, WRITTEN_OUT], ids=["transformer", "recurrent", "written out"])
def test_directional_derivative(body: str) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {OPSET}]> {body}')
    g = rng(11)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        shape = [d.dim_value or 3 for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = g.standard_normal(shape) if value.name != "tokens" else g.integers(0, 5, shape)
    names = [n for n, a in feeds.items() if a.dtype == np.float64]
    step = session(ir.to_proto(backward(ir.from_proto(model), "loss", names)))
    grads = dict(zip(names, step.run([f"{n}.grad" for n in names], feeds), strict=True))
    forward, h = session(model), 1e-6
    for name in names:
        direction = g.standard_normal(feeds[name].shape)
        up, down = (float(forward.run(None, {**feeds, name: feeds[name] + s * h * direction})[0]) for s in (1, -1))
        assert (grads[name] * direction).sum() == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-7)
