"""The state of a chip: what is saved is all that two chips of one program may differ in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError
from cimc.runtime.state import ChipState
from tests.runtime import pcm
from tests.training.small import chip, data, trainer

X, Y = data(32)
AGED = pcm.CHIP | {"device.drift.compensation": "column"}


def new() -> cimc.Chip:
    return chip(seed=3)


def used() -> cimc.Chip:
    c = chip(seed=3)
    c.run({"x": X})
    return c


def fitted() -> cimc.Chip:
    c = chip(seed=3)
    c.fit_outputs({"x": X})
    c.calibrate({"x": X[:8]})
    return c


def aged_and_trained() -> cimc.Chip:
    c = chip(seed=3, **AGED)
    t = trainer(c, init="weights")
    t.step(X[:16], Y[:16])
    t.evaluate(X, Y)
    c.advance(1e5)
    return c


def of_another_noise() -> cimc.Chip:
    return cimc.Chip(aged_and_trained().trained_program(), 7)


def in_copies() -> cimc.Chip:
    image = cimc.export_image(chip(seed=3), copies={"Conv_0": 2})
    return image.program(seed=4)


CHIPS: list[Callable[[], cimc.Chip]] = [new, used, fitted, aged_and_trained, of_another_noise, in_copies]


@pytest.mark.parametrize("make", CHIPS)
def test_a_saved_chip_goes_on_as_if_it_had_not_been_saved(make: Callable[[], cimc.Chip], tmp_path: Path) -> None:
    one = make()
    one.save(tmp_path / "c.cim")
    other = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    for c in (one, other):
        c.run({"x": X[:8]})
        c.advance(100.0)
    assert one.run({"x": X})["y"].tobytes() == other.run({"x": X})["y"].tobytes()  # numbers of images go on too
    there, here = one.trained_program(), other.trained_program()
    assert there.model_dump_json() == here.model_dump_json()
    assert there.tensors.keys() == here.tensors.keys()
    for name, tensor in there.tensors.items():
        assert (tensor.dtype, tensor.tobytes()) == (here.tensors[name].dtype, here.tensors[name].tobytes()), name


@pytest.mark.parametrize("make", CHIPS)
def test_tensors_make_the_state_again(make: Callable[[], cimc.Chip]) -> None:
    program = make().trained_program()
    state = {name: tensor for name, tensor in program.tensors.items() if name.startswith("state/")}
    again = ChipState.of(program, None).tensors()
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert (again[name].dtype, again[name].shape, again[name].tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())


def test_another_seed_is_that_of_the_noise_alone(tmp_path: Path) -> None:
    c = of_another_noise()
    assert (c.seed, c.noise_seed) == (3, 7)
    c.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert (again.seed, again.noise_seed) == (3, 7)


def test_images_that_were_run_are_counted_in_the_file(tmp_path: Path) -> None:
    c = used()
    c.save(tmp_path / "c.cim")
    program = cimc.load(tmp_path / "c.cim")
    assert program.tensors["state/images"].tolist() == [len(X)]
    again = cimc.Chip(program)
    there = again.run({"x": X}, 0)["y"], again.run({"x": X})["y"]
    assert there[0].tobytes() == new().run({"x": X})["y"].tobytes()
    assert (there[0] != there[1]).any()  # other read noise


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", [-1]), ("images", [1, 2]), ("images", [1.0]), ("images", [1 << 62]), ("noise_seed", [-1]), ("noise_seed", [0.5])],
)
def test_counters_that_no_chip_has_are_refused(name: str, value: list[float], tmp_path: Path) -> None:
    program = used().trained_program()
    tensors = {**program.tensors, f"state/{name}": np.array(value)}
    program.model_copy(update={"tensors": tensors}).save(tmp_path / "c.cim")
    with pytest.raises(CimcError, match=f"state/{name}"):
        cimc.load(tmp_path / "c.cim")


@pytest.mark.parametrize("init", [None, "weights"])
def test_training_goes_on_with_the_factors_of_a_chip_that_has_aged(init: str | None) -> None:
    """Devices that keep what they hold keep the factors of their drift; those that are programmed anew have not drifted."""
    c = aged_and_trained()
    factors, weights = c.crossbars["Gemm_0"].factors[0].columns.copy(), c.weights()["Gemm_0"]
    assert (factors != 1).any()
    trainer(c, init=init)
    if init is None:
        np.testing.assert_array_equal(c.crossbars["Gemm_0"].factors[0].columns, factors)
        np.testing.assert_allclose(c.weights()["Gemm_0"], weights, rtol=1e-6)
    else:
        assert not c.crossbars["Gemm_0"].factors
