"""Arrays of the user come in many forms; what each of them is not is a kernel of its own, which takes seconds to compile."""

from __future__ import annotations

import numpy as np
import pytest

from cimc.runtime import reads
from tests.runtime.crossbars import PAIR, crossbar, dense, target


@pytest.mark.parametrize("dac_bits", [None, 8])
def test_a_read_only_input_needs_no_kernel_of_its_own(dac_bits: int | None) -> None:
    matrix = np.random.default_rng(0).normal(size=(1, 20, 7)).astype(np.float32)
    chip = target(PAIR, dac={"bits": dac_bits}, device={"levels": None})
    bar = crossbar(chip, matrix, range_ua=50.0, gain=1.0 if dac_bits is None else 255.0, signed=False)
    x = np.random.default_rng(1).uniform(0, 1, (9, 20)).astype(np.float32)
    expected = bar.multiply(x, dense(matrix), 1)
    kernels = [reads._share_along, reads._share_across]
    before = [len(kernel.overloads) for kernel in kernels]
    x.flags.writeable = False
    assert np.array_equal(bar.multiply(x, dense(matrix), 1), expected)
    assert [len(kernel.overloads) for kernel in kernels] == before
