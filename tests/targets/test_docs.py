"""The example of docs/targets.md is a chip."""

import re
import textwrap
from pathlib import Path

import pytest

from cimc.errors import TargetError
from cimc.targets.load import load_target
from cimc.targets.reference import fields, markdown

GUIDE = Path(__file__).parents[2] / "docs" / "targets.md"


def test_the_guides_example_loads(tmp_path):
    example = re.search(r"```yaml\n( *extends: .*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert example
    path = tmp_path / "mine.yaml"
    path.write_text(textwrap.dedent(example[1]), "utf-8")
    target = load_target(path)
    assert target.name == "mine"
    assert target.timing.tile_op_energy_nj is None
    assert target.sources["array.rows"] == "data sheet, table 2"


def test_the_page_of_fields_is_current():
    assert (GUIDE.parent / "target-fields.md").read_text("utf-8") == markdown(), (
        "run: cimc targets fields --markdown > docs/target-fields.md"
    )


@pytest.mark.parametrize("field", fields(), ids=lambda field: field.path)
def test_every_field_says_what_it_means(field):
    assert len(field.description) > 10


def test_limits_are_those_of_the_loader():
    rows = {field.path: field for field in fields()}
    assert rows["device.levels"].values == "integer or null, ≥ 2, ≤ 65,536"
    with pytest.raises(TargetError):
        load_target("bulk-rram", ["device.levels=1"])
    assert load_target("bulk-rram", ["device.levels=65536"]).device.levels == 65536
