"""Softmax cross-entropy of logits of any layout, with ignored places and soft labels: PyTorch's values and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import cimc

torch = pytest.importorskip("torch")

TEXT = {
    "tokens": "tokens (int64[N, 5] x) => (float[N, 5, V] y) { e = Gather (table, x)  y = MatMul (e, w) }",
    "open": "open (int64[N, T] x) => (float[N, T, V] y) { e = Gather (table, x)  y = MatMul (e, w) }",
    "pixels": "pixels (float[N, 1, 3, 4] x) => (float[N, V, 3, 4] y) { y = Conv <kernel_shape = [1, 1]> (x, w) }",
    "plain": "plain (float[N, 8] x) => (float[N, V] y) { y = MatMul (x, w) }",
}
SHAPES = {"tokens": (8, "V"), "open": (8, "V"), "pixels": ("V", 1, 1, 1), "plain": (8, "V")}
#: Axis of the classes.
AXIS = {"tokens": 2, "open": 2, "pixels": 1, "plain": 1}


def network(name: str, classes: int) -> onnx.ModelProto:
    text = TEXT[name].replace(" V]", f" {classes}]").replace(" V,", f" {classes},")
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(7)
    shape = tuple(classes if n == "V" else n for n in SHAPES[name])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 1, shape).astype(np.float32), "w"))
    if "Gather" in text:
        table = random.uniform(0, 1, (classes, 8)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    return proto


def batch(name: str, classes: int, images: int = 6) -> tuple[NDArray[Any], NDArray[np.int64]]:
    random = np.random.default_rng(9)
    if name in ("tokens", "open"):
        x: NDArray[Any] = random.integers(0, classes, (images, 5))
        return x, random.integers(0, classes, (images, 5))
    shape = (images, 1, 3, 4) if name == "pixels" else (images, 8)
    return random.random(shape, np.float32), random.integers(0, classes, (images, *shape[2:]))


def made(proto: onnx.ModelProto, **options: Any) -> cimc.Trainer:
    return cimc.Trainer(cimc.Chip(cimc.compile(proto, target="ideal"), 0), batch_size=4, **options)


def oracle(
    proto: onnx.ModelProto, x: NDArray[Any], y: NDArray[Any], axis: int, ignore: int = -100
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """PyTorch's loss, its gradient by the initializer w, and the logits; the network written once more in PyTorch."""
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t).copy()) for t in proto.graph.initializer}
    w = weights["w"].requires_grad_()
    if "table" in weights:
        logits = weights["table"][torch.tensor(x)] @ w
    elif w.ndim == 4:
        logits = torch.nn.functional.conv2d(torch.tensor(x), w)
    else:
        logits = torch.tensor(x) @ w
    labels = torch.tensor(np.moveaxis(y, axis, 1).copy() if y.dtype.kind == "f" else y)
    loss = torch.nn.functional.cross_entropy(torch.movedim(logits, axis, 1), labels, ignore_index=ignore)
    loss.backward()
    return float(loss.detach()), w.grad.numpy(), logits.detach().numpy()


def soft(name: str, y: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Probabilities of the logits' shape, most of it on y."""
    p = np.random.default_rng(3).dirichlet(np.ones(classes), y.shape) * 0.4 + 0.6 * np.eye(classes)[y]
    return np.moveaxis(p, -1, AXIS[name]).astype(np.float32)


@pytest.mark.parametrize("kind", ["hard", "ignored", "soft"])
@pytest.mark.parametrize("name", TEXT)
def test_loss_gradient_and_accuracy_are_those_of_pytorch(name: str, kind: str) -> None:
    x, y = batch(name, 6)
    labels: NDArray[Any] = y
    options: dict[str, Any] = {}
    if kind == "ignored":
        labels = np.where(np.random.default_rng(5).random(y.shape) < 0.4, -100, y)
        options["ignore_index"] = -100
    elif kind == "soft":
        labels = soft(name, y, 6)
    proto = network(name, 6)
    t = made(proto, **options)
    loss, gradient, logits = oracle(proto, x, labels, AXIS[name])
    found = t.gradients(x, labels)["w"]
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)
    evaluated = t.evaluate(x, labels, batch=4)  # two parts with other numbers of places that count
    assert evaluated["loss"] == pytest.approx(loss, rel=1e-5)
    said, counted = logits.argmax(AXIS[name]), labels != -100 if kind == "ignored" else np.ones(y.shape, bool)
    right = labels.argmax(AXIS[name]) if kind == "soft" else labels
    assert evaluated["accuracy"] == pytest.approx((said == right)[counted].mean())
    assert t.step(x, labels) == pytest.approx(loss, rel=1e-5)


def test_an_axis_that_the_labels_do_not_tell_is_chosen() -> None:
    """As many places as classes."""
    x, y = batch("tokens", 5)
    proto = network("tokens", 5)
    with pytest.raises(cimc.DataError, match=r"axis 1 or 2") as error:
        made(proto).fit(x, y, epochs=1)
    assert "class_axis=2 (--class-axis 2)" in (error.value.fix or "")
    for option, axis in ((2, 2), (-1, 2), (1, 1)):
        loss, gradient, _ = oracle(proto, x, y, axis)
        t = made(proto, class_axis=option)
        np.testing.assert_allclose(t.gradients(x, y)["w"], gradient, rtol=1e-4, atol=1e-6)
        assert t.evaluate(x, y)["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_sum_of_probabilities_tells_their_axis() -> None:
    x, y = batch("tokens", 5)
    labels = soft("tokens", y, 5)
    loss, _, _ = oracle(network("tokens", 5), x, labels, 2)
    assert made(network("tokens", 5)).step(x, labels) == pytest.approx(loss, rel=1e-5)


def test_batches_of_a_stream_decide_too_and_the_notes_say_so() -> None:
    x, y = batch("tokens", 6)
    t, other = made(network("tokens", 6)), made(network("tokens", 6))
    t.fit([(x, y)], epochs=1)
    other.fit(x, y, epochs=1)
    note = "the loss is the softmax cross-entropy of y, classes along axis 2"
    assert note in t.notes
    assert note in other.notes


def test_a_language_model_trains() -> None:
    """The next token is the present one plus one: a table can hold that."""
    random = np.random.default_rng(1)
    x = random.integers(0, 6, (64, 5))
    y = (x + 1) % 6
    y[::3, 4] = -100
    t = made(network("tokens", 6), ignore_index=-100, lr=0.05)
    history = t.fit(x, y, epochs=20, validation=(x, y))
    assert history.last["validation_accuracy"] > 0.95
    proto = t.program().to_onnx()
    said = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0].argmax(-1)
    assert history.last["validation_accuracy"] == pytest.approx((said == y)[y != -100].mean())


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (np.full((6, 5), -100), {}, r"labels from -100 to -100.*--ignore-index -100"),
        (np.full((6, 5), -100), {"ignore_index": -100}, "every label"),
        (np.full((6, 5), 7), {"ignore_index": -100}, "labels from 7 to 7, the model has 6 classes"),
        (np.zeros((6, 4), np.int64), {}, r"shape \[6, 4\], the loss takes \[N, 6\] or \[N, 5\]"),
        (np.zeros((6, 5), np.float32), {}, "class numbers are float32"),
        (np.full((6, 5, 6), 0.5, np.float32), {}, "sum to 1"),
        (np.zeros((6, 5), np.int64), {"class_axis": 3}, "class_axis is 3, but"),
        (np.zeros((6, 5), np.int64), {"class_axis": 0}, "class_axis is 0, but"),
        (np.zeros((6, 5), np.int64), {"loss": "mse", "class_axis": 1}, "has no classes"),
        (np.zeros((6, 5), np.int64), {"class_axis": 1.5}, "class_axis is 1.5"),
        (np.zeros((6, 5), np.int64), {"ignore_index": "pad"}, "ignore_index is 'pad'"),
    ],
)
def test_labels_that_do_not_suit_are_refused(labels: NDArray[Any], options: dict[str, Any], said: str) -> None:
    x, _ = batch("tokens", 6)
    with pytest.raises(cimc.CimcError, match=rf"(?s){said}"):
        made(network("tokens", 6), **options).fit(x, labels, epochs=1)


@pytest.mark.parametrize("options", [{"loss": torch.nn.CrossEntropyLoss()}, {"loss": lambda y, t: 0.0}, {"loss": None}])
def test_a_loss_of_ones_own_is_told_the_way(options: dict[str, Any]) -> None:
    with pytest.raises(cimc.CimcError, match="not the name of one") as error:
        made(network("plain", 6), **options)
    assert "model" in (error.value.fix or "")


@pytest.mark.parametrize("option", ["optimizer", "schedule", "update"])
def test_objects_are_told_apart_from_names(option: str) -> None:
    thing = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(cimc.CimcError, match="is a SGD, not the name of one"):
        made(network("plain", 6), **{option: thing})


def test_only_a_chip_is_trained() -> None:
    with pytest.raises(cimc.CimcError, match="Program"):
        cimc.Trainer(cimc.compile(network("plain", 6), target="ideal"))  # type: ignore[arg-type]
