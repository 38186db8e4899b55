"""Crossbar weights that are computed from parameters train through that computation, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import cimc
from cimc.errors import CimcError, ModelError
from cimc.ir.program import weight_matrix
from tests.cli.conftest import cimc as command
from tests.training.test_parameters import HALF, WEIGHTS, X, Y, network, outputs, real, same_as_file, trainer

Array = NDArray[Any]
SGD = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant"}
TAIL = "[fc] h = MatMul (x, w)  r = Tanh (h)  [head] y = Gemm (r, w2, b2)"
V, G = real(6, 8, seed=1), real(1, 8, seed=4)
NUMBERS = {"ax": np.array([0]), "eps": np.float32(0.01), "half": HALF, "size": np.array([6, 8])}
NORM = "s = ReduceL2 <keepdims = 1> (v, ax)  n = Div (v, s)  w = Mul (n, g)"

#: expression -> nodes that make w, parameters, and w in PyTorch
EXPRESSIONS: dict[str, tuple[str, dict[str, Array], Callable[[Any, Any], Any]]] = {
    "weight norm": (NORM, {"v": V, "g": G}, lambda t, p: p["g"] * p["v"] / p["v"].norm(dim=0, keepdim=True)),
    "weight norm over all": (
        "s = ReduceL2 <keepdims = 0> (v)  n = Div (v, s)  w = Mul (n, weight_g)",
        {"v": V, "weight_g": np.float32(1.5)},
        lambda t, p: p["weight_g"] * p["v"] / p["v"].norm(),
    ),
    "standardised": (
        "m = ReduceMean <keepdims = 1> (v, ax)  d = Sub (v, m)  q = Mul (d, d)  a = ReduceMean <keepdims = 1> (q, ax)"
        "  e = Add (a, eps)  s = Sqrt (e)  w = Div (d, s)",
        {"v": V},
        lambda t, p: (p["v"] - p["v"].mean(0)) / (p["v"].var(0, unbiased=False) + 0.01).sqrt(),
    ),
    "softplus": ("w = Softplus (v)", {"v": V}, lambda t, p: t.nn.functional.softplus(p["v"])),
    "halved": ("w = Mul (v, half)", {"v": V}, lambda t, p: p["v"] * 0.5),
    "reshaped, turned and joined": (
        "a = Concat <axis = 0> (u, v)  b = Transpose <perm = [1, 0]> (a)  c = Reshape (b, size)  w = Tanh (c)",
        {"u": real(2, 8, seed=5), "v": real(4, 8, seed=6)},
        lambda t, p: t.cat([p["u"], p["v"]]).T.reshape(6, 8).tanh(),
    ),
}


def model(nodes: str, tail: str = TAIL, **arrays: Any) -> onnx.ModelProto:
    used = {
        name: value
        for name, value in NUMBERS.items()
        if name in nodes.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    return network(f"{nodes}  {tail}", **arrays, **used, w2=WEIGHTS["w2"], b2=WEIGHTS["b2"])


def norm() -> onnx.ModelProto:
    return model(NORM, v=V, g=G)


def f(v: Array, g: Array) -> Array:
    return np.asarray(v / np.linalg.norm(v, axis=0, keepdims=True) * g)


@pytest.mark.parametrize("how", EXPRESSIONS)
def test_twenty_steps_are_those_of_pytorch(how: str) -> None:
    torch = pytest.importorskip("torch")
    nodes, arrays, expression = EXPRESSIONS[how]
    t = trainer(model(nodes, **arrays), **SGD)
    p = {n: torch.tensor(a.copy(), requires_grad=True) for n, a in {**arrays, "w2": WEIGHTS["w2"], "b2": WEIGHTS["b2"]}.items()}
    descent = torch.optim.SGD(p.values(), lr=0.1)
    for step in range(20):
        descent.zero_grad()
        logits = torch.tanh(torch.from_numpy(X) @ expression(torch, p)) @ p["w2"] + p["b2"]
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)).backward()
        if step == 0:
            found = t.gradients(X, Y)
            assert set(found) == set(p)
            for name, gradient in found.items():
                np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=1e-4, atol=1e-6)
        descent.step()
        t.step(X, Y)
    for name, value in t.weights().items():
        np.testing.assert_allclose(value, p[name].detach().numpy(), rtol=1e-4, atol=2e-6)
    same_as_file(t, {"x": X})
    plan = {row["name"]: row for row in t.plan()}
    assert not plan["w"]["trains"]
    for name in arrays:
        row = plan[name]
        assert (row["trains"], row["where"], row["into"]) == (True, "crossbar", ["w"])
        assert row["why"].startswith("through an expression (")
        assert row["why"].endswith("into crossbar fc")


def test_a_parameter_behind_two_layers_and_a_bias_gets_all_gradients() -> None:
    """w1 = p / 2 and w2 = Tanh(p), and the mean of p is a bias."""
    torch = pytest.importorskip("torch")
    p = real(6, 6, seed=1)
    nodes = "w = Mul (p, half)  v = Tanh (p)  m = ReduceMean <keepdims = 0> (p, ax)"
    tail = "h = MatMul (x, w)  k = Add (h, m)  r = Tanh (k)  [two] z = MatMul (r, v)  y = Gemm (z, w3, b2)"
    t = trainer(network(f"{nodes}  {tail}", p=p, half=HALF, ax=np.array([0]), w3=real(6, 4, seed=2), b2=WEIGHTS["b2"]), **SGD)
    q = torch.tensor(p, requires_grad=True)
    x, w3, b2 = (torch.from_numpy(a) for a in (X, real(6, 4, seed=2), WEIGHTS["b2"]))
    logits = (torch.tanh(x @ (q * 0.5) + q.mean(0)) @ q.tanh()) @ w3 + b2
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)).backward()
    np.testing.assert_allclose(t.gradients(X, Y)["p"], q.grad.numpy(), rtol=1e-4, atol=1e-6)
    t.fit(X, Y, epochs=3)
    same_as_file(t, {"x": X})
    (row,) = (row for row in t.plan() if row["name"] == "p")
    assert row["into"] == ["w", "v"]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 1.0), ("adamw", 0.05)])
def test_devices_follow_by_the_threshold_rule(optimizer: str, lr: float) -> None:
    """On a real chip W + ΔW is f(v, g) within the window, and each pending ΔW lies below the threshold."""
    t = trainer(norm(), "bulk-rram", optimizer=optimizer, lr=lr)
    t.fit(X, Y, epochs=20)
    learner, v = t._training.learner, t.weights()
    state = learner.states["fc"]
    assert state.updates.sum() > 0
    span = state.w_max[:, None]
    wanted = np.clip(f(v["v"], v["g"]), -span, span)
    np.testing.assert_allclose(state.weights + state.delta, wanted, rtol=1e-5, atol=1e-6 * float(span.max()))
    assert (np.abs(state.delta) <= learner.rule.threshold_share * span * (1 + 1e-6)).all()


def test_an_analog_backward_pass_goes_through_the_expression_too() -> None:
    """A transposed read without errors: the parameters get the steps of the digital backward pass."""
    trained = []
    for backward in ("digital", "analog"):
        program = cimc.compile(norm(), target="ideal", settings={"array.transposed": {}})
        t = cimc.Trainer(cimc.Chip(program), batch_size=16, init="weights", backward=backward, **SGD)  # type: ignore[arg-type]
        t.fit(X, Y, epochs=5)
        assert ("analog" in " ".join(str(step) for step in t._training.learner.step.program.steps)) == (backward == "analog")
        trained.append(t.weights())
    assert all(np.abs(trained[0][name] - start).max() > 0.01 for name, start in (("v", V), ("g", G)))
    for name, value in trained[0].items():
        np.testing.assert_allclose(trained[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_resumed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"target": "bulk-rram", "batch_size": 8, "lr": 0.05, "schedule": "constant"}
    whole, part, rest = (trainer(norm(), **options) for _ in range(3))
    whole.fit(X, Y, epochs=4)
    part.fit(X, Y, epochs=2, checkpoint=tmp_path / "run")
    rest.fit(X, Y, epochs=4, checkpoint=tmp_path / "run", resume=True)
    for name, value in whole.weights().items():
        np.testing.assert_array_equal(rest.weights()[name], value)
        assert not np.array_equal(part.weights()[name], value)
    np.testing.assert_array_equal(rest.chip.conductances("fc"), whole.chip.conductances("fc"))


def test_a_saved_chip_goes_on(tmp_path: Path) -> None:
    t = trainer(norm(), "bulk-rram", lr=0.05)
    t.fit(X, Y, epochs=5)
    t.program().save(tmp_path / "t.cim")
    again = cimc.Trainer(cimc.Chip(cimc.load(tmp_path / "t.cim")), batch_size=16, lr=0.05)
    for name, value in t.weights().items():
        np.testing.assert_array_equal(again.weights()[name], value)
    first, second = t.gradients(X, Y), again.gradients(X, Y)
    for name, gradient in first.items():
        np.testing.assert_allclose(second[name], gradient, rtol=0.1, atol=0.02)  # another image of read noise
    again.fit(X, Y, epochs=2)
    assert not np.array_equal(again.weights()["v"], t.weights()["v"])


def test_the_users_model_gets_the_trained_parameters(tmp_path: Path) -> None:
    onnx.save(norm(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    done = command("train", tmp_path / "m.onnx", "--target", "ideal", "--data", tmp_path / "d.npz", "--epochs", "2",
                   "--batch", "8", "--init", "weights", "-o", tmp_path / "t.cim", "--onnx", tmp_path / "t.onnx")  # fmt: skip
    assert done.code == 0, done.err
    after = onnx.load(tmp_path / "t.onnx")
    assert [node.op_type for node in after.graph.node][:3] == ["ReduceL2", "Div", "Mul"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    program = cimc.load(tmp_path / "t.cim")
    np.testing.assert_allclose(weight_matrix(program, program.layer("fc"))[0], f(values["v"], values["g"]), rtol=1e-5, atol=1e-6)
    got = cimc.Chip(program).run({"x": X})["y"]
    np.testing.assert_allclose(got, outputs(after, {"x": X})[0], rtol=1e-4, atol=1e-5)


def test_patterns_choose_among_the_parameters() -> None:
    assert set(trainer(norm(), freeze="g").gradients(X, Y)) == {"v", "w2", "b2"}
    assert set(trainer(norm(), trainable="g").gradients(X, Y)) == {"g"}
    for freeze in ("fc", ["v", "g"]):
        t = trainer(norm(), freeze=freeze)
        assert set(t.gradients(X, Y)) == {"w2", "b2"}
        plan = {row["name"]: row for row in t.plan()}
        assert set(plan) == {"w", "v", "g", "w2", "b2"}
        assert not any(plan[name]["trains"] for name in ("v", "g", "w"))
        t.fit(X, Y, epochs=2)
        same_as_file(t, {"x": X})


def test_what_training_cannot_go_through_is_refused_by_name(tmp_path: Path) -> None:
    for options, said in (({"update": "naive"}, "only threshold updates"), ({"update": "residual"}, "only threshold updates"),
                          ({"init": "devices"}, "born with")):  # fmt: skip
        with pytest.raises(CimcError, match=said) as refused:
            trainer(norm(), "bulk-rram", optimizer="sgd", **options)
        assert "computed from v, g" in str(refused.value)
        assert "layer fc" in str(refused.value)
    rounded = model("k = Det (v)  w = Mul (u, k)", v=real(3, 3, seed=1), u=V)
    with pytest.raises(ModelError, match=r"Det.*no gradient") as refused:
        trainer(rounded)
    assert "--stop-after fold --emit onnx" in str(refused.value)
    both = model("w = Mul (p, half)", tail="[a] k = MatMul (x, p)  [fc] h = MatMul (k, w)  y = Gemm (h, w2, b2)", p=real(6, 6))
    both.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(real(6, 4), "w2"))
    with pytest.raises(ModelError, match=r"layer a.*holds it as it is"):
        trainer(both)
    two = "w = Mul (p, half)  u = Tanh (p)"
    idle = model(two, tail="[a] k = MatMul (x, u)  [fc] h = MatMul (k, w)  y = Gemm (h, w2, b2)", p=real(6, 6))
    idle.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(real(6, 4), "w2"))
    with pytest.raises(ModelError, match="layer a, which does not train"):
        trainer(idle, freeze="a")


def test_copies_with_the_same_entries_train_as_one_parameter() -> None:
    """a and c overlap in a column of w: its gradient is the sum of both."""
    torch = pytest.importorskip("torch")
    numbers = {"zero": np.array([0]), "one": np.array([1]), "five": np.array([5]), "six": np.array([6]), "end": np.array([11])}
    text = """a = Slice (w, zero, six, one)  c = Slice (w, five, end, one)
        h = MatMul (x, a)  k = MatMul (x, c)  s = Add (h, k)  r = Sigmoid (s)  y = Gemm (r, w2, b2)"""
    w, w2 = real(6, 12, seed=1), real(6, 4)
    t = trainer(network(text, w=w, w2=w2, b2=WEIGHTS["b2"], **numbers), **SGD)
    p, x = torch.tensor(w, requires_grad=True), torch.from_numpy(X)
    logits = torch.sigmoid(x @ p[:, :6] + x @ p[:, 5:11]) @ torch.from_numpy(w2) + torch.from_numpy(WEIGHTS["b2"])
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)).backward()
    np.testing.assert_allclose(t.gradients(X, Y)["w"], p.grad.numpy(), rtol=1e-4, atol=1e-6)
    t.fit(X, Y, epochs=3)
    same_as_file(t, {"x": X})
