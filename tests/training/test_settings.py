"""Settings mean the same whatever the data come in, and none is ignored in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.training.history import Callback, Row
from tests.training import small


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_step(self, trainer: cimc.Trainer, row: Row) -> None:
        self.rates.append(row["lr"])


class Loader:
    """As PyTorch's: batches anew for each epoch, and their number."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_gives_the_same_rates_for_arrays_lists_and_loaders(schedule: str, accumulate: int) -> None:
    """The cosine in closed form for all of them."""
    x, y = small.data(80)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 80, 16)]
    found = []
    for given in ((x, y), (batches,), (tuple(batches),), (Loader(batches),), (lambda epoch: iter(batches),)):
        rates = Rates()
        trainer = small.trainer(small.chip("ideal"), schedule=schedule, accumulate=accumulate, lr=0.01)
        trainer.fit(*given, epochs=3, callbacks=[rates])
        found.append(rates.rates)
    steps = 3 * -(-5 // accumulate)
    assert all(len(rates) == steps for rates in found)
    if schedule == "cosine":
        expected = [0.005 * (1 + np.cos(np.pi * n / steps)) for n in range(steps)]
        assert all(rates == pytest.approx(expected) for rates in found)
    elif schedule != "plateau":  # which follows the loss, and arrays come in another order
        assert all(rates == found[0] for rates in found)


def test_a_source_whose_length_nobody_knows_says_what_the_rate_does() -> None:
    x, y = small.data(32)

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            return ((x[i : i + 16], y[i : i + 16]) for i in (0, 16))

    def notes(**options: Any) -> str:
        fitting = {key: options.pop(key) for key in ("steps_per_epoch",) if key in options}
        return "\n".join(small.trainer(small.chip("ideal"), **options).fit(Batches(), epochs=1, **fitting).notes)

    assert "the number of batches is not known" in notes()
    assert "the number of batches is not known" not in notes(schedule="constant")
    assert "the number of batches is not known" not in notes(steps_per_epoch=2)


def test_a_note_on_the_data_is_made_once_however_many_runs_there_are(tmp_path: Path) -> None:
    x, y = small.data(32)

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            return ((x[i : i + 16], y[i : i + 16]) for i in (0, 16))

    trainer = small.trainer(small.chip())
    for run in ("one", "other"):
        notes = trainer.fit(Batches(), epochs=1, checkpoint=tmp_path / run).notes
    for text in ("the number of batches is not known", "the data come as a stream", "ranges are chosen on the chip"):
        assert sum(text in note for note in notes) == 1


def test_a_scale_for_each_column_is_that_of_its_own_weights() -> None:
    """In closed form, and the devices hold the weights at that scale."""
    quiet = {"device.programming.mean_us": 0.0, "device.programming.sigma_us": 0.0, "device.read_sigma_us": 0.0}
    proto = small.model()
    (tensor,) = (t for t in proto.graph.initializer if t.name == "w1")
    w1 = (onnx.numpy_helper.to_array(tensor) * np.array([1, 3, 5, 7]).reshape(4, 1, 1, 1)).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(w1, "w1"))
    calibration = {"x": small.data(32)[0]}
    program = cimc.compile(proto, "bulk-rram", calibration=calibration, settings={"weights.scale": "column", **quiet})
    chip, w1 = cimc.Chip(program), w1.reshape(4, 9)
    small.trainer(chip)
    name = next(layer.name for layer in program.layers if layer.weight.tensor == "w1")
    factor = chip.program.target.update.window_he
    assert factor is not None
    # Devices without errors keep the largest weight too.
    span = np.maximum(factor * np.sqrt((w1.astype(np.float64) ** 2).mean(axis=1)), np.abs(w1).max(axis=1))
    np.testing.assert_allclose(chip.memory[f"{name}/w_max"].reshape(-1), span, rtol=1e-6)
    assert len(set(span)) > 1
    g = chip.conductances(name)[0].astype(np.float64)  # rows, planes, columns
    window = chip.program.target.device.g_max_us - chip.program.target.device.g_min_us
    np.testing.assert_allclose((g[:, 0] - g[:, 1]) / window * span, np.clip(w1.T, -span, span), atol=1e-5)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "window on ideal": (lambda: small.trainer(small.chip("ideal"), window=2.0), "no conductance window, and window"),
    "w_max on ideal": (lambda: small.trainer(small.chip("ideal"), w_max=1.0), "no conductance window, and w_max"),
    "threshold on ideal": (lambda: small.trainer(small.chip("ideal"), threshold=0.1), "no conductance window, and threshold"),
    "threshold_share of ideal": (
        lambda: small.trainer(small.chip("ideal", **{"update.threshold_share": 0.1})),
        "no conductance window, and update.threshold_share",
    ),
    "limit of threshold updates": (lambda: small.trainer(small.chip(), limit=0.1), "threshold updates take no limit"),
    "limit of the target's naive updates": (
        lambda: small.trainer(small.chip(**{"update.rule": "naive"}), limit=0.1, optimizer="sgd"),
        "naive updates take no limit",
    ),
    "a negative limit": (lambda: small.trainer(small.chip(), update="residual", limit=-0.1), "limit"),
    "window of a trained chip": (lambda: small.trainer(trained(), window=2.0), "goes on with the weight scale"),
    "w_max of a trained chip": (lambda: small.trainer(trained(), w_max=2.0), "goes on with the weight scale"),
}


def trained() -> cimc.Chip:
    chip = small.chip()
    small.trainer(chip)
    return chip


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_a_setting_without_effect_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(cimc.CimcError, match=said):
        make()


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"weights.clip_sigma": 2.5}, {}, "weights.clip_sigma 2.5 is not used where that is wider: update.window_he"),
        ({"weights.clip_sigma": 2.5}, {"w_max": 1.0}, "weights.clip_sigma 2.5 is not used: w_max"),
        ({"update.threshold_share": 0.2}, {"update": "naive", "optimizer": "sgd"}, "update.threshold_share 0.2 is not used"),
        ({"update.limit_share": 0.2}, {}, "update.limit_share 0.2 is not used"),
        ({"update.programming": "write_verify"}, {"update": "residual"}, "update.programming write_verify is not used"),
    ],
)
def test_a_field_that_another_overrules_is_named(settings: dict[str, Any], options: dict[str, Any], said: str) -> None:
    assert any(said in note for note in small.trainer(small.chip(**settings), **options).notes)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"device.slow_noise": {"sigma_us": 0.5}}, {"backward": "analog"}, "device.slow_noise is in forward reads only"),
        ({"adc.gain_sigma": 0.02}, {"backward": "analog"}, "word lines of the analog backward pass convert alike"),
        ({"device.drift": {"kind": "power_law"}}, {}, "no time passes in training"),
    ],
)
def test_an_effect_that_a_part_of_the_training_lacks_is_named(settings: Any, options: Any, said: str) -> None:
    analog = {"array.transposed": {}} if options else {}
    assert any(said in note for note in small.trainer(small.chip(**settings, **analog), **options).notes)
    assert not any(said in note for note in small.trainer(small.chip(**analog), **options).notes)
    if options:
        assert not any(said in note for note in small.trainer(small.chip(**settings, **analog)).notes)


def test_a_trained_chip_that_is_programmed_anew_may_get_another_window() -> None:
    chip = trained()
    small.trainer(chip, window=3.0, init="weights")
    assert not any("not used" in note for note in small.trainer(small.chip()).notes)


def test_ranges_that_leave_out_a_share_by_design_are_not_chosen_at_every_look() -> None:
    x, y = small.data(64)
    trainer = small.trainer(small.chip(**{"dac.clip_share": 0.02}), batch_size=64, calibration_images=64)
    history = trainer.fit(x, y, epochs=4)
    assert sum(row["recalibrations"] for row in history.rows) <= 1
