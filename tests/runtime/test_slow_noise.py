"""Slow noise: what it adds, and over which reads it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cimc.errors import TargetError
from tests.runtime.crossbars import PAIR, crossbar, dense, target

EXACT: dict[str, Any] = {"adc": {"bits": None}}
#: Two rows, one weight column: the pair's devices at 70 and 10, 10 and 70 µS.
MATRIX = np.array([[[1.0], [-1.0]]], np.float32)


def products(images: int, held: int, first_image: int = 0, **noise: Any) -> np.ndarray:
    """One product an image, inputs at full scale on both rows, in µS."""
    chip = target(PAIR, **EXACT, device={"slow_noise": {"held_images": held, **noise}})
    x = np.ones((images, 2), np.float32)
    y = crossbar(chip, MATRIX, gain=255.0, signed=False).multiply(x, dense(MATRIX), 1, first_image)
    return y[:, 0].astype(np.float64) * 60  # the largest weight spans the window of 60 µS


def test_a_draw_holds_over_its_images_and_the_next_ones_have_another() -> None:
    y = products(12, held=4, sigma_us=2.0, states="many").reshape(3, 4)
    assert (y == y[:, :1]).all()
    assert len(set(y[:, 0])) == 3


def test_a_batch_may_be_split_anywhere() -> None:
    whole = products(12, held=5, sigma_us=2.0)
    parts = [products(n, held=5, first_image=first, sigma_us=2.0) for first, n in ((0, 3), (3, 6), (9, 3))]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("states", ["two", "many"])
def test_the_deviation_is_that_of_four_independent_devices(states: str) -> None:
    n, sigma, relative = 4000, 0.5, 0.02
    y = products(n, held=1, sigma_us=sigma, relative=relative, states=states)
    expected = (2 * (sigma + relative * 70) ** 2 + 2 * (sigma + relative * 10) ** 2) ** 0.5
    assert abs(y.mean()) < 5 * expected / n**0.5 + 0.01
    # The variance of a sum of four two-state draws varies less than that of a normal one.
    assert abs(y.std() / expected - 1) < 5 / (2 * n) ** 0.5


def test_telegraph_noise_has_two_levels() -> None:
    chip = target(PAIR, **EXACT, device={"slow_noise": {"sigma_us": 2.0}})
    x = np.tile(np.array([1.0, 0.0], np.float32), (200, 1))
    y = crossbar(chip, MATRIX, gain=255.0, signed=False).multiply(x, dense(MATRIX), 1)[:, 0] * 60
    # Two devices of ±2 µS: differences of -4, 0 and 4 µS.
    assert set(np.rint((y.astype(np.float64) - np.median(y)) * 256 / 255)) == {-4.0, 0.0, 4.0}


def test_a_target_without_it_is_written_as_before_and_pairs_subtracted_in_the_array_are_refused() -> None:
    assert "slow_noise" not in target(PAIR).model_dump()["device"]
    with pytest.raises(TargetError, match="slow_noise is not simulated"):
        target(PAIR, device={"slow_noise": {}}, adc={"pair_read": "subtracted"})
