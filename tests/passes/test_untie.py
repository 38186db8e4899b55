"""`untie`: parameters that an exporter has merged become several."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from cimc.errors import VerifyError
from cimc.passes.fold import Fold
from cimc.passes.legalise import Legalise
from cimc.passes.select import Select
from cimc.passes.untie import Untie
from tests.passes.graph_text import new_nodes, nodes, same_results, through
from tests.passes.vmm_reference import parse

RNG = np.random.default_rng(1)
W, V, X = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3, 3), (2, 4)))


def merged(bias: Any) -> onnx.ModelProto:
    """Two layers that read one bias."""
    return parse(
        "g (float[n,4] x) => (float[n,3] y) { [fc1] h = Gemm (x, w, zero)  [fc2] y = Gemm (h, v, zero) }", w=W, v=V, zero=bias
    )


def test_text() -> None:
    """The example of the module's text."""
    assert new_nodes(merged(np.zeros(3, np.float32)), Untie()) == ['[fc2] y = Gemm (h, v, "fc2.bias")']


def test_the_result_stays_and_values_are_equal() -> None:
    state = same_results(merged(np.full(3, 0.5, np.float32)), {"x": X}, Untie())
    found = {name: value.const_value for name, value in state.model.graph.initializers.items()}
    assert found.keys() == {"w", "v", "zero", "fc2.bias"}
    np.testing.assert_array_equal(found["zero"], found["fc2.bias"])


def test_an_identity_of_a_parameter_becomes_one_of_its_own() -> None:
    """PyTorch's exporter writes a merged parameter so."""
    model = parse(
        "g (float[n,4] x) => (float[n,3] y) { b2 = Identity (b1)  [fc1] h = Gemm (x, w, b1)  [fc2] y = Gemm (h, v, b2) }",
        w=W, v=V, b1=V[0],
    )  # fmt: skip
    state = same_results(model, {"x": X}, Untie())
    assert nodes(state.model) == nodes(model)[1:]
    np.testing.assert_array_equal(state.model.graph.initializers["b2"].const_value, V[0])


def test_running_statistics_have_values_of_their_own_even_as_written() -> None:
    model = parse(
        "g (float[n,4] x) => (float[n,4] y) { [bn] y = BatchNormalization (x, s, b, one, one) }",
        s=X[0], b=X[1], one=np.ones(4, np.float32),
    )  # fmt: skip
    assert new_nodes(model, Untie("as-written")) == ['[bn] y = BatchNormalization (x, s, b, one, "bn.running_var")']
    same_results(model, {"x": X}, Untie("as-written"), tie="as-written")


@pytest.mark.parametrize("option", ["auto", "as-written", ["zero"]])
def test_what_stays_one_says_why(option: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A bias of random numbers in two places is tied, unless something tells otherwise."""
    model = merged(V[1])
    with caplog.at_level("INFO", "cimc"):
        assert new_nodes(model, Untie(option)) == []
    why = "nothing tells that its uses are different parameters" if option == "auto" else "it is to stay tied"
    assert f"value 'zero': not made several parameters: {why}" in caplog.messages
    assert "untie: nothing changed: no initializer holds several parameters" in caplog.messages


def test_selected_products_are_refused() -> None:
    with pytest.raises(VerifyError, match="products are on crossbars already"):
        through(merged(V[1]), Legalise(), Fold(), Select(), Untie())


def test_nodes_without_names_are_refused() -> None:
    model = merged(V[1])
    model.graph.node[0].ClearField("name")
    with pytest.raises(VerifyError, match="run pass `legalise` before"):
        through(model, Untie())
