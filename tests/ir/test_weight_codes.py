"""Weight codes: the contract, and the code with a shared reference column from compilation to training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cimc
from cimc.errors import FitError, TargetError
from cimc.ir.cells import cells
from cimc.ir.encoding import unit_cuts
from cimc.ir.weight_codes.offset import Offset
from cimc.ir.weight_codes.pair import DifferentialPair
from cimc.ir.weight_codes.shared_reference import SharedReference
from cimc.targets.description import Target
from cimc.targets.load import load_target
from cimc.targets.weight_sections import SharedReferenceWeights
from cimc.testing import check_weight_code
from tests.runtime.crossbars import PAIR, crossbar, dense, target
from tests.runtime.test_transposed import gradient
from tests.runtime.test_wired_crossbar import WIRES
from tests.training.small import chip, data, trainer

X, Y = data(32)
SHARED: dict[str, Any] = {"weights": {"representation": "shared_reference"}, "device": {"levels": 15}}
SETTINGS = {"weights.representation": "shared_reference", "weights.columns_per_reference": 3, "device.levels": 16}


@pytest.mark.parametrize("settings", [{}, {"bits": 4}, {"rounded": False}, {"bits": 4, "cells": 2}])
@pytest.mark.parametrize("model", [DifferentialPair, Offset, SharedReference])
def test_built_in_codes_hold_the_contract(model, settings):
    name = {DifferentialPair: "differential_pair", Offset: "offset"}.get(model)
    if model is SharedReference:
        if "cells" in settings:
            pytest.skip("one cell a weight")
        model = type("Own", (SharedReference,), {"Section": SharedReferenceWeights})
    check_weight_code(model, settings if name is None else settings | {"representation": name})


def test_what_breaks_the_contract_is_named():
    class Lossy(DifferentialPair):
        def encode(self, steps):
            return np.minimum(super().encode(steps), max(1, self.base - 2))

    with pytest.raises(AssertionError, match="is not w"):
        check_weight_code(Lossy)


def on_grid(shape, top=7, seed=0):
    """Weights that the code holds exactly, the largest among them."""
    matrix = np.random.default_rng(seed).integers(-top, top + 1, shape).astype(np.float32)
    matrix[0, 0, 0] = top
    return matrix


@pytest.mark.parametrize("share", [None, 1, 3])
@pytest.mark.parametrize(
    "read",
    [{"dac": {"bits": None}, "adc": {"bits": None}}, {"adc": {"bits": None}}, {"adc": {"bits": 12, "conversion": "per_bit"}}],
)
def test_products_are_those_of_the_weights(share, read):
    matrix = on_grid((2, 21, 10))
    device = SHARED["device"] | ({"g_min_us": 0.01} if "conversion" in read["adc"] else {})
    own = {"weights": SHARED["weights"] | {"columns_per_reference": share}, "device": device}
    bits = read.get("dac", {"bits": 8})["bits"]
    bar = crossbar(target(PAIR, **own, **read), matrix, (0, 11, 21), (0, 6, 10), gain=1.0 if bits is None else 255.0)
    x = np.random.default_rng(1).integers(0, 256, (5, 42)).astype(np.float32) / np.float32(255)
    expected = np.concatenate([x[:, :21] @ matrix[0], x[:, 21:] @ matrix[1]], axis=1)
    np.testing.assert_allclose(bar.multiply(x, dense(matrix), 1), expected, atol=2e-3)
    np.testing.assert_allclose(bar.weights(), matrix, atol=1e-4)
    assert bar.unit_g_us.shape[2] == {None: 2, 1: 10, 3: 2 + 2}[share]


def test_an_error_of_a_reference_is_one_of_all_columns_that_share_it():
    matrix = on_grid((1, 8, 10))
    own = {"weights": SHARED["weights"] | {"columns_per_reference": 4}, "device": SHARED["device"]}
    bar = crossbar(target(PAIR, **own, dac={"bits": None}, adc={"bits": None}), matrix, None, (0, 6, 10))
    assert unit_cuts((0, 6, 10), bar.target) == (0, 3, 6, 10)
    x = np.random.default_rng(1).random((4, 8)).astype(np.float32)
    before = bar.multiply(x, dense(matrix), 1)
    bar.unit_g_us[0, 5, 1] += 60 / 14  # one level step more, on word line 5, in the reference of columns 3 to 5
    bar.written()
    moved = bar.multiply(x, dense(matrix), 1) - before
    np.testing.assert_allclose(moved[:, 3:6], np.repeat(-x[:, 5:6], 3, axis=1), atol=1e-4)
    np.testing.assert_array_equal(np.delete(moved, [3, 4, 5], axis=1), 0)


def test_a_transposed_read_gives_the_product_with_the_transposed_weights():
    matrix = on_grid((1, 20, 9))
    own = {"weights": SHARED["weights"], "device": SHARED["device"], "dac": {"bits": None}, "adc": {"bits": None}}
    bar = crossbar(target(PAIR, **own, array={"transposed": {}}), matrix, (0, 12, 20), (0, 5, 9))
    dy = np.random.default_rng(1).standard_normal((6, 9)).astype(np.float32)
    np.testing.assert_allclose(gradient(bar, dy), dy @ matrix[0].T, rtol=1e-4, atol=1e-3)


def test_blocks_cells_and_cost_count_the_references():
    program = chip("bulk-rram", **SETTINGS, **{"array.columns": 8, "array.rows": 16, "mapping.split": "rows"}).program
    for layer in program.layers:
        widths = np.diff(layer.column_cuts)
        table = program.tensors[f"blocks/{layer.name}"]
        assert set(table[:, -1].tolist()) == {int(w + -(-w // 3)) for w in widths}
        assert table[:, -1].max() <= 8
        found = cells(program, layer.name)
        assert (found["sign"] == 1).all()
        lines = found["column"] - table[0, 6]  # of a layer of one column tile
        assert len(widths) > 1 or lines.max() < widths[0]
    rows = {layer.name: layer.groups * layer.rows for layer in program.layers}
    references = {layer.name: sum(-(-w // 3) for w in np.diff(layer.column_cuts)) for layer in program.layers}
    weights = {layer.name: layer.groups * layer.rows * layer.columns for layer in program.layers}
    assert program.cost().devices == sum(weights[name] + rows[name] * references[name] for name in rows)


def test_references_are_cells_of_their_own():
    c = chip("bulk-rram", **SETTINGS)
    for crossbar_ in c.crossbars.values():
        own = crossbar_.cells_of()
        keys = np.concatenate([own.keys().reshape(-1), own.unit_keys().reshape(-1)])
        assert len(np.unique(keys)) == keys.size
        assert own.unit_keys().shape[2] == len(crossbar_.unit_cuts) - 1
        assert own.line_keys().shape[2] == crossbar_.lines
    faulty = chip("bulk-rram", **SETTINGS, **{"device.stuck_high_rate": 0.3})
    stuck = faulty.crossbars["Conv_0"].unit_g_us == np.float32(32.9)
    assert 0 < stuck.mean() < 1


def test_wires_lower_the_currents_of_references_too():
    c = chip("bulk-rram", **SETTINGS, **{f"array.wires.{name}": value for name, value in WIRES.items()})
    for crossbar_ in c.crossbars.values():
        held, seen = crossbar_.present[0], crossbar_.effective[0]
        assert (seen.unit_g_us < held.unit_g_us).all()
        assert (seen.unit_g_us > 0).all()


@pytest.mark.parametrize("update", ["threshold", "naive", "residual"])
def test_it_trains_and_a_saved_chip_reads_the_same(update, tmp_path):
    c = chip("bulk-rram", **SETTINGS)
    options = {"threshold": {"threshold": 0.0}, "naive": {"optimizer": "sgd", "lr": 1.0}, "residual": {"limit": 0.0}}[update]
    t = trainer(c, update=update, init="weights", **options)
    before = {name: g.copy() for name, g in ((name, c.conductances(name)) for name in c.crossbars)}
    for _ in range(3):
        t.step(X[:16], Y[:16])
    t.program()
    outputs = c.run({"x": X}, 0)["y"]
    assert any((c.conductances(name) != g).any() for name, g in before.items())
    c.save(tmp_path / "c.cim")
    again = cimc.Chip(cimc.load(tmp_path / "c.cim"))
    assert again.run({"x": X}, 0)["y"].tobytes() == outputs.tobytes()


def test_what_it_cannot_do_is_refused_in_words():
    with pytest.raises(FitError, match="no columns of references"):
        cimc.export_image(chip("bulk-rram", **SETTINGS))
    for wrong, said in (
        ({"weights.cells": 2, "weights.bits": 4, "weights.rounded": True}, "weights.cells=1"),
        ({"array.unit_column": True}, "array.unit_column=false"),
        ({"weights.representation": "magic"}, "weight_code"),
    ):
        with pytest.raises(TargetError, match=said):
            load_target("bulk-rram", SETTINGS | wrong)
    with pytest.raises(TargetError, match="2 levels"):
        chip("bulk-rram", **SETTINGS | {"device.levels": 2})
    with pytest.raises(TargetError, match="columns_per_reference"):
        load_target("bulk-rram", {"weights.columns_per_reference": 3})


def test_a_target_of_the_older_fields_is_written_as_before():
    assert "columns_per_reference" not in Target(name="x").model_dump()["weights"]
