"""Print the lowest version that pyproject.toml allows of each dependency, as constraints for pip."""

from __future__ import annotations

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
for requirement in project["dependencies"]:
    print(requirement.replace(">=", "=="))
