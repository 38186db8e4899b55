"""``cimc targets``: what it prints for people and for programs."""

import json

import pytest
from typer.testing import CliRunner

from cimc.cli.targets import app
from cimc.errors import TargetError
from cimc.targets.description import figures_of
from cimc.targets.load import load_target

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})


def test_list_names_the_chips():
    found = json.loads(run("list", "--json").stdout)["targets"]
    assert [t["name"] for t in found] == ["bulk-rram", "bulk-rram-256", "cmo-hfox", "hermes-pcm", "ideal", "isaac", "neurram"]
    assert all(t["description"] and t["from"] == "built in" for t in found)
    assert "isaac" in run("list").stdout


def test_show_gives_value_unit_and_source():
    shown = json.loads(run("show", "bulk-rram", "--json").stdout)
    target = load_target("bulk-rram")
    assert shown["figures"]["device.g_max_us"] == {"value": 32.9, "unit": "µS", "source": target.sources["device.g_max_us"]}
    assert set(shown["figures"]) == set(figures_of(target)) - {"name", "description"}
    line = next(line for line in run("show", "bulk-rram").stdout.splitlines() if "device.g_max_us" in line)
    assert "32.9" in line
    assert "µS" in line
    assert "[P] Wu et al." in line  # the tag is text, not markup


def test_show_with_a_setting():
    shown = json.loads(run("show", "ideal", "--set", "array.rows=12", "--json").stdout)
    assert shown["figures"]["array.rows"] == {"value": 12, "unit": None, "source": "set by the user"}


def test_validate_names_figures_without_a_source(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: bulk-rram\narray: {rows: 32}\n")
    answer = json.loads(run("validate", str(path), "--json").stdout)
    assert answer == {"valid": True, "name": "mine", "file": str(path), "figures_without_source": ["array.rows"]}
    assert "target mine is valid" in run("validate", str(path)).stdout


def test_validate_refuses(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("array: {rows: -1}\n")
    with pytest.raises(TargetError, match=r"mine\.yaml, line 1: array\.rows must be at least 1"):
        run("validate", str(path))
    with pytest.raises(TargetError, match="no such file"):
        run("validate", "isaac")  # a file, never a name


def test_a_wrong_file_ends_the_command_with_2_and_a_message(tmp_path):
    from cimc.cli.app import app as cimc_app

    path = tmp_path / "mine.yaml"
    path.write_text("array: {rows: -1}\n")
    result = runner.invoke(cimc_app, ["targets", "validate", str(path), "--json"])
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["exit_code"] == 2
    assert str(path) in error["where"]
    for told in (error["what"], result.stderr):
        assert "array.rows must be at least 1, not -1" in told
    assert "Traceback" not in result.output


def test_schema_is_json():
    assert json.loads(run("schema").stdout)["properties"]["extends"]["type"] == "string"
    assert run("schema").stdout == run("schema", "--json").stdout
