"""A damaged checkpoint is refused, and the trainer stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cimc
from tests.fuzz.checkpoint import contents, sealed
from tests.fuzz.safetensors_file import Arrays, closed, opened
from tests.training.small import chip, data, trainer

X, Y = data(32)
NAME = "checkpoint.safetensors"
Change = Callable[[Any, Arrays], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("run")
    trainer(chip(), init="weights").fit(X, Y, epochs=1, checkpoint=folder)
    return (folder / NAME).read_bytes()


def refused(content: bytes, folder: Path) -> str:
    """The message that refuses to resume from this file; nothing of the trainer has changed."""
    (folder / NAME).write_bytes(content)
    t = trainer(chip(), init="weights")
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
    "factors against drift of no layer": lambda _, arrays: arrays.update({"layer/none/drift_factor": np.ones((1, 1, 1, 1))}),
    "a parameter that is called like factors": lambda _, arrays: arrays.update({"digital/b1/drift_factor": np.ones(4)}),
    "an array of nothing": lambda _, arrays: arrays.update(absent=np.zeros(3)),
    "a missing array": lambda _, arrays: arrays.pop(next(k for k in arrays if k.endswith("/delta"))),
    "a missing moment": lambda _, arrays: arrays.pop(next(k for k in arrays if k.startswith("optimizer/second"))),
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


_FACTORS = {
    "of other lines": lambda lines, units: (np.ones((2, *lines)), np.ones(units)),
    "of other unit columns": lambda lines, units: (np.ones(lines), np.ones((*units, 2))),
    "of another dtype": lambda lines, units: (np.ones(lines, np.float32), np.ones(units)),
    "without unit columns": lambda lines, units: (np.ones(lines), None),
    "without lines": lambda lines, units: (None, np.ones(units)),
}


@pytest.mark.parametrize("what", _FACTORS)
def test_factors_against_drift_are_looked_at_before_anything_changes(what: str, saved: bytes, tmp_path: Path) -> None:
    """The last layer has wrong factors: by then the others were restored."""
    manifest, arrays = opened(saved)
    last = [name for name, crossbar in chip().crossbars.items()][-1]
    crossbar = chip().crossbars[last]
    lines = crossbar.groups, len(crossbar.row_cuts) - 1, *crossbar.g_us.shape[2:]
    columns, units = _FACTORS[what](lines, (*lines[:2], crossbar.unit_g_us.shape[2]))
    given = {"drift_factor": columns, "drift_unit_factor": units}
    arrays.update({f"layer/{last}/{key}": array for key, array in given.items() if array is not None})
    message = refused(sealed(manifest, json.loads(manifest["record"]), arrays), tmp_path)
    assert "factors against drift are those of other devices" in message
    assert last in message
