"""A parameter whose transpose an exporter has folded trains as one, as in PyTorch."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from tests.cli.conftest import cimc as command
from tests.training.test_parameters import network, numeric, outputs, real, same_as_file, trainer

TOKENS = np.random.default_rng(1).integers(0, 11, (8, 5))
LABELS = np.random.default_rng(2).integers(0, 11, (8, 5))


@cache
def exported(dynamo: bool) -> tuple[Any, onnx.ModelProto]:
    torch = pytest.importorskip("torch")

    class Language(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 6)
            self.head = torch.nn.Linear(6, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, t: Any) -> Any:
            return self.head(torch.tanh(self.fc(self.embedding(t))))

    torch.manual_seed(0)
    module, file = Language(), io.BytesIO()
    options = {} if dynamo else {"do_constant_folding": True}
    torch.onnx.export(
        module.eval(), (torch.from_numpy(TOKENS),), file, dynamo=dynamo, input_names=["t"], output_names=["y"], **options
    )
    model = onnx.load_from_string(file.getvalue())
    assert len(model.graph.initializer) == 4  # W and W transposed, a weight and a bias
    return module, model


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_tied_embedding_of_both_exporters_trains_as_in_pytorch(dynamo: bool, tmp_path: Path) -> None:
    import copy

    torch = pytest.importorskip("torch")

    module, model = copy.deepcopy(exported(dynamo)[0]), exported(dynamo)[1]
    t = trainer(model, batch_size=8, optimizer="sgd", lr=0.1, schedule="constant")
    kept, gone = _names(model)
    row = {row["name"]: row for row in t.plan()}
    assert all(row[name]["trains"] for name in (kept, gone))
    assert len(row[kept]["shared_by"]) == 2
    assert row[gone]["why"] == f"the transpose of {kept}, trains with it as one parameter"
    assert any(f"{gone} is the transpose of {kept}" in note for note in t.chip.program.provenance.notes)

    descent = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(5):
        descent.zero_grad()
        logits = module(torch.from_numpy(TOKENS))
        torch.nn.functional.cross_entropy(logits.reshape(-1, 11), torch.from_numpy(LABELS).reshape(-1)).backward()
        if step == 0:
            expected = module.embedding.weight.grad.numpy()
            np.testing.assert_allclose(t.gradients(TOKENS, LABELS)[kept], expected, rtol=1e-4, atol=1e-6)
        descent.step()
        t.step(TOKENS, LABELS)
    np.testing.assert_allclose(t.weights()[kept], module.embedding.weight.detach().numpy(), rtol=1e-4, atol=1e-5)
    same_as_file(t, {"t": TOKENS})


def _names(model: onnx.ModelProto) -> tuple[str, str]:
    """The table, and its transpose."""
    table = next(node.input[0] for node in model.graph.node if node.op_type == "Gather")
    return table, [node.input[1] for node in model.graph.node if node.op_type == "MatMul"][-1]


def test_the_trained_model_has_both_values(tmp_path: Path) -> None:
    model = exported(False)[1]
    kept, gone = _names(model)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x_train=TOKENS, y_train=LABELS, x_test=TOKENS, y_test=LABELS)
    done = command("train", tmp_path / "m.onnx", "--target", "ideal", "--data", tmp_path / "d.npz", "--epochs", "1",
            "--batch", "8", "--init", "weights", "-o", tmp_path / "t.cim", "--onnx", tmp_path / "t.onnx")  # fmt: skip
    assert done.code == 0, done.err
    before, after = model, onnx.load(tmp_path / "t.onnx")
    values = [{i.name: onnx.numpy_helper.to_array(i) for i in m.graph.initializer} for m in (before, after)]
    assert not np.array_equal(values[0][kept], values[1][kept])
    np.testing.assert_array_equal(values[1][kept].T, values[1][gone])
    chip = cimc.Chip(cimc.load(tmp_path / "t.cim"))
    np.testing.assert_allclose(chip.run({"t": TOKENS})["y"], outputs(after, {"t": TOKENS})[0], rtol=1e-5, atol=1e-6)


def test_an_option_parts_them() -> None:
    model = exported(True)[1]
    kept, gone = _names(model)
    for tie, parted in (("none", True), ("as-written", True), ([kept], False), (["fc*"], True)):
        t = trainer(model, batch_size=8, tie=tie)
        assert ({kept, gone} <= set(t.gradients(TOKENS, LABELS))) == parted, tie
    assert not any(row["trains"] for row in trainer(model, batch_size=8, freeze=gone).plan() if row["name"] in (kept, gone))


def test_two_products_of_a_weight_and_its_transpose_train_as_one() -> None:
    """An autoencoder with tied weights: the gradient is the sum of both parts, by central differences."""
    w = real(6, 8, seed=1)
    head = "h = MatMul (x, w)  s = Tanh (h)  r = MatMul (s, v)  y = Slice (r, zero, four, one)"
    written = network(
        head.replace("s, v", "s, wt").replace("r =", "wt = Transpose <perm = [1, 0]> (w)  r ="),
        w=w, zero=np.array([0]), four=np.array([4]), one=np.array([1]),
    )  # fmt: skip
    folded = network(head, w=w, v=w.T.copy(), zero=np.array([0]), four=np.array([4]), one=np.array([1]))
    x, y = real(8, 6, seed=3), np.arange(8) % 4
    gradients = trainer(folded, batch_size=8).gradients(x, y)
    assert set(gradients) == {"w"}
    np.testing.assert_allclose(gradients["w"], numeric(written, "w", {"x": x}, y), rtol=0, atol=3e-4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.eye(6, dtype=np.float32)[:, :5], np.eye(6, dtype=np.float32)[:5]),
        (np.full((6, 5), 0.5, np.float32), np.full((5, 6), 0.5, np.float32)),
        (real(6, 5), real(5, 6, seed=7)),
    ],
    ids=["one-hot", "equal entries", "random"],
)
def test_what_is_no_transpose_or_no_random_matrix_stays_apart(one: Any, other: Any) -> None:
    model = network("h = MatMul (x, v)  s = Tanh (h)  y = MatMul (s, w)", outputs="float[N, 6] y", v=one, w=other)
    program = cimc.compile(model, target="ideal")
    assert not any("transpose" in note for note in program.provenance.notes)
    assert {layer.weight.tensor for layer in program.layers} == {"v", "w"}
