"""Every form of a batch trains to the weights of plain arrays; one that does not fit is refused with the model's inputs."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import cimc
from cimc.errors import CimcError, DataError

TEXT = """two (float[N, 6] left, float[N, 4] right) => (float[N, 3] logits) {
    c = Concat <axis = 1> (left, right)  logits = MatMul (c, w)
}"""
RANDOM = np.random.default_rng(0)
LEFT, RIGHT = (RANDOM.uniform(0, 1, (24, n)).astype(np.float32) for n in (6, 4))
Y = RANDOM.integers(0, 3, 24)


def trainer(loss: str = "softmax_cross_entropy") -> cimc.Trainer:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {TEXT}')
    weight = np.random.default_rng(1).standard_normal((10, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    chip = cimc.Chip(cimc.compile(proto, "bulk-rram", calibration={"left": LEFT, "right": RIGHT}))
    return cimc.Trainer(chip, loss=loss, batch_size=8, init="weights", schedule="constant", calibration_images=8)


def trained(x: Any, y: Any = None, **options: Any) -> np.ndarray[Any, Any]:
    own = trainer()
    own.fit(x, y, epochs=1, **options)
    return own.weights()["w"]


def parts() -> list[tuple[Any, Any, Any]]:
    return [(LEFT[n : n + 8], RIGHT[n : n + 8], Y[n : n + 8]) for n in range(0, 24, 8)]


FORMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "tuple": lambda a, b, y: (a, b, y),
    "list": lambda a, b, y: [a, b, y],
    "pair": lambda a, b, y: ((a, b), y),
    "dict and labels": lambda a, b, y: ({"left": a, "right": b}, y),
    "dict": lambda a, b, y: {"labels": y, "right": b, "left": a},
    "another key": lambda a, b, y: {"left": a, "right": b, "target": y},
    "user dict": lambda a, b, y: UserDict({"left": a, "right": b, "labels": y}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_alike(form: str) -> None:
    plain = trained([({"left": a, "right": b}, y) for a, b, y in parts()])
    np.testing.assert_array_equal(trained([FORMS[form](*part) for part in parts()]), plain)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"left": LEFT, "labels": Y}, "holds left, labels, and no right"),
        ({"left": LEFT, "right": RIGHT}, "no labels"),
        ({"left": LEFT, "right": RIGHT, "labels": Y, "y": Y}, "labels and y may be the labels"),
        ({"left": LEFT, "right": RIGHT, "labels": Y, "mask": Y}, "holds mask, which the model does not take"),
        ((LEFT, RIGHT, LEFT, Y), "has 4 parts"),
        (((LEFT,), Y), "has 1 inputs"),
        (LEFT, "is a ndarray"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_the_names(batch: Any, said: str) -> None:
    own = trainer()
    before = own.weights()["w"].copy()
    with pytest.raises(DataError, match=said) as caught:
        own.fit([batch], epochs=1)
    assert "the model's inputs are left, right" in (caught.value.fix or "")
    np.testing.assert_array_equal(own.weights()["w"], before)


class Table:
    """Rows of columns by name, as a ``datasets.Dataset`` gives them in the numpy format."""

    def __init__(self, **held: Any) -> None:
        self.held = held

    @property
    def column_names(self) -> list[str]:
        return list(self.held)

    def select_columns(self, names: list[str]) -> Table:
        return Table(**{name: self.held[name] for name in names})

    def with_format(self, kind: str) -> Table:
        assert kind == "numpy"
        return self

    def __len__(self) -> int:
        return len(next(iter(self.held.values())))

    def __getitem__(self, which: slice) -> dict[str, Any]:
        return {name: column[which] for name, column in self.held.items()}


def test_a_table_trains_as_its_arrays() -> None:
    table = Table(idx=np.arange(24), left=LEFT, label=Y, right=RIGHT)
    wanted = trained({"left": LEFT, "right": RIGHT}, Y, validation=({"left": LEFT, "right": RIGHT}, Y))
    np.testing.assert_array_equal(trained(table, validation=table), wanted)


def test_tables_that_do_not_fit_are_refused() -> None:
    own = trainer()
    with pytest.raises(DataError, match="and no right"):
        own.fit(Table(left=LEFT, label=Y), epochs=1)
    ragged = np.array([[1.0], [1.0, 2.0]], object)
    with pytest.raises(DataError, match="column left: its rows differ in length"):
        own.fit(Table(left=ragged, right=RIGHT[:2], label=Y[:2]), epochs=1)
    table = Table(left=LEFT, right=RIGHT, label=Y)
    with pytest.raises(CimcError, match="labels beside a table"):
        own.fit(table, Y, epochs=1)
    with pytest.raises(CimcError, match="several tables: train, test"):
        own.fit({"train": table, "test": table}, epochs=1)
    stream = SimpleNamespace(column_names=["left"], with_format=None, __iter__=None)
    with pytest.raises(CimcError, match="gives single examples, not batches"):
        own.fit(stream, epochs=1)


def test_the_package_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"idx": list(range(24)), "left": LEFT, "right": RIGHT, "label": Y})
    np.testing.assert_array_equal(trained(table), trained({"left": LEFT, "right": RIGHT}, Y))
    with pytest.raises(CimcError, match="several tables: train"):
        trained(datasets.DatasetDict(train=table))
    with pytest.raises(CimcError, match="gives single examples"):
        trained(table.to_iterable_dataset())
    ragged = datasets.Dataset.from_dict({"left": [[1.0], [1.0, 2.0]], "right": RIGHT[:2], "label": Y[:2]})
    with pytest.raises(DataError, match="its rows differ in length"):
        trained(ragged)
