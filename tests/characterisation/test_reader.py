"""Files of measurements: what the reader takes, and what it says of what it does not take."""

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.characterisation.reader import read_measurements
from cimc.characterisation.template import write_templates
from cimc.characterisation.vocabulary import TABLES
from cimc.errors import CimcError, DataError
from tests.cli.conftest import cimc

PLAIN = "device,goal_us,read_us\na,10,10.5\nb,20,19\na,30,31\n"


def read(tmp_path, text, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = read_measurements([path]).values()
    return found


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", "\t"),
        "# a comment\nDevice; Goal (µS); Read [uS]\n\na;10,0;10,5\nb;20;19\na;30;31\n",
        "device,goal_ms,read_us\na,0.01,10.5\nb,0.02,19\na,0.03,31\n",
        "read_us,note,device,goal_kohm\n10.5,x,a,100\n19,,b,50\n31,,a,33.333333333333336\n",
        "Device;Goal (µS);Read (µS)\na;10;10,5\nb;20;19\na;30;31\n".encode("cp1252"),
    ],
)
def test_spellings_of_the_same_measurement(tmp_path, text):
    found = read(tmp_path, text)
    assert found.table.name == "programming"
    assert [found.devices[n] for n in found.device] == ["a", "b", "a"]
    np.testing.assert_allclose(found["goal_us"], [10, 20, 30], rtol=1e-12)
    np.testing.assert_allclose(found["read_us"], [10.5, 19, 31], rtol=1e-12)


@given(
    conductance=st.sampled_from([("us", 1.0), ("ns", 1e-3), ("ms", 1e3), ("s", 1e6)]),
    time=st.sampled_from([("s", 1.0), ("ms", 1e-3), ("ns", 1e-9), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)]),
    value=st.floats(1e-3, 1e3),
)
@settings(max_examples=30, deadline=None)
def test_units_in_the_names_are_converted(tmp_path_factory, conductance, time, value):
    folder = tmp_path_factory.mktemp("units")
    found = read(folder, f"device,age_{time[0]},g_{conductance[0]}\na,{value!r},{value!r}\n")
    assert found.table.name == "retention"
    assert found["age_s"] == pytest.approx(value * time[1])
    assert found["g_us"] == pytest.approx(value * conductance[1])


def test_polarities_and_pulses(tmp_path):
    found = read(tmp_path, "device,pulse,polarity,before_us,after_us\na,1,UP,1,2\na,2,down,2,1\na,3,-1,1,.5\na,4,SET,1,2\n")
    assert found["polarity"].tolist() == [1, -1, -1, 1]


def test_several_files_of_one_kind_share_devices_and_shared_columns(tmp_path):
    (tmp_path / "a.csv").write_text(PLAIN)
    (tmp_path / "b.csv").write_text("device,goal_us,read_us,row,column\nb,1,2,3,4\n")
    (tmp_path / "r.csv").write_text("device,time_s,read_us\na,0,1\n")
    found = read_measurements([tmp_path / name for name in ("a.csv", "b.csv", "r.csv")])
    assert set(found) == {"programming", "reads"}
    assert found["programming"].devices == ("a", "b")
    assert found["programming"].device.tolist() == [0, 1, 0, 1]
    assert set(found["programming"].columns) == {"goal_us", "read_us"}
    assert found["programming"].source == "a.csv, 3 rows; b.csv, 1 rows"


def test_what_is_left_out_is_said(tmp_path):
    found = read(tmp_path, "device,goal_us,read_us,operator\na,1,,x\na,1,nan,x\na,1,1,x\n")
    assert found.device.size == 1
    assert "operator" in found.notes[0]
    assert "2 rows" in found.notes[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row"),
        ("device,goal_us,read_us\n", "no row has all values"),
        ("device,goal_us,read_us\na,1,2\nb,x,2\n", "row 3, column goal_us: 'x' is no number"),
        ("device,goal_us,read_us\na,-1,2\n", "row 2, column goal_us: -1 lies below 0"),
        ("device,goal_us,read_us\na,1,inf\n", "row 2, column read_us: inf is beyond"),
        ("device,goal_us,read_us\na,1_0,2\n", "row 2, column goal_us: '1_0' is no number"),
        ("device,goal_us,read_us\na,1\n", "row 2: the row has 2 values"),
        ("device,goal,read_us\na,1,1\n", "row 1: the column goal states no unit\n  try: call it goal_us"),
        ("device,goals_us,read_us\na,1,1\n", "no column goal_us\n  try: goals_us becomes goal_us"),
        ("device,goal_us,goal_ns,read_us\na,1,1,1\n", "both give goal_us"),
        ("x,y\n1,2\n", "no measurement has such columns"),
        ("device,goal_us,read_kohm\na,1,0\n", "row 2, column read_us: a resistance of 0 has no conductance"),
        ("device,pulse,polarity,before_us,after_us\na,1,sideways,1,2\n", "column polarity: 'sideways' is no polarity\n  try: up"),
    ],
)
def test_errors_name_file_row_and_column(tmp_path, text, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert words in str(error.value)
    assert "m.csv" in str(error.value)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("bytes") / "m.csv"
    for content in (raw, PLAIN.encode() + raw):
        path.write_bytes(content)
        with contextlib.suppress(CimcError):
            read_measurements([path])


def test_the_page_names_every_column():
    page = (Path(__file__).parents[2] / "docs" / "measurements.md").read_text("utf-8")
    for table in TABLES.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{table.name}` |"))
        for column in table.columns:
            assert f"`{column.name}`" in row


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError, match=r"folder|no such file"):
            read_measurements([path])


def test_templates_have_the_heads_that_the_reader_wants(tmp_path):
    for path, table in zip(write_templates(tmp_path), TABLES.values(), strict=True):
        head = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert next(csv.reader(head)) == [column.name for column in table.columns]
        with path.open("a") as file:
            file.write(",".join("up" if column.quantity == "polarity" else "1" for column in table.columns) + "\n")
        (found,) = read_measurements([path]).values()
        assert found.table == table
        assert set(found.columns) == {column.name for column in table.columns} - {"device"}


def test_template_command_keeps_files_that_exist(tmp_path):
    done = cimc("device", "template", tmp_path, "--json")
    assert (done.code, len(done.json["files"])) == (0, 4)
    (tmp_path / "pulses.csv").write_text("mine")
    assert cimc("device", "template", tmp_path).code == 2
    assert (tmp_path / "pulses.csv").read_text() == "mine"
    assert cimc("device", "template", tmp_path, "--force").code == 0
    assert "polarity" in (tmp_path / "pulses.csv").read_text()
    assert cimc("device", "template", tmp_path / "new" / "folder").code == 0
    assert (tmp_path / "new" / "folder" / "reads.csv").is_file()
    for place in ("pulses.csv", "n" * 300):
        error = json.loads(cimc("device", "template", tmp_path / place, "--json").out)["error"]
        assert (error["exit_code"], "cannot be made" in error["what"]) == (2, True)
