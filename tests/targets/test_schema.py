"""The JSON Schema accepts what loads and refuses what an editor should underline."""

import jsonschema
import pytest
import yaml

from cimc.targets.load import CHIPS, load_target
from cimc.targets.schema import json_schema


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted(CHIPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_built_in_files_are_valid(path, validator):
    validator.validate(yaml.safe_load(path.read_text("utf-8")))


def test_a_description_written_out_is_valid(validator):
    validator.validate(load_target("isaac").model_dump(mode="json"))


@pytest.mark.parametrize(
    "text", ["extends: bulk-rram", "array: {rows: 3}", "array: {rows: {value: 3}}", "array: {rows: {value: null, source: x}}"]
)
def test_short_forms_are_valid(text, validator):
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "array: {row: 3}",
        "array: {rows: 0}",
        "array: {rows: {value: 0, source: x}}",
        "array: {rows: {value: 3, note: x}}",
        "array: {rows: {source: x}}",
        "array: {rows: many}",
        "dac: {signed: maybe}",
        "extends: 3",
        "chip: {}",
        "device: {programming: {sigma: 1}}",
    ],
)
def test_wrong_forms_are_underlined(text, validator):
    assert not validator.is_valid(yaml.safe_load(text))
