"""The example of docs/measurements.md, from the lab's files to the accuracy of many chips."""

import re
from pathlib import Path

from tests.cli.conftest import cimc

PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"


def test_the_example_of_the_guide(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    lab = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert lab
    exec(compile(lab[1], "lab.py", "exec"), {})
    done = cimc("device", "fit", "programming.csv", "reads.csv", "-o", "mine.yaml", "--extends", "bulk-rram")
    assert done.code == 0, done.err
    rows = [line for line in text.splitlines() if line.startswith(("│ device.", "│ programming error"))]
    assert len(rows) == 5
    for row in rows:
        assert row in done.out
    compiled = cimc("compile", made / "small.onnx", "--target", "mine.yaml", "--set", "device.levels=null", "-o", "mine.cim")
    assert compiled.code == 0, compiled.err
    chips = cimc("evaluate", "mine.cim", "--data", made / "data.npz", "--chips", "2", "--yield-at", "0", "--json")
    assert chips.code == 0, chips.err
    assert len(chips.json["accuracy"]["values"]) == 2
