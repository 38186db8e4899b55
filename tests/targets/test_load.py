"""Finding a chip: names, files, extends, entry points, and what is refused."""

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import yaml

from cimc.errors import TargetError
from cimc.targets import load
from cimc.targets.description import Target
from cimc.targets.load import available_targets, load_target


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.fixture
def entry_points(monkeypatch):
    """Makes objects of this module the entry points of the group."""

    def install(**objects: str) -> None:
        points = EntryPoints(EntryPoint(name.replace("_", "-"), value, load.GROUP) for name, value in objects.items())
        monkeypatch.setattr(load.metadata, "entry_points", lambda group: points.select(group=group))

    return install


@pytest.mark.parametrize("name", ["ideal", "bulk-rram", "bulk-rram-256", "isaac"])
def test_a_description_written_out_loads_as_the_same_chip(name, write):
    target = load_target(name)
    assert load_target(target) == target
    path = write("copy.yaml", yaml.safe_dump(target.model_dump(mode="json"), allow_unicode=True))
    assert load_target(path) == target
    assert load_target(str(path)) == target


def test_a_file_is_called_after_itself(write):
    target = load_target(write("my-chip.yaml", "extends: bulk-rram\narray: {rows: 32}\n"))
    assert target.name == "my-chip"
    assert target.description == ""


def test_extends_changes_what_it_names_and_keeps_the_rest(write):
    path = write("mine.yaml", 'extends: bulk-rram\nadc:\n  bits: {value: 6, source: "data sheet, page 3"}\ndevice: {levels: 8}\n')
    mine, base = load_target(path), load_target("bulk-rram")
    assert (mine.adc.bits, mine.device.levels) == (6, 8)
    assert mine.adc.model_copy(update={"bits": 8}) == base.adc
    assert (mine.array, mine.timing) == (base.array, base.timing)
    assert mine.sources["adc.bits"] == "data sheet, page 3"
    assert "device.levels" not in mine.sources  # a changed figure does not keep the old one's source
    assert mine.sources["array.rows"] == base.sources["array.rows"]


def test_extends_takes_paths_relative_to_the_file(write, monkeypatch, tmp_path):
    write("base/chip.yaml", "array: {rows: 16}\nname: base-chip\n")
    path = write("family/mine.yaml", "extends: ../base/chip.yaml\n")
    monkeypatch.chdir("/")
    assert load_target(path).array.rows == 16


def test_a_null_overrides_a_number(write):
    assert load_target(write("mine.yaml", "extends: bulk-rram\narray: {rows: null}\n")).array.rows is None


def test_sources_may_be_listed_apart(write):
    target = load_target(write("mine.yaml", "array: {rows: 8}\nsources: {array.rows: measured}\n"))
    assert target.sources == {"array.rows": "measured"}


def test_cycles_are_refused(write):
    write("a.yaml", "extends: ./b.yaml\n")
    path = write("b.yaml", "extends: ./a.yaml\n")
    with pytest.raises(TargetError, match=r"extends itself: .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_target(path)


GIVEN_MAPPING = {"extends": "bulk-rram", "array": {"rows": {"value": 48, "source": "data sheet"}}}
GIVEN_TARGET = Target(name="given", array={"rows": 24})
GIVEN_NONSENSE = 5


def given_path() -> Path:
    return load.CHIPS / "isaac.yaml"


def test_entry_points_give_mappings_targets_and_paths(entry_points, write):
    here = __name__
    entry_points(foundry=f"{here}:GIVEN_MAPPING", made=f"{here}:GIVEN_TARGET", filed=f"{here}:given_path")
    foundry = load_target("foundry")
    assert (foundry.name, foundry.array.rows, foundry.array.columns) == ("foundry", 48, 64)
    assert foundry.sources["array.rows"] == "data sheet"
    assert load_target("made") == GIVEN_TARGET
    assert load_target("filed") == load_target("isaac")
    assert load_target(write("mine.yaml", "extends: foundry\n")).array.rows == 48
    assert list(available_targets())[-3:] == ["foundry", "made", "filed"]


def test_broken_entry_points_are_refused(entry_points):
    entry_points(gone="no_such_module:target", nonsense=f"{__name__}:GIVEN_NONSENSE")
    with pytest.raises(TargetError, match="no_such_module:target failed: ModuleNotFoundError"):
        load_target("gone")
    with pytest.raises(TargetError, match="neither a path, a mapping nor a Target"):
        load_target("nonsense")


def test_an_unknown_name_gets_the_near_ones_or_the_file(monkeypatch, tmp_path, write):
    with pytest.raises(TargetError) as caught:
        load_target("bulk-ram")
    assert "bulk-rram" in caught.value.fix
    write("lab.yaml", "name: lab\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError) as caught:
        load_target("lab")
    assert "./lab.yaml" in caught.value.fix


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
)

REFUSED = {
    "empty": ("", "mapping of sections, this file holds nothing"),
    "list": ("- 1\n", "this file holds a list"),
    "syntax": ("array: [\n", r"not valid YAML"),
    "duplicate": ("array:\n  rows: 1\n  rows: 2\n", r"line 3: the key 'rows' stands twice"),
    "duplicate section": ("array: {rows: 1}\narray: {rows: 2}\n", r"line 2: the key 'array' stands twice"),
    "python tag": ("array: !!python/object/apply:os.system ['true']\n", "tag .* is not allowed"),
    "alias bomb": (BOMB, "expands to more than"),
    "recursive alias": ("array: &x {array: *x}\n", "nested deeper"),
    "deep": ("[" * 600 + "]" * 600, "nested deeper"),
    "latin-1": ("description: Ström\n".encode("latin-1"), "is not UTF-8"),
    "utf-16": ("array: {rows: 1}\n".encode("utf-16"), "is not UTF-8"),
    "binary": (b"\x00\x01\x02", "not valid YAML"),
    "large": (b"#" * 1_000_001, "larger than"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "nan": ("device: {read_sigma_us: .nan}\n", 'device.read_sigma_us must be a number, not ".nan"'),
    "infinity": ("device: {read_sigma_us: 1e999}\n", "must be finite"),
    "text for a number": ('array:\n  rows: "64"\n', r"line 2: array.rows must be a whole number, not \"64\""),
    "truth for a number": ("array: {rows: true}\n", "array.rows must be a whole number, not true"),
    "number for a truth": ("weights: {rounded: 1}\n", "weights.rounded must be true or false, not 1"),
    "zero": ("array: {rows: 0}\n", "array.rows must be at least 1, not 0"),
    "absurd": ("array: {rows: 100000000000}\n", "array.rows must be at most"),
    "many digits": ("array: {rows: " + "9" * 6000 + "}\n", "not a number that can be read"),
    "word": ("dac: {signed: maybe}\n", "dac.signed must be 'two_phase', 'offset', 'twos_complement' or 'bipolar'"),
    "section as figure": ("array: 5\n", "array is a section"),
    "empty section": ("array:\n", "array is a section"),
    "window": ("device: {g_min_us: 5, g_max_us: 4}\n", "g_max_us 4.0 must lie above g_min_us 5.0"),
    "offset alone": ("weights: {representation: offset}\n", "needs array.unit_column"),
    "cells": ("weights: {bits: 8}\ndevice: {levels: 4}\n", "1 cells of 4 levels hold 4 values, a weight of 8 bits needs 128"),
    "range": ("input: {range: [1, 0]}\n", "must rise"),
    "half a figure": ("array: {rows: {source: paper}}\n", "a figure with a source has a value"),
    "extra in a figure": ("array: {rows: {value: 1, source: a, note: b}}\n", "nothing else"),
    "extends a number": ("extends: 3\n", "a target is a name, a path or a description, not 3"),
    "extends unknown": ("extends: bulk-ram\n", "there is no target 'bulk-ram'"),
    "extends missing": ("extends: ./gone.yaml\n", "there is no file './gone.yaml' beside it"),
    "bad name": ("name: 'two words'\n", "name may hold letters"),
    "bad sources": ("sources: {array.rows: 3}\n", "maps a dotted field to a text"),
    "stray source": ("sources: {array.row: x}\n", "no field 'array.row'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_by_name(case, write):
    text, message = REFUSED[case]
    path = write("wrong.yaml", text)
    with pytest.raises(TargetError, match=message) as caught:
        load_target(path)
    assert "wrong.yaml" in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(TargetError, match="no such file"):
        load_target(tmp_path / "gone.yaml")
    with pytest.raises(TargetError, match="a folder"):
        load_target(f"{tmp_path}/")


def test_a_misspelt_field_names_file_line_and_neighbours(write):
    with pytest.raises(TargetError) as caught:
        load_target(write("mine.yaml", "name: mine\narray:\n  rows: 3\n  colums: 4\n"))
    assert caught.value.what == "there is no field 'array.colums'"
    assert caught.value.where.endswith("mine.yaml, line 4")
    assert "array.columns" in caught.value.fix


def test_an_inherited_figure_is_blamed_on_its_own_file(write):
    write("base.yaml", "array:\n  rows: -3\n")
    with pytest.raises(TargetError, match=r"base\.yaml, line 2"):
        load_target(write("mine.yaml", "extends: ./base.yaml\n"))


def test_yaml_words_are_words_and_exponents_numbers(write):
    target = load_target(write("mine.yaml", "name: no\nadc: {saturation_share: 1e-3}\ndescription: 2020-01-01\n"))
    assert (target.name, target.adc.saturation_share, target.description) == ("no", 1e-3, "2020-01-01")


def test_a_default_that_was_stated_stays_stated_in_a_description():
    """Also of a field that files leave out at its default, so that they stay what they were before it was added."""
    once = load_target("bulk-rram", {"weights.window": "largest"})
    again = load_target(once, {"array.rows": 32})
    assert again.sources["weights.window"] == "set by the user"
    assert load_target(once) == once
