"""Check that every relative link of the Markdown files given, or in the folders given, leads to a file and heading that exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)


def headings(text: str) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(file: Path) -> list[str]:
    found = []
    for link in (a or b for a, b in LINK.findall(FENCE.sub("", file.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        goal = file.parent / path if path else file
        if not goal.exists():
            found.append(f"{file}: no file {link}")
        elif anchor and goal.suffix == ".md" and anchor not in headings(goal.read_text(encoding="utf-8")):
            found.append(f"{file}: no heading {link}")
    return found


def main() -> None:
    files = [f for a in map(Path, sys.argv[1:]) for f in ([a] if a.is_file() else sorted(a.rglob("*.md")))]
    problems = [line for file in files for line in broken(file)]
    for line in problems:
        print(line)
    print(f"{len(files)} files, {len(problems)} broken links")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
