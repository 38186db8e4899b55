"""Files of JSON lines, which are added to as work ends: what is killed loses nothing that had ended.

The first line of a journal says what its records are of. A journal of anything else is not taken up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cimc.errors import ArtifactError, RunError
from cimc.files import check_outputs


class LineError(ValueError):
    """A line is no JSON.

    Attributes:
        number: Of the line, from 1.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is no JSON")
        self.number = number


def json_lines(text: str, *, skip_broken: bool = False) -> list[Any]:
    """The values of JSON lines, in order. The last line is left out where a kill cut it off.

    Args:
        text: Whole lines, but for the last one.
        skip_broken: Leave out every line that is no JSON.

    Raises:
        LineError: A line before the last one is no JSON.
    """
    lines, values = text.splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines) and not skip_broken:
                raise LineError(number) from error
    return values


class Journal:
    """The file.

    Args:
        path: None: nothing is kept.
        about: What the records are of, in JSON.
        option: Of the command line that names the file, for messages.
        resume: Take up the records that the file holds; otherwise it is begun anew.

    Attributes:
        records: Those that were taken up, in order.

    Raises:
        ArtifactError: The file is not of this work, or damaged.
        RunError: It cannot be written.
        OutputError: It must not be written there.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], option: str, *, resume: bool) -> None:
        self._path, self._option = path, option
        self.records: list[dict[str, Any]] = []
        if path is None:
            return
        if resume and path.exists():
            self.records = _read(path, about)
            # What a kill left of a line goes; the records are written again, so that lines end where they should.
            lines = [json.dumps({"about": about}, sort_keys=True), *(json.dumps(r, sort_keys=True) for r in self.records)]
            self._write("\n".join(lines), "w")
            return
        check_outputs([path])
        self._write(json.dumps({"about": about}, sort_keys=True), "w")

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record.

        Raises:
            RunError: The file cannot be written.
        """
        if self._path is not None:
            self._write(json.dumps(record, sort_keys=True), "a")

    def _write(self, text: str, mode: str) -> None:
        assert self._path is not None
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise RunError(what, where=str(self._path), fix=f"another {self._option}") from error


def _read(path: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    where, fix = str(path), "leave --resume out, or name another file"
    try:
        head, *records = json_lines(path.read_text(encoding="utf-8"))
        differing = [name for name in about if head["about"].get(name) != json.loads(json.dumps(about[name]))]
    except LineError as error:
        what = f"line {error.number} is no record" if error.number > 1 else "it is no journal of such work"
        raise ArtifactError(what, where=where, fix=fix) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError("it is no journal of such work", where=where, fix=fix) from error
    if differing:
        raise ArtifactError(f"it is of other work: {', '.join(differing)} differ", where=where, fix=fix)
    for number, record in enumerate(records, 2):
        if not isinstance(record, dict):
            raise ArtifactError(f"line {number} is no record", where=where, fix=fix)
    return records
