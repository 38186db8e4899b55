"""A damaged checkpoint is refused, and the trainer stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from tests.fuzz.checkpoint import contents, of_schema_3, sealed
from tests.fuzz.safetensors_file import Arrays, closed, opened
from tests.training import small
from tests.training.small import data, trainer
from tests.training.test_resumed_chip import AGED, UNITS

X, Y = data(32)
NAME = "checkpoint.safetensors"
Change = Callable[[Any, Arrays], None]


@cache
def program() -> cimc.Program:
    return small.chip().program


@cache
def aged_program() -> cimc.Program:
    return small.chip(**AGED, **UNITS).program


def chip() -> cimc.Chip:
    return cimc.Chip(program())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    trainer(chip(), init="weights").fit(X, Y, epochs=1, checkpoint=folder)
    return (folder / NAME).read_bytes()


def refused(content: bytes, folder: Path, made: Callable[[], cimc.Chip] = chip) -> str:
    """The message that refuses to resume from this file; nothing of the trainer has changed."""
    (folder / NAME).write_bytes(content)
    t = trainer(made(), init="weights")
    before = contents(t)
    with pytest.raises(cimc.ArtifactError) as error:
        t.fit(X, Y, epochs=2, checkpoint=folder, resume=True)
    assert contents(t) == before
    assert t.steps == 0
    return str(error.value)


def test_every_flipped_bit_of_the_arrays_is_seen(saved: bytes, tmp_path: Path) -> None:
    begin = 8 + int.from_bytes(saved[:8], "little")
    for at in np.random.default_rng(0).integers(begin, len(saved), 6):
        flipped = bytearray(saved)
        flipped[at] ^= 1 << int(at % 8)
        assert "is damaged" in refused(bytes(flipped), tmp_path)


def test_a_changed_record_is_seen(saved: bytes, tmp_path: Path) -> None:
    manifest, arrays = opened(saved)
    record = {**json.loads(manifest["record"]), "steps": 1}
    assert "is damaged" in refused(closed({**manifest, "record": json.dumps(record)}, arrays), tmp_path)


def test_a_checkpoint_without_checksums_says_which_version_it_is_of(saved: bytes, tmp_path: Path) -> None:
    manifest, arrays = opened(saved)
    old = {"format": manifest["format"], "schema_version": 2, **json.loads(manifest["record"])}
    assert "schema version 2" in refused(closed(old, arrays), tmp_path)


def _array(end: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(_: Any, arrays: Arrays) -> None:
        name = next(name for name in sorted(arrays) if name.endswith(end))
        arrays[name] = make(arrays[name])

    return change


def _first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def make(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.reshape(-1)[0] = value
        return changed

    return make


HOSTILE: dict[str, Change] = {
    "a weight that is no number": _array("/weights", _first(np.nan)),
    "an infinite conductance": _array("/g_us", _first(np.inf)),
    "conductances of another dtype": _array("/g_us", lambda a: a.astype(np.float64)),
    "moments of fewer weights": lambda _, arrays: arrays.update(
        {k: a[:-1] for k, a in arrays.items() if k.startswith("optimizer/first")}
    ),
    "a negative second moment": lambda _, arrays: arrays.update(
        {k: a - 1 for k, a in arrays.items() if k.startswith("optimizer/second")}
    ),
    "factors against drift of no layer": lambda _, arrays: arrays.update({"state/none/drift_factor": np.ones((1, 1, 1, 1))}),
    "a parameter that is called like factors": lambda _, arrays: arrays.update({"digital/b1/drift_factor": np.ones(4)}),
    "an array of nothing": lambda _, arrays: arrays.update(absent=np.zeros(3)),
    "a missing array": lambda _, arrays: arrays.pop(next(k for k in arrays if k.endswith("/delta"))),
    "a missing moment": lambda _, arrays: arrays.pop(next(k for k in arrays if k.startswith("optimizer/second"))),
    "a layer without devices": lambda _, arrays: arrays.pop("state/Gemm_0/g_us"),
    "a counter of draws that is missing": lambda _, arrays: arrays.pop("state/draws"),
    "another chip": lambda _, arrays: arrays.update({"state/seed": np.array([5])}),
    "a chip of no seed": lambda _, arrays: arrays.pop("state/seed"),
    "noise of a negative seed": lambda _, arrays: arrays.update({"state/noise_seed": np.array([-1])}),
    "draws of a negative image": lambda _, arrays: arrays.update({"state/draws": np.array([-1, 0, 0])}),
    "a time before programming": lambda _, arrays: arrays.update({"state/time_s": np.array([-1.0])}),
    "copies that the layer has not": lambda _, arrays: arrays.update(
        {"state/Gemm_0/copies_g_us": arrays["state/Gemm_0/g_us"][None]}
    ),
    "half a fit": lambda _, arrays: arrays.update({"state/Gemm_0/fit_scale": np.ones(3)}),
    "factors on a chip that does not drift": lambda _, arrays: arrays.update(
        {"state/Gemm_0/drift_factor": np.ones((1, 1, 1, 2, 3))}
    ),
    "cells at other places": lambda _, arrays: arrays.update({"state/Gemm_0/sites": np.zeros((1, 9), np.int32)}),
    "what no device model keeps": lambda _, arrays: arrays.update({"state/Gemm_0/device.age": arrays["state/Gemm_0/g_us"]}),
    "what no update rule keeps": lambda _, arrays: arrays.update({"state/Gemm_0/rule.age": np.ones(3)}),
    "a count of no layer": lambda record, _: record["stats"].update(none={}),
    "an unknown count of a layer": lambda record, _: record["stats"]["Gemm_0"].update(wonders=1),
    "a negative count of a layer": lambda record, _: record["stats"]["Gemm_0"].update(tile_reads=-1),
    "a range of no input": lambda record, _: record["input_ranges"].update(none=None),
    "an infinite range of an input": lambda record, _: record["input_ranges"].update(x=[0.0, float("inf")]),
    "words that are a number": lambda record, _: record.update(fitted=3),
    "negative steps": lambda record, _: record.update(steps=-1),
    "a missing counter": lambda record, _: record.pop("count"),
    "an unknown counter of writes": lambda record, _: record["count"]["writes"].update(wonders=1),
    "an epoch beyond all rows": lambda record, _: record["progress"].update(epoch=2**40),
    "a negative epoch": lambda record, _: record["progress"].update(epoch=-1),
    "an infinite range": lambda record, _: next(iter(record["ranges"].values())).update(adc_range_ua=float("inf")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_right_checksums_do_not_excuse_contents_of_no_run(what: str, saved: bytes, tmp_path: Path) -> None:
    manifest, arrays = opened(saved)
    record = json.loads(manifest["record"])
    HOSTILE[what](record, arrays)
    assert "does not suit this run" in refused(sealed(manifest, record, arrays), tmp_path)


def aged_chip() -> cimc.Chip:
    """One whose time has passed, with unit columns."""
    c = cimc.Chip(aged_program())
    c.advance(100.0)
    return c


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("aged")
    t = trainer(aged_chip(), init="weights")
    t.chip.advance(1.0)
    t.fit(X, Y, epochs=1, checkpoint=folder)
    return (folder / NAME).read_bytes()


_FACTORS = {
    "of other lines": lambda lines, units: (np.ones((*lines.shape[:-1], 2)), units),
    "of other unit columns": lambda lines, units: (lines, np.ones((*units.shape, 2))),
    "of more copies": lambda lines, units: (np.ones((2, *lines.shape[1:])), np.ones((2, *units.shape[1:]))),
    "of another dtype": lambda lines, units: (lines.astype(np.float32), units),
    "without unit columns": lambda lines, units: (lines, None),
    "without lines": lambda lines, units: (None, units),
}


@pytest.mark.parametrize("what", _FACTORS)
def test_factors_against_drift_are_looked_at_before_anything_changes(what: str, aged: bytes, tmp_path: Path) -> None:
    """The last layer has wrong factors: by then the others would have been restored."""
    manifest, arrays = opened(aged)
    names = [f"state/Gemm_0/{part}" for part in ("drift_factor", "drift_unit_factor")]
    given = _FACTORS[what](*(arrays.pop(name) for name in names))
    arrays.update({name: array for name, array in zip(names, given, strict=True) if array is not None})
    content = sealed(manifest, json.loads(manifest["record"]), arrays)
    files = [content] if what == "of more copies" else [content, of_schema_3(content)]
    for one in files:
        message = refused(one, tmp_path, aged_chip)
        assert "does not suit this run" in message
        assert "Gemm_0" in message


def test_an_earlier_schema_is_no_excuse_either(saved: bytes, tmp_path: Path) -> None:
    manifest, arrays = opened(of_schema_3(saved))
    record = json.loads(manifest["record"])
    for name in ("layer/Gemm_0/g_us", "layer/Gemm_0/delta"):
        fewer = {key: array for key, array in arrays.items() if key != name}
        assert "Gemm_0" in refused(sealed(manifest, record, fewer), tmp_path)
    for draws in ({}, None, {"trained": 1}, {**record["draws"], "trained": 2**70}, {**record["draws"], "inferred": "x"}):
        assert "damaged" in refused(sealed(manifest, {**record, "draws": draws}, arrays), tmp_path)
    for draws in ({**record["draws"], "trained": -1}, {**record["draws"], "inferred": -1}):
        assert "does not suit this run" in refused(sealed(manifest, {**record, "draws": draws}, arrays), tmp_path)
