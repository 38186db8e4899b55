"""The example of docs/targets.md is a chip."""

import re
import textwrap
from pathlib import Path

from cimc.targets.load import load_target

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
