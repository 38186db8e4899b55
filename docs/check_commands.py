"""Check that every `cimc …` command of the Markdown files given, or in the folders given, exists and has the options it is given.

Lines of code blocks and code within a line count; `...` stands for what a text leaves out.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from cimc.cli.app import app

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`(cimc [^`]+)`(?!`)")
#: Languages of code blocks that hold commands; "" is none.
_SHELL = {"", "sh", "console", "bash"}


def written(text: str) -> Iterator[str]:
    """The commands of a Markdown text."""
    for language, block in _FENCE.findall(text):
        if language in _SHELL:
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?(cimc .*)", line.strip()):
                    yield found[1]
    for span in _SPAN.findall(_FENCE.sub("", text)):
        yield " ".join(span.split())


def _options(command: Any) -> dict[str, Any]:
    """Each option word of a command, with its declaration; ``--help`` is every command's."""
    words = {word: p for p in command.params for word in (*p.opts, *p.secondary_opts) if word.startswith("-")}
    return {"--help": None, "-h": None, **words}


@cache
def _commands() -> Any:
    return typer.main.get_command(app)


def wrong(line: str) -> str | None:
    """What is wrong with a command, in words."""
    command, name = _commands(), "cimc"
    words = shlex.split(re.split(r" [|>] | # ", line)[0], comments=False)[1:]
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.startswith("-") and word in _options(command):
            return None
        if word not in command.commands:
            # Words of a sentence may name a group of commands, or all commands: `cimc image ...`, `cimc COMMAND --help`.
            return None if word in {"...", "…"} or word.isupper() else f"{name} has no command {word}"
        command, name = command.commands[word], f"{name} {word}"
    options = _options(command)
    while words:
        word, equals, _ = words.pop(0).partition("=")
        if not re.match(r"--?[A-Za-z]", word):
            continue
        if word not in options:
            return f"{name} has no option {word}"
        if words and options[word] is not None and not equals and not getattr(options[word], "is_flag", False):
            words.pop(0)
    return None


def main() -> None:
    """Exit with 1 where a command of the files does not exist."""
    files = [f for a in map(Path, sys.argv[1:]) for f in ([a] if a.is_file() else sorted(a.rglob("*.md")))]
    lines = [(file, line) for file in files for line in written(file.read_text("utf-8"))]
    problems = [f"{file}: {said}: {line}" for file, line in lines if (said := wrong(line))]
    for problem in problems:
        print(problem)
    print(f"{len(lines)} commands, {len(problems)} wrong")
    sys.exit(bool(problems) or not lines)


if __name__ == "__main__":
    main()
