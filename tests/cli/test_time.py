"""`--time` of run and evaluate."""

import numpy as np
import pytest

from cimc.cli.common import parse_time, told_time
from cimc.errors import CimcError

from .conftest import cimc


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("20min", 1200), ("1h", 3600), ("3d", 259200), ("1y", 31536000), ("1.5e3s", 1500), ("0s", 0)]
)
def test_a_time_has_a_unit(text, seconds):
    assert parse_time(text) == seconds
    assert parse_time(told_time(seconds)) == seconds


@pytest.mark.parametrize("text", ["1", "h", "-1h", "1 week", "nans", "infs", "1e30y", ""])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(CimcError, match="is no time"):
        parse_time(text)


def test_evaluate_gives_a_row_for_each_time(made, tmp_path):
    drift = ("--set", "device.drift.kind=power_law", "--set", "device.drift.nu_mean.polynomial=0.2")
    path = tmp_path / "m.cim"
    assert cimc("compile", made / "small.onnx", *drift, "--calibration", made / "data.npz", "-o", path).code == 0
    found = cimc("evaluate", path, "--data", made / "data.npz", "--time", "30d,1s,1h", "--json").json
    assert [row["time_s"] for row in found["times"]] == [1, 3600, 2592000]
    assert found["accuracy"] == found["times"][0]["accuracy"]
    assert "30d" in cimc("evaluate", path, "--data", made / "data.npz", "--time", "1s,30d").out
    outputs = []
    for options in ([], ["--time", "1y"]):
        done = cimc("run", path, "--input", made / "data.npz", "-o", tmp_path / "y.npz", *options, "--json").json
        outputs.append(np.load(tmp_path / "y.npz")["logits"])
    assert done["time_s"] == 31536000
    assert not np.array_equal(*outputs)
    refused = cimc("run", path, "--input", made / "data.npz", "-o", tmp_path / "y.npz", "--time", "soon")
    assert refused.code == 2
    assert "20min" in refused.err
