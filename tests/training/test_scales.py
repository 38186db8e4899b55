"""Learnt scales: a digital factor a layer or a column, trained by gradient with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import cimc
from cimc.training.history import Callback

from . import small

torch = pytest.importorskip("torch")
X, Y = small.data(64)
QUIET = {"device.programming.mean_us": 0.0, "device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0}


def found(kind: str, **options: Any) -> tuple[cimc.Trainer, dict[str, np.ndarray]]:
    """A trainer on the exact target, and its gradients of scales on a batch."""
    trainer = small.trainer(small.chip("ideal"), learn_scales=kind, **options)
    training = trainer._training
    batch = trainer._feed.batch(X, Y)
    gradients = training.learner.gradients(training.gradients(batch))
    return trainer, {name.removeprefix("scale/"): g for name, g in gradients.items() if name.startswith("scale/")}


def torch_loss(logs: dict[str, Any], weights: dict[str, Any] | None = None) -> Any:
    """The loss of the small model whose weights are multiplied by exp(logs)."""
    arrays: dict[str, Any] = {
        t.name: torch.tensor(onnx.numpy_helper.to_array(t).astype(np.float64)) for t in small.model().graph.initializer
    }
    arrays |= weights or {}
    w1 = arrays["w1"] * torch.exp(logs["w1"]).reshape(-1, 1, 1, 1)
    w2 = arrays["w2"] * torch.exp(logs["w2"]).reshape(-1, 1)
    hidden = torch.relu(torch.nn.functional.conv2d(torch.tensor(X.astype(np.float64)), w1, arrays["b1"]))
    return torch.nn.functional.cross_entropy(hidden.flatten(1) @ w2.T, torch.tensor(Y))


@pytest.mark.parametrize(("kind", "sizes"), [("layer", (1, 1)), ("column", (4, 3))])
def test_gradients_are_those_of_autograd_and_of_differences(kind: str, sizes: tuple[int, int]) -> None:
    trainer, gradients = found(kind)
    logs = {
        name: torch.zeros(size, dtype=torch.float64, requires_grad=True) for name, size in zip(("w1", "w2"), sizes, strict=True)
    }
    torch_loss(logs).backward()
    layers = {layer.weight.tensor: layer.name for layer in trainer.chip.program.layers}
    for name, log in logs.items():
        mine = gradients[layers[name]].reshape(-1)
        np.testing.assert_allclose(mine, log.grad.numpy(), rtol=2e-4, atol=1e-6)
        for place in range(log.numel()):
            ends = []
            for step in (1e-4, -1e-4):
                moved = {n: torch.zeros_like(v) for n, v in logs.items()}
                moved[name][place] = step
                ends.append(float(torch_loss(moved)))
            assert mine[place] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("kind", "sizes"), [("layer", (1, 1)), ("column", (4, 3))])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_training_is_that_of_torch_with_weights_and_logarithms_as_parameters(
    kind: str, sizes: tuple[int, int], decay: float
) -> None:
    """Five steps of SGD on the exact target: W is exp(ln f) V, and weight decay acts on V alone."""
    options = {"optimizer": "sgd", "lr": 0.05, "scale_lr": 4.0, "optimizer_options": {"weight_decay": decay}}
    trainer = small.trainer(small.chip("ideal"), learn_scales=kind, freeze="b1", **options)
    arrays = {t.name: torch.tensor(onnx.numpy_helper.to_array(t).astype(np.float64)) for t in small.model().graph.initializer}
    v = {name: arrays[name].clone().requires_grad_() for name in ("w1", "w2")}
    logs = {name: torch.zeros(size, dtype=torch.float64, requires_grad=True) for name, size in zip(v, sizes, strict=True)}
    own = {"params": list(v.values()), "lr": 0.05, "weight_decay": decay}
    optimizer = torch.optim.SGD([own, {"params": list(logs.values()), "lr": 4.0}], lr=0.05)
    for _ in range(5):
        trainer.step(X, Y)
        optimizer.zero_grad()
        torch_loss(logs, v).backward()
        optimizer.step()
    assert max(float(log.detach().abs().max()) for log in logs.values()) > 0.05
    for name, value in trainer.weights().items():
        if name in v:
            factor = torch.exp(logs[name]).reshape(-1, *[1] * (v[name].ndim - 1))
            np.testing.assert_allclose(value, (factor * v[name]).detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "column"])
def test_a_step_is_relative_and_touches_no_device(kind: str) -> None:
    """SGD, far below any threshold: the scale, the copy W and all products change by exp(-lr * gradient), devices do not."""
    chip = small.chip(**QUIET)
    trainer = small.trainer(chip, learn_scales=kind, optimizer="sgd", lr=1e-12, scale_lr=0.5, init="weights")
    training = trainer._training
    before = (
        trainer.scales(),
        {n: c.copy() for n, c in chip.weights().items()},
        {n: chip.conductances(n).copy() for n in chip.crossbars},
    )
    training.suit("training", trainer._feed.batch(X, Y))
    gradients = training.learner.gradients(training.gradients(trainer._feed.batch(X, Y)))
    trainer.step(X, Y)
    for name, scale in trainer.scales().items():
        factor = np.exp(-0.5 * gradients[f"scale/{name}"].astype(np.float64))
        assert (np.abs(factor - 1) > 1e-4).any()
        np.testing.assert_allclose(scale, before[0][name] * factor, rtol=1e-6)
        np.testing.assert_allclose(chip.weights()[name], before[1][name] * factor[:, None], rtol=1e-5, atol=1e-9)
        np.testing.assert_array_equal(chip.conductances(name), before[2][name])
    assert trainer.cost()["writes"]["device_writes"] == 0


def test_products_follow_the_scale_to_the_bit_of_a_fresh_chip(tmp_path: Path) -> None:
    """What a chip in training computes is what the saved file computes, though nothing is prepared anew at a step."""
    trainer = small.trainer(small.chip(), learn_scales="column")
    trainer.fit(X, Y, epochs=2)
    chip = trainer.chip
    chip.run({"x": X[:8]}, 0)
    trainer.step(X[:16], Y[:16])
    trainer.program().save(tmp_path / "t.cim")
    again = cimc.Chip(cimc.load(tmp_path / "t.cim"))
    np.testing.assert_array_equal(chip.run({"x": X}, 0)["y"], again.run({"x": X}, 0)["y"])
    for name, scale in trainer.scales().items():
        np.testing.assert_array_equal(again.program.tensors[f"weight_max/{name}"], scale.reshape(-1))


@pytest.mark.parametrize("update", [{}, {"update": "residual"}, {"update": "naive", "optimizer": "sgd"}])
def test_every_rule_trains_scales_and_goes_on_to_the_same_bytes(update: dict[str, Any], tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step(self, trainer: cimc.Trainer, row: dict[str, Any]) -> None:
            if row["step"] == 5:
                raise KeyboardInterrupt

    def made(**options: Any) -> cimc.Trainer:
        return small.trainer(small.chip(), learn_scales="layer", scale_lr=0.02, **update, **options)

    whole = made()
    start = whole.scales()
    whole.fit(X, Y, epochs=2, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        made(callbacks=[Stop()]).fit(X, Y, epochs=2, checkpoint=tmp_path / "cut", checkpoint_steps=3)
    resumed = made()
    resumed.fit(X, Y, epochs=2, checkpoint=tmp_path / "cut", resume=True)
    for name, tensor in whole.program().tensors.items():
        np.testing.assert_array_equal(tensor, resumed.program().tensors[name], err_msg=name)
    assert any((scale != start[name]).any() for name, scale in whole.scales().items())


def test_a_trained_chip_goes_on_with_its_scale() -> None:
    trainer = small.trainer(small.chip(), learn_scales="layer", scale_lr=0.05)
    trainer.step(X, Y)
    again = small.trainer(trainer.chip)
    for name, scale in trainer.scales().items():
        np.testing.assert_array_equal(again.scales()[name], scale)
        np.testing.assert_allclose(trainer.chip.crossbars[name].coefficients.weight_step, scale.reshape(-1) / 3, rtol=1e-6)


def test_the_written_model_and_the_image_hold_the_scale(tmp_path: Path) -> None:
    """On a chip without errors the trained ONNX file, the chip and an image's die compute the same, but for converters."""
    chip = small.chip(**QUIET, **{"adc.bits": None, "dac.bits": None})
    trainer = small.trainer(chip, learn_scales="column", scale_lr=0.05)
    trainer.fit(X, Y, epochs=3)
    program = trainer.program()
    session = onnxruntime.InferenceSession(program.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": X})[0]
    np.testing.assert_allclose(chip.run({"x": X}, 0)["y"], wanted, atol=2e-3 * np.abs(wanted).max())
    image = cimc.export_image(chip, path=tmp_path / "t.cimg")
    np.testing.assert_allclose(image.program(seed=3).run({"x": X}, 0)["y"], wanted, atol=2e-3 * np.abs(wanted).max())


def test_weight_decay_does_not_act_on_scales() -> None:
    steps = []
    for decay in (0.0, 0.5):
        options = {"optimizer": "sgd", "lr": 1e-12, "scale_lr": 0.1, "optimizer_options": {"weight_decay": decay}}
        trainer = small.trainer(small.chip("ideal"), learn_scales="layer", **options)
        trainer.step(X, Y)
        steps.append(trainer.scales())
    for name, scale in steps[0].items():
        np.testing.assert_array_equal(scale, steps[1][name])


def test_weights_that_another_place_holds_keep_their_scale() -> None:
    """A tied embedding is a crossbar's weight and a digital table: they stay equal, and a note says that the scale is fixed."""
    text = """tied (int64[N] x) => (float[N, 6] y) {
        e = Gather (w, x)  h = MatMul (e, v)  r = Relu (h)  y = Gemm <transB = 1> (r, w) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    for name, shape in (("w", (6, 4)), ("v", (4, 4))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 0.4, shape).astype(np.float32), name))
    x = random.integers(0, 6, 32)
    chip = cimc.Chip(cimc.compile(proto, "bulk-rram", calibration={"x": x}, tie="as-written"))
    trainer = cimc.Trainer(chip, learn_scales="layer", batch_size=8, freeze=())
    (free,) = trainer._training.learner.scales.kinds
    (tied,) = chip.crossbars.keys() - {free}
    assert chip.program.layer(tied).weight.tensor == "w"
    assert any("another place holds the weights" in note and tied in note for note in trainer.notes)
    assert any("one digital scale a layer" in note and free in note for note in trainer.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learn_scales": "tile"}, "learn_scales is 'tile'"),
        ({"scale_lr": 0.1}, "no scales train"),
        ({"learn_scales": "layer", "scale_lr": -1.0}, "scale_lr"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        small.trainer(small.chip(), **options)


def test_a_scale_that_leaves_float32_ends_the_run_before_anything_changes() -> None:
    trainer = small.trainer(small.chip(), learn_scales="layer", optimizer="sgd", lr=1e-3, scale_lr=1e9)
    before = trainer.scales()
    with pytest.raises(cimc.CimcError, match="scale"):
        trainer.step(X, Y)
    for name, scale in trainer.scales().items():
        np.testing.assert_array_equal(scale, before[name])


def test_the_step_says_which_scales_train(tmp_path: Path) -> None:
    from cimc.ir.printer import print_program
    from cimc.training.step import training_program

    text = print_program(training_program(small.chip().program, scales="layer"))
    assert text.count('scales="layer"') == 2
    assert "scales=" not in print_program(training_program(small.chip().program))
