"""`unsigned`: digital 8-bit products get unsigned weights of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from cimc.errors import VerifyError
from cimc.passes.legalise import Legalise
from cimc.passes.specialise import Specialise
from cimc.passes.unsigned import Unsigned
from tests.passes.graph_text import new_nodes, nodes, same_results, through
from tests.passes.vmm_reference import parse

#: Small enough for kernels that add pairs of products in 16 bits.
W: Any = np.random.default_rng(2).integers(-60, 60, (4, 3)).astype(np.int8)
X = np.random.default_rng(3).integers(0, 200, (2, 4)).astype(np.uint8)


def integer(zero: str = "") -> onnx.ModelProto:
    constants = {"w": W} | ({"z": np.array(3, np.int8)} if zero else {}) | {"a": np.array(7, np.uint8)}
    text = f"g (uint8[n,4] x) => (int32[n,3] y) {{ [fc] y = MatMulInteger (x, w, a{zero}) }}"
    return parse(text, **constants)


def gemm(signed: bool = True) -> onnx.ModelProto:
    """A quantised LSTM's like, in one operator of ONNX Runtime that stays digital: its weights are computed."""
    return parse(
        f"g (uint8[n,4] x, {'int8' if signed else 'uint8'}[4,3] v) => (int32[n,3] y) {{ [fc] y = MatMulInteger (x, v) }}"
    )


def digital(model: onnx.ModelProto) -> list[str]:
    """What the pass changes of a model whose products all stay digital."""
    return new_nodes(model, Unsigned(), before=(Specialise(), _Digital()))


class _Digital(Legalise):
    """Gives each node a reason to stay digital, as `select` does of what it leaves."""

    def call(self, state: Any) -> list[str]:
        for name, row in state.placements.items():
            state.placements[name] = row.model_copy(update={"why": "a test"})
        return []


def test_text() -> None:
    """The example of the module's text: a zero point of 0 that is not given, and one that is."""
    assert digital(integer()) == ['[fc] y = MatMulInteger (x, "w.unsigned", a, "cimc/zero")']
    assert digital(integer(", z")) == ['[fc] y = MatMulInteger (x, "w.unsigned", a, "z.unsigned")']


@pytest.mark.parametrize("zero", ["", ", z"])
def test_numbers_and_results_stay(zero: str) -> None:
    state = through(integer(zero), Specialise(), _Digital(), Unsigned())
    found = {name: value.const_value.numpy() for name, value in state.model.graph.initializers.items() if value.const_value}
    point = found["z.unsigned" if zero else "cimc/zero"]
    np.testing.assert_array_equal(found["w.unsigned"].astype(int) - int(point), W.astype(int) - (3 if zero else 0))
    assert "w" not in found
    same_results(integer(zero), {"x": X}, Specialise(), _Digital(), Unsigned())


def test_computed_weights_stay_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cimc"):
        assert digital(gemm()) == []
    assert "node 'fc' (MatMulInteger): not given unsigned weights: its weights or zero points are no constants" in caplog.messages
    assert "unsigned: nothing changed: no digital 8-bit product has constant signed weights" in caplog.messages


def test_unsigned_weights_and_other_products_stay() -> None:
    assert digital(gemm(signed=False)) == []
    real = parse("g (float[n,4] x) => (float[n,3] y) { y = MatMul (x, w) }", w=W.astype(np.float32))
    assert nodes(through(real, Specialise(), _Digital(), Unsigned()).model) == nodes(through(real, Specialise()).model)


def test_a_product_that_is_not_decided_yet_is_refused() -> None:
    """`legalise` may make a real product of it, whose weight goes to crossbars under its own name."""
    with pytest.raises(VerifyError, match=r"node 'fc': it is not decided yet[\s\S]*run pass `select` before"):
        through(integer(), Specialise(), Unsigned())
