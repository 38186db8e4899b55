"""`tie`: a parameter and its transpose become one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from cimc.errors import VerifyError
from cimc.passes.fold import Fold
from cimc.passes.legalise import Legalise
from cimc.passes.select import Select
from cimc.passes.tie import Tie
from tests.passes.graph_text import new_nodes, nodes, same_results, through
from tests.passes.vmm_reference import parse

TABLE: Any = np.random.default_rng(0).standard_normal((11, 6)).astype(np.float32)
FEEDS = {"t": np.array([3, 0, 10])}


def language(head: Any) -> onnx.ModelProto:
    """A table, and a head that an exporter has named by itself."""
    return parse(
        "g (int64[n] t) => (float[n,11] y) { [look] h = Gather (table, t)  [head] y = MatMul (h, val_1) }",
        table=TABLE,
        val_1=head,
    )


def test_text() -> None:
    """The example of the module's text."""
    assert new_nodes(language(TABLE.T.copy()), Tie()) == ['["cimc/val_1"] val_1 = Transpose <perm: ints = [1, 0]> (table)']


def test_the_result_stays_and_one_parameter_is_left() -> None:
    state = same_results(language(TABLE.T.copy()), FEEDS, Tie())
    assert list(state.model.graph.initializers) == ["table"]
    assert any("val_1 is the transpose of table" in note for note in state.notes)


@pytest.mark.parametrize(
    ("head", "option", "said"),
    [
        (np.nextafter(TABLE.T, 9, dtype=np.float32), "auto", "no parameter that may be tied is the transpose of another"),
        (np.ones((6, 11), np.float32), "auto", "no parameter that may be tied is the transpose of another"),
        (TABLE.T.copy(), "none", "not to be tied (--tie none)"),
        (TABLE.T.copy(), ["other*"], "no parameter that may be tied is the transpose of another"),
    ],
)
def test_others_stay_with_a_reason(head: Any, option: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    model = language(head)
    with caplog.at_level("INFO", "cimc"):
        assert new_nodes(model, Tie(option)) == []
    assert any(line.startswith("tie: nothing changed: ") and said in line for line in caplog.messages)
    assert nodes(same_results(model, FEEDS, Tie(option), tie=option).model) == nodes(model)


def test_a_pair_that_looks_like_it_says_why_not(caplog: pytest.LogCaptureFixture) -> None:
    """First and last entry agree, one between them does not."""
    head = TABLE.T.copy()
    head[2, 5] += 1
    with caplog.at_level("INFO", "cimc"):
        through(language(head), Legalise(), Tie())
    assert "value 'val_1': not made one parameter with 'table': its numbers are no transpose, or not random" in caplog.messages


def test_selected_products_are_refused() -> None:
    with pytest.raises(VerifyError, match="products are on crossbars already"):
        through(language(TABLE.T.copy()), Legalise(), Fold(), Select(), Tie())


def test_nodes_without_names_are_refused() -> None:
    model = language(TABLE.T.copy())
    model.graph.node[0].ClearField("name")
    with pytest.raises(VerifyError, match="run pass `legalise` before"):
        through(model, Tie())
