"""Empty files of measurements: a head, and the meaning of each column in a comment."""

from __future__ import annotations

from pathlib import Path

from cimc.characterisation.vocabulary import TABLES, Table
from cimc.errors import OutputError
from cimc.files import check_outputs, write_file


def text(table: Table) -> str:
    """A CSV file with comments and a head, and no row."""
    about = [f"# {table.name}: {table.meaning}"]
    about += [f"# {c.name}: {c.meaning}{'' if c.needed else ' (may be left out)'}" for c in table.columns]
    return "\n".join([*about, ",".join(column.name for column in table.columns)]) + "\n"


def write_templates(folder: str | Path, tables: tuple[str, ...] = tuple(TABLES)) -> list[Path]:
    """Write ``programming.csv`` and its like into a folder, which is made if it is not there.

    Returns:
        The files.

    Raises:
        OutputError, RunError: See `cimc.files.destination`.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made: {error.strerror}"
        raise OutputError(what, where=str(folder), fix="another folder, that you may write to") from error
    paths = {name: Path(folder) / f"{name}.csv" for name in tables}
    check_outputs(paths.values())
    for name, path in paths.items():
        write_file(path, text(TABLES[name]).encode())
    return list(paths.values())
