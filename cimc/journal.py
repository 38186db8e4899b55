"""A file of records, a JSON object a line, that is added to as work ends: what is killed loses nothing that had ended.

The first line says what the records are of. A journal of anything else is not taken up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cimc.errors import ArtifactError, RunError
from cimc.files import check_outputs


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
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        own = json.loads(head)["about"]
        differing = [name for name in about if own.get(name) != json.loads(json.dumps(about[name]))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError("it is no journal of such work", where=where, fix=fix) from error
    if differing:
        raise ArtifactError(f"it is of other work: {', '.join(differing)} differ", where=where, fix=fix)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 2):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines) + 1:
                break  # the line that a kill cut off
            raise ArtifactError(f"line {number} is no record", where=where, fix=fix) from error
        if not isinstance(record, dict):
            raise ArtifactError(f"line {number} is no record", where=where, fix=fix)
        records.append(record)
    return records
