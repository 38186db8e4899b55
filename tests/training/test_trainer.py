"""The trainer: what a step does, what the chip keeps, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import cimc
from cimc.training.history import Callback, Row
from cimc.training.trained import into_model

from .small import NORMED, TEXT, chip, data, model, trainer


@pytest.fixture(scope="module")
def trained() -> tuple[cimc.Trainer, Any]:
    t = trainer(chip(), lr=0.02)
    return t, t.fit(*data(), epochs=8, validation=data(96, seed=2))


def test_it_learns_the_task_and_history_tells(trained: tuple[cimc.Trainer, Any]) -> None:
    t, history = trained
    assert history.last["validation_accuracy"] > 0.9
    assert history["epoch"] == list(range(1, 9))
    assert history.last["step"] == 8 * 12
    assert history["loss"][0] > history["loss"][-1]
    writes = sum(int(array.sum()) for name, array in t.chip.memory.items() if name.endswith("/writes"))
    assert sum(history["device_writes"]) == writes == history.cost["writes"]["device_writes"]


def test_forward_tile_operations_are_those_of_the_images_trained_on(trained: tuple[cimc.Trainer, Any]) -> None:
    t, history = trained
    assert history.cost["images"] == 8 * 192
    assert history.cost["tile_ops"] == {"forward": 8 * 192 * t.chip.program.cost().tile_ops, "backward": 0, "transfer": 0}
    assert history.cost["latency_ms"]["writes"] is None  # the paper gives no time of a write
    per_op = t.chip.program.target.timing.tile_op_energy_nj
    assert per_op is not None
    assert history.cost["energy_mj"]["analog"] == pytest.approx(history.cost["tile_ops"]["forward"] * per_op / 1e6)


def test_a_saved_chip_comes_back_with_its_state(trained: tuple[cimc.Trainer, Any], tmp_path: Path) -> None:
    t, _ = trained
    t.chip.save(tmp_path / "trained.cim")
    back = cimc.Chip(cimc.load(tmp_path / "trained.cim"))
    x, _ = data(20, seed=3)
    for layer in t.chip.program.layers:
        np.testing.assert_array_equal(back.conductances(layer.name), t.chip.conductances(layer.name))
    assert back.memory.keys() == t.chip.memory.keys()
    np.testing.assert_array_equal(back.run({"x": x}, 0)["y"], t.chip.run({"x": x}, 0)["y"])
    back.save(tmp_path / "again.cim")
    assert (tmp_path / "again.cim").read_bytes() == (tmp_path / "trained.cim").read_bytes()


def test_the_saved_model_holds_the_digital_weights(trained: tuple[cimc.Trainer, Any]) -> None:
    t, _ = trained
    program = t.program()
    layer = next(layer for layer in program.layers if layer.weight.tensor == "w2")
    weights = program.tensors[f"state/{layer.name}/weights"][0].T
    np.testing.assert_array_equal(program.initializers()["w2"], weights)
    mine = model()
    assert into_model(mine, t.weights()) == []
    x, _ = data(8, seed=4)
    ours, lowered = (
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for proto in (mine, program.to_onnx())
    )
    np.testing.assert_allclose(ours, lowered, rtol=1e-5, atol=1e-5)
    before = ort.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert not np.allclose(ours, before, atol=1e-2)


def test_training_goes_on_from_a_saved_chip(trained: tuple[cimc.Trainer, Any], tmp_path: Path) -> None:
    t, _ = trained
    t.chip.save(tmp_path / "trained.cim")
    again = trainer(cimc.Chip(cimc.load(tmp_path / "trained.cim")), lr=1e-4)
    for name, array in t.chip.memory.items():
        np.testing.assert_array_equal(again.chip.memory[name], array)
    assert again.evaluate(*data(96, seed=2)) == t.evaluate(*data(96, seed=2))  # noise included: the state counts evaluations


def test_the_ideal_chip_takes_the_optimizer_step_exactly() -> None:
    t = trainer(chip("ideal"), optimizer="sgd", lr=0.5)
    x, y = data(16)
    before, gradients = t.weights(), t.gradients(x, y)
    t.step(x, y)
    after = t.weights()
    assert gradients.keys() == {"w1", "b1", "w2"}
    for name, gradient in gradients.items():
        expected = before[name] - np.float32(0.5) * gradient.astype(np.float32)
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-7)


def test_a_step_on_the_digital_bias_reaches_inference() -> None:
    t = trainer(chip("ideal"), optimizer="sgd", lr=0.5, freeze=["w*"])
    x, y = data(16)
    before = t.chip.run({"x": x}, 0)["y"]
    t.step(x, y)
    assert not np.allclose(t.chip.run({"x": x}, 0)["y"], before)


@pytest.mark.parametrize("pattern", ["w1", "conv*"])
def test_frozen_layers_stay(pattern: str) -> None:
    c = chip()
    name = next(layer.name for layer in c.program.layers if layer.weight.tensor == "w1")
    pattern = name if pattern != "w1" else pattern
    held = c.conductances(name).copy()
    t = trainer(c, freeze=[pattern])
    x, y = data(16)
    for _ in range(3):
        t.step(x, y)
    np.testing.assert_array_equal(c.conductances(name), held)
    assert f"{name}/weights" not in c.memory


def test_devices_as_born_are_what_training_starts_from() -> None:
    c = chip(seed=3)
    trainer(c, init="devices")
    for layer in c.program.layers:
        g = c.conductances(layer.name)
        low, high = c.program.target.device.born_us or (0, 0)
        assert g.min() >= low
        assert g.max() <= high
        step = c.program.target.device.g_max_us - c.program.target.device.g_min_us
        w_max = 2.05 * sqrt(2 / layer.weight.shape[1])
        weights = (g[:, :, 0] - g[:, :, 1]).astype(np.float64) * w_max / step
        np.testing.assert_allclose(c.memory[f"{layer.name}/weights"], weights, atol=1e-5)
        assert np.isnan(c.memory[f"{layer.name}/written_us"]).all()


def test_weights_programmed_land_within_the_programming_error() -> None:
    c = chip()
    trainer(c, init="weights")
    for layer in c.program.layers:
        errors = c.conductances(layer.name) - c.memory[f"{layer.name}/written_us"]
        programming = c.program.target.device.programming
        bound = 5 * programming.sigma_us / sqrt(errors.size)
        assert abs(errors.mean() - programming.mean_us) < bound + 0.2  # no conductance below 0 shifts the mean a little


def test_same_seed_same_bytes_and_batches_of_an_iterator_are_the_same_training() -> None:
    x, y = data(64)
    batches = [(x[n : n + 16], y[n : n + 16]) for n in range(0, 64, 16)]
    states = []
    for source in (batches, lambda epoch: iter(batches), batches):
        t = trainer(chip())
        t.fit(source, epochs=2)
        states.append(dict(t.program().tensors))
    for other in states[1:]:
        for name, array in states[0].items():
            assert array.tobytes() == other[name].tobytes(), name


def test_an_iterator_wants_steps_and_is_used_up() -> None:
    x, y = data(96)

    def endless() -> Iterator[Any]:
        while True:
            yield from ((x[n : n + 16], y[n : n + 16]) for n in range(0, 96, 16))

    t = trainer(chip())
    with pytest.raises(cimc.CimcError, match="no end"):
        t.fit(endless(), epochs=1)
    assert t.fit(endless(), epochs=2, steps_per_epoch=5).last["step"] == 10
    with pytest.raises(cimc.DataError, match="end after 1 of epoch 2"):
        trainer(chip()).fit(iter([(x[:16], y[:16])] * 4), epochs=2, steps_per_epoch=3)


def test_random_batches_cover_all_data_before_any_image_comes_again() -> None:
    seen: list[int] = []
    x, y = data(48)
    x[:, 0, 0, 0] = np.arange(48) / 100
    t = trainer(chip())
    advance = t._training.advance

    def watch(batches: Any, lr: float) -> Any:
        seen.extend(np.rint(100 * batches[0][0]["x"][:, 0, 0, 0]).astype(int).tolist())
        return advance(batches, lr)

    t._training.advance = watch  # type: ignore[method-assign]
    t.fit(x, y, epochs=3, steps_per_epoch=2)
    assert sorted(seen[:48]) == sorted(seen[48:]) == list(range(48))
    assert seen[:48] != seen[48:]


def test_accumulated_batches_are_one_larger_batch() -> None:
    x, y = data(32)
    small, large = trainer(chip("ideal"), accumulate=2, optimizer="sgd"), trainer(chip("ideal"), batch_size=32, optimizer="sgd")
    small.fit([(x[:16], y[:16]), (x[16:], y[16:])], epochs=1)
    large.fit([(x, y)], epochs=1)
    for name, array in large.weights().items():
        np.testing.assert_allclose(small.weights()[name], array, rtol=1e-4, atol=1e-6)


def test_an_inference_model_is_switched_to_training_form_and_back() -> None:
    t = trainer(chip(text=NORMED), lr=0.02)
    assert any("1 BatchNormalization by the statistics of the batch" in note for note in t.notes)
    assert any("1 Dropout active" in note for note in t.notes)
    history = t.fit(*data(), epochs=8, validation=data(96, seed=2))
    assert history.last["validation_accuracy"] > 0.8
    trained = t.weights()
    assert not np.allclose(trained["mean"], 0)
    ops = {node.op_type for node in t.program().to_onnx().graph.node}
    assert "BatchNormalization" in ops


def test_naive_and_residual_run_by_name() -> None:
    x, y = data(16)
    for rule, optimizer in (("naive", "sgd"), ("residual", "adamw")):
        t = trainer(chip(), update=rule, optimizer=optimizer)
        t.step(x, y)
        assert np.isfinite(t.step(x, y))


def test_an_epoch_of_accumulated_batches_counts_all_images() -> None:
    """At a rate that moves nothing, loss and accuracy of the epoch are those of the data."""
    x, y = data(40)
    t = trainer(chip("ideal"), accumulate=2, optimizer="sgd", lr=1e-12)
    row = t.fit(x, y, epochs=1).last
    found = t.evaluate(x, y)
    assert row["accuracy"] == found["accuracy"]
    assert row["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_callbacks_hear_every_step_and_epoch() -> None:
    class Count(Callback):
        steps, epochs, started, writes = 0, 0, 0, 0

        def on_start(self, trainer: cimc.Trainer, epochs: int, steps_per_epoch: int | None, done: int) -> None:
            self.started += epochs * (steps_per_epoch or 0)

        def on_step(self, trainer: cimc.Trainer, row: Row) -> None:
            self.steps += 1
            self.last = row

        def on_epoch(self, trainer: cimc.Trainer, row: Row) -> None:
            self.epochs += 1
            self.writes += row["device_writes"]
            assert (self.last["accuracy"], self.last["device_writes"]) == (row["accuracy"], self.writes)

    count = Count()
    trainer(chip(), callbacks=[count]).fit(*data(50), epochs=2)
    assert (count.started, count.steps, count.epochs) == (8, 8, 2)


X, Y = data(32)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X, np.full(32, 3), "labels from 3 to 3, the model has 3 classes"),
        (X, -Y, "labels from -2 to 0"),
        (X, Y.astype(np.float32), "class numbers are float32"),
        (X, Y[:20], "20 labels for 32 images"),
        (X, None, "needs labels"),
        (np.where(np.arange(36).reshape(6, 6) == 7, np.float32("nan"), X), Y, "NaN"),
        (np.where(np.arange(36).reshape(6, 6) == 7, np.float32("inf"), X), Y, "Inf"),
        (X[:, :, :5], Y, r"shape \[32, 1, 5, 6\]"),
        (X.astype(np.complex64), Y, "complex64"),
        (X[:0], Y[:0], "no images"),
    ],
)
def test_bad_data_is_refused_before_the_first_step(x: Any, y: Any, said: str) -> None:
    t = trainer(chip())
    with pytest.raises(cimc.DataError, match=said):
        t.fit(x, y, epochs=1)
    assert t.steps == 0


def test_targets_of_binary_cross_entropy_lie_between_0_and_1() -> None:
    t, targets = trainer(chip(), loss="binary_cross_entropy"), np.ones((32, 3), np.float32)
    targets[7, 1] = 1.5
    with pytest.raises(cimc.DataError, match=r"targets from 1 to 1\.5, binary cross-entropy takes 0 to 1"):
        t.fit(X, targets, epochs=1)


def test_classes_along_another_axis_are_counted_and_scored_there() -> None:
    """Four places of six classes each; one ONNX Runtime says the same of."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 6] x) => (float[N, 4, 6] y)
        { a = MatMul (x, w)  y = Softmax <axis = -1> (a) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32) * 3, "w"))
    x = np.random.default_rng(0).random((32, 4, 6), np.float32)
    y = x.argmax(2)
    y[::4, 1] = (y[::4, 1] + 1) % 6
    t = cimc.Trainer(cimc.Chip(cimc.compile(proto, "ideal"), seed=0), batch_size=8)
    found = t.evaluate(x, y)
    (said,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert found["accuracy"] == pytest.approx((said.argmax(2) == y).mean())
    assert found["loss"] == pytest.approx(-np.log(np.take_along_axis(said, y[..., None], 2)).mean(), rel=1e-4)
    before = t.step(x[:8], y[:8])
    assert before == pytest.approx(-np.log(np.take_along_axis(said[:8], y[:8, :, None], 2)).mean(), rel=1e-4)
    with pytest.raises(cimc.DataError, match="the model has 6 classes"):
        t.fit(x, y + 1, epochs=1)


def test_what_calls_itself_an_array_is_one() -> None:
    class Tensor:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.array

        def __iter__(self) -> Any:
            return iter(self.array)

    ends = []
    for x, y in ((X, Y), (Tensor(X), Tensor(Y)), ({"x": Tensor(X)}, Y)):
        t = trainer(chip())
        t.fit(x, y, epochs=1)
        ends.append({name: value.tobytes() for name, value in t.weights().items()})
    assert ends[0] == ends[1] == ends[2]
    with pytest.raises(cimc.CimcError, match="give both as arrays"):
        trainer(chip()).fit(X.tolist(), Y.tolist(), epochs=1)


def test_a_batch_that_does_not_come_first_is_said() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[6, N, 4] x) => (float[6, N, 3] y) { y = MatMul (x, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    with pytest.raises(cimc.CimcError, match="batch as the first axis") as error:
        cimc.Trainer(cimc.Chip(cimc.compile(proto, "ideal"), seed=0), loss="mse")
    assert "input x" in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 1.5}, "epochs is 1.5, it must be whole"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch is 2.5"),
        ({"checkpoint_steps": 2.5}, "checkpoint_steps is 2.5"),
        ({"validation": X}, "no pair of images and labels"),
        ({"validation": (X,)}, "no pair of images and labels"),
        ({"validation": (X, Y + 9)}, "validation data, labels: labels from 9"),
        ({"validation": (iter([(X, Y)]), None)}, "give"),
    ],
)
def test_bad_options_of_a_run_are_refused(options: dict[str, Any], said: str) -> None:
    t = trainer(chip())
    with pytest.raises(cimc.CimcError) as error:
        t.fit(X, Y, **{"epochs": 1, **options})
    assert said in str(error.value)
    assert t.steps == 0


def test_one_pattern_may_be_given_as_it_is() -> None:
    t = trainer(chip(), freeze="w*")
    assert not {name for name in t.weights() if name.startswith("w")}


def test_what_is_evaluated_are_arrays_that_fill_a_batch() -> None:
    t = trainer(chip())
    batches = [(X, Y)]
    with pytest.raises(cimc.CimcError, match="evaluation takes arrays"):
        t.evaluate(iter(batches))
    with pytest.raises(cimc.CimcError, match="validation takes arrays"):
        t.fit(X, Y, epochs=1, validation=(iter(batches), None))
    fixed = trainer(chip(text=TEXT.replace("float[N, ", "float[16, ")))
    assert fixed.evaluate(X, Y)["images"] == 32
    with pytest.raises(cimc.DataError, match="12 images do not fill a batch of 16"):
        fixed.evaluate(X[:12], Y[:12])


def test_labels_of_another_shape_are_told_what_to_become() -> None:
    for loss, y, fix in (
        ("softmax_cross_entropy", np.eye(3, dtype=np.int64)[Y], "argmax"),
        ("mse", np.ones((32 * 3,), np.float32).reshape(32, 1, 3), r"y\.reshape\(-1, 3\)"),
        ("mse", np.ones((32, 2), np.float32), "of the output's shape"),
    ):
        with pytest.raises(cimc.DataError, match=fix):
            trainer(chip(), loss=loss).fit(X, y, epochs=1)


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_beyond_a_table_is_refused_before_the_first_step_however_late_it_comes(index: int) -> None:
    t = embedding("e = Gather (table, x)")
    x = np.arange(5000) % 5 - 5 * (np.arange(5000) % 2)
    t.fit(x[:64], x[:64] % 3, epochs=1)
    steps, x[-1] = t.steps, index
    with pytest.raises(cimc.DataError, match="the table has 5 entries"):
        t.fit(x, x % 3, epochs=1)
    assert t.steps == steps > 0


def test_an_index_that_the_model_computes_beyond_a_table_is_bad_data() -> None:
    t = embedding("one = Constant <value_int = 1> ()  i = Add (x, one)  e = Gather (table, i)")
    with pytest.raises(cimc.DataError, match="does not run on them"):
        t.fit(np.arange(32) % 5, Y, epochs=1)
    assert t.steps == 0


def embedding(look_up: str) -> cimc.Trainer:
    """Of a model that looks x up in a table of 5 entries and multiplies."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (int64[N] x) => (float[N, 3] y) {{ {look_up}  y = MatMul (e, w) }}"""
    )
    for name, shape in (("table", (5, 4)), ("w", (4, 3))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return cimc.Trainer(cimc.Chip(cimc.compile(proto, "bulk-rram"), seed=0), batch_size=8)


def test_data_outside_the_range_compiled_for_are_refused() -> None:
    c = chip(**{"input.range": (0, 1)})
    with pytest.raises(cimc.DataError, match=r"compiled for 0 to 1"):
        trainer(c).fit(2 * X, Y, epochs=1)


def test_divergence_names_epoch_step_and_a_way_out() -> None:
    linear = TEXT.replace("c = Relu (a)", "c = Identity (a)")  # ReLUs could all fall silent, and the loss stay finite
    t = trainer(chip("ideal", text=linear), optimizer="sgd", lr=1e30)
    with pytest.raises(cimc.RunError) as caught:
        t.fit(*data(), epochs=2)
    assert caught.value.exit_code == 1
    assert caught.value.where is not None
    assert caught.value.where.startswith("epoch 1, step ")
    assert "learning rate" in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adamm"}, "no optimizer 'adamm'"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"update": "treshold"}, "no update rule"),
        ({"schedule": "cos"}, "no schedule"),
        ({"init": "zero"}, "init is 'zero'"),
        ({"freeze": ["conv9*"]}, "names no initializer and no layer"),
        ({"backward": "analog"}, "no transposed read"),
        ({"loss": "hinge"}, "no loss is called hinge"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        trainer(chip(), **options)


def test_a_model_that_knows_nothing_starts_from_the_devices_and_one_that_does_from_its_weights() -> None:
    x, y = data(192)
    fresh = trainer(chip())
    fresh.fit(x, y, epochs=1)
    assert any("no better than guessing" in note for note in fresh.notes)

    teacher = trainer(chip("ideal"), lr=0.02)
    teacher.fit(x, y, epochs=4)
    program = cimc.compile(teacher.program().to_onnx(), target="bulk-rram", calibration={"x": x[:32]})
    tuned = trainer(cimc.Chip(program), lr=1e-5)
    before = {name: array.copy() for name, array in tuned.weights().items()}
    history = tuned.fit(x, y, epochs=1, validation=(x, y))
    assert not any("guessing" in note for note in tuned.notes)
    assert history.last["validation_accuracy"] > 0.8
    for name, array in tuned.weights().items():
        np.testing.assert_allclose(array, before[name], atol=1e-3)


def test_the_weights_given_by_name_stay_even_if_they_know_nothing() -> None:
    t = trainer(chip(), init="weights", lr=1e-6)
    before = t.weights()["w2"]
    t.fit(*data(32), epochs=1)
    np.testing.assert_allclose(t.weights()["w2"], before, atol=1e-4)


@pytest.mark.parametrize(("most", "used"), [(16, "16 training images"), (64, "32 training images")])
def test_it_says_how_many_images_ranges_are_chosen_from(most: int, used: str) -> None:
    t = trainer(chip(), calibration_images=most)
    history = t.fit(X, Y, epochs=1)
    assert f"input gains and ADC ranges are chosen on the chip, from {used}" in history.notes
    assert t.program().provenance.calibration == f"on the chip, {used}"
    t.fit(lambda epoch: [(X, Y)], epochs=1)
    assert t.program().provenance.calibration == "on the chip, the present batch"
    exact = trainer(chip("ideal"))  # it has no ranges
    assert not any("ranges" in note for note in exact.fit(X, Y, epochs=1).notes)


def test_ranges_are_chosen_for_the_form_that_runs() -> None:
    """After one step the running variance is a tenth of the batch's: outputs of the norm are 3 times as large in inference."""
    undropped = NORMED.replace("r = Constant <value_float = 0.25> ()  d = Dropout (c, r)  f = Flatten (d)", "f = Flatten (c)")
    t = trainer(chip(text=undropped, **{"adc.range_ua": 70.0}), w_max=100.0, init="devices")
    x, y = data()
    t.step(x[:64], y[:64])

    def scale() -> float:
        return t.chip.program.layers[1].coding.full_scale

    # Normalised over the batch, no output lies beyond sqrt(n - 1) deviations.
    assert scale() < sqrt(64 * 16)
    training = scale()
    t.evaluate(x[64:128], y[64:128])
    assert scale() > 2.5 * training
    t.step(x[128:], y[128:])
    assert scale() < 1.5 * training


def test_one_weight_may_span_the_window_of_every_layer() -> None:
    t = trainer(chip(), w_max=0.75, init="devices")
    assert {float(t.chip.program.tensors[f"weight_max/{layer.name}"].max()) for layer in t.program().layers} <= {0.75}
    assert all((array == 0.75).all() for name, array in t.chip.memory.items() if name.endswith("/w_max"))
    with pytest.raises(cimc.CimcError, match="both window and w_max"):
        trainer(chip(), w_max=0.75, window=2.0)


def standardised(images: int = 96) -> tuple[Any, Any]:
    x, y = data(images)
    return ((x - x.mean()) / x.std()).astype(np.float32), y


def test_standardised_data_train_and_the_trained_file_takes_them(tmp_path: Path) -> None:
    """Compiled without calibration data: the range of 0 to 1 was only assumed, and ranges are chosen on the chip."""
    program = cimc.compile(model(), target="bulk-rram")
    x, y = standardised()
    with pytest.raises(cimc.DataError, match="calibrated for 0 to 1"):
        cimc.Chip(program).run({"x": x})
    t = trainer(cimc.Chip(program))
    history = t.fit(x, y, epochs=8, validation=(x, y))
    assert history.last["validation_accuracy"] > 0.9
    clips = [crossbar.stats.dac_clips / crossbar.stats.dac_inputs for crossbar in t.chip.crossbars.values()]
    assert max(clips) < 0.01
    t.chip.save(tmp_path / "trained.cim")
    said = cimc.Chip(cimc.load(tmp_path / "trained.cim")).run({"x": x})["y"].argmax(1)
    assert (said == y).mean() > 0.9


def test_a_step_and_a_calibration_take_standardised_data_too() -> None:
    x, y = standardised(32)
    t = trainer(cimc.Chip(cimc.compile(model(), target="bulk-rram")))
    t.step(x[:16], y[:16])
    assert t.evaluate(x, y)["images"] == 32
    chip = cimc.Chip(cimc.compile(model(), target="bulk-rram"))
    chip.calibrate({"x": x})
    assert chip.program.layer("Conv_0").coding.signed
    chip.run({"x": x})


def test_several_standardised_inputs_train() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 6] a, float[N, 4] b) => (float[N, 3] y)
        { p = MatMul (a, w)  q = MatMul (b, v)  y = Add (p, q) }"""
    )
    random = np.random.default_rng(0)
    for name, rows in (("w", 6), ("v", 4)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(0, 0.3, (rows, 3)).astype(np.float32), name))
    x = {"a": random.normal(0, 2, (64, 6)).astype(np.float32), "b": random.normal(-1, 1, (64, 4)).astype(np.float32)}
    y = x["a"][:, :3].argmax(1)
    t = trainer(cimc.Chip(cimc.compile(proto, target="bulk-rram")), lr=0.05)
    history = t.fit(x, y, epochs=20, validation=(x, y))
    assert history.last["validation_accuracy"] > 0.75
