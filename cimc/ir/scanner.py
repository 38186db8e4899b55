"""Reads the text form of a program piece by piece, and knows the line and column of each."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from cimc.errors import ArtifactError
from cimc.ir.text_form import BARE

_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_NUMBER = re.compile(r"-?\d+")
_JSON = json.JSONDecoder()


class Scanner:
    """A position in a text; comments from ``#`` to the end of the line count as space.

    Args:
        text: The whole text.
        source: Name of the file, for errors.
    """

    def __init__(self, text: str, source: str = "") -> None:
        self.text, self.source = text, source
        self.at = 0
        self._skip()

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Refuse the text.

        Raises:
            ArtifactError: Always; it names line and column, both from 1.
        """
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        place = f"line {line}, column {column}"
        raise ArtifactError(what, where=f"{self.source}, {place}" if self.source else place, fix="correct the text there")

    def found(self, mark: str) -> bool:
        """Whether these characters stand here; they are read then."""
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        self._skip()
        return True

    def expect(self, mark: str) -> None:
        """Read these characters.

        Raises:
            ArtifactError: Others stand here.
        """
        if not self.found(mark):
            self.fail(f"{mark!r} is expected here, not {self.text[self.at : self.at + 12].split(chr(10))[0]!r}")

    def word(self) -> str:
        """Read a name, bare or in quotes."""
        if self.text.startswith('"', self.at):
            start, value = self.at, self.json()
            return value if isinstance(value, str) else self.fail("a name is expected here", start)
        return self._match(BARE, "a name")

    def integer(self) -> int:
        """Read a whole number."""
        return int(self._match(_NUMBER, "a whole number"))

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"{what} is expected here")
        self.at = found.end()
        self._skip()
        return found.group()

    def json(self) -> Any:
        """Read one JSON value."""
        try:
            value, self.at = _JSON.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.fail(f"no JSON value: {error.msg}", error.pos)
        except RecursionError:
            self.fail("a JSON value that is nested too deeply")
        self._skip()
        return value

    def attributes(self) -> dict[str, Any]:
        """Read ``{field=JSON …}``."""
        fields: dict[str, Any] = {}
        self.expect("{")
        while not self.found("}"):
            start, name = self.at, self.word()
            if name in fields:
                self.fail(f"{name} is given twice", start)
            self.expect("=")
            fields[name] = self.json()
        return fields

    def values(self) -> list[str]:
        """Read ``%name, %name``, of any length."""
        names: list[str] = []
        while self.found("%"):
            names.append(self.word())
            if not self.found(","):
                break
        return names
