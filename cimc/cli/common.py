"""What the commands share: notes, one JSON object or a table, progress."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.errors import CimcError

if TYPE_CHECKING:
    from cimc.ir.program import Program
    from cimc.sources import Source
    from cimc.targets.description import Target

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output; notes go to standard error.")]
BackendName = Annotated[
    str,
    typer.Option("--backend", help="What computes the reads: cpu, reference (plain NumPy, slow), or an installed one's name."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the chip: the same seed is the same die, noise included.")]
Compiled = Annotated[Path, typer.Argument(metavar="M.cim", help="A compiled model.", show_default=False)]

Resize = Annotated[
    str | None, typer.Option(metavar="HxW", help="Bring images of a folder to this height and width (pixels), such as 32x32.")
]

Bind = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Make an input a constant and fold what follows: a number, a list, or an npy or npz file; NAME alone: its default.",
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N,N", help="Fix the sizes of an input that the model leaves open; ? leaves one open."),
]

Tie = Annotated[
    list[str] | None,
    typer.Option(help="auto, as-written, none, or patterns of initializers that stay tied in training. Default: auto."),
]

Time = Annotated[
    str | None,
    typer.Option("--time", metavar="T", help="Let the devices age first: 1s, 20min, 1h, 3d, 1y (365 days)."),
]

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0}

#: Texts up to these lengths stay on one line of a table: names in its first column, and texts in the others.
_WHOLE_NAME = 32
_WHOLE_TEXT = 12


class _Notes(logging.Handler):
    """Writes log lines where notes go."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def log_shown(verbose: bool) -> Iterator[None]:
    """With ``verbose``, what the passes log is shown as notes."""
    if not verbose:
        yield
        return
    log, handler = logging.getLogger("cimc.passes"), _Notes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def note(text: str) -> None:
    """Tell the user something beside the result."""
    typer.echo(text, err=True)


def opened(data: Path, resize: str | None) -> Source:
    """The data of ``--data``, with what ``--resize`` says.

    Raises:
        CimcError: There are no such data, or ``resize`` is no size.
    """
    from cimc.sources import open_data

    if resize is None:
        return open_data(data)
    height, _, width = resize.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise CimcError(f"{resize} is no size", where="--resize", fix="height and width in pixels, such as 32x32")
    return open_data(data, resize=(int(height), int(width)))


def opened_calibration(data: Path | None, resize: str | None) -> Source | None:
    """The data of ``--calibration`` beside other data; ``resize`` holds for it where it is a folder too.

    Raises:
        CimcError: As `opened`.
    """
    return None if data is None else opened(data, resize if data.is_dir() else None)


def tell_data(source: Source) -> dict[str, Any]:
    """Say what was read; the same for the JSON of a command."""
    for text in source.notes:
        note(f"note: {source.where}: {text}")
    return {"source": source.where, "classes": list(source.classes) or None, "notes": list(source.notes)}


def wire_notes(target: Target) -> list[str]:
    """What wires do to the arrays of a target; empty where it has none."""
    if target.array.wires is None:
        return []
    from cimc.runtime.wires.estimate import describe  # it brings numba

    return [f"{describe(target)}"]


def print_json(value: dict[str, Any]) -> None:
    """The one JSON object of a command."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], err: bool = False) -> None:
    """A table on standard output, or on standard error; a row a paragraph where names and figures do not fit side by side.

    Figures stand right and stay whole. Text is folded, never cut, so that names that differ look different.
    """
    from rich.console import Console
    from rich.table import Table

    stream = sys.stderr if err else sys.stdout
    console = Console(stderr=err, highlight=False, markup=False, width=None if stream.isatty() else 120)
    texts = [[figure(cell) for cell in row] for row in rows]
    figures = [any(isinstance(row[n], int | float) for row in rows) for n in range(len(columns))]
    widths = _column_widths(columns, texts, figures, console.width)
    if widths is None:
        console.print(title)
        for name, *cells in texts:
            pairs = (f"{column} {cell}" for column, cell in zip(columns[1:], cells, strict=True))
            console.print(f"{name}\n  {', '.join(pairs)}", overflow="fold")
        return
    table = Table(title=title, title_justify="left")
    for name, right, width in zip(columns, figures, widths, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold", width=width)
    for row in texts:
        table.add_row(*row)
    console.print(table)


def _column_widths(
    columns: Sequence[str], texts: Sequence[Sequence[str]], figures: Sequence[bool], width: int
) -> list[int] | None:
    """Widths of a table's columns on a screen of ``width`` characters; None: it does not fit.

    Columns of text and heads of figures give way, the one with most to give first; words of heads only where nothing else can.
    """
    longest = [max((len(row[n]) for row in texts), default=0) for n in range(len(columns))]
    least = [longest[n] if figures[n] else min(longest[n], _WHOLE_TEXT if n else _WHOLE_NAME) for n in range(len(columns))]
    words = [max(map(len, name.split()), default=0) for name in columns]
    for narrowest in ([max(*pair) for pair in zip(least, words, strict=True)], least):
        widths = [max(longest[n], len(name)) for n, name in enumerate(columns)]
        for _ in range(sum(widths) + 3 * len(widths) + 1 - width):
            n = max(range(len(columns)), key=lambda n: widths[n] - narrowest[n])
            if widths[n] <= narrowest[n]:
                break
            widths[n] -= 1
        else:
            return widths
    return None


def figure(value: object) -> str:
    """A figure for people: four digits, a dash for what is not known."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def training_rows(training: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Settings of a training for a table; the figures of its target are for machines."""
    rows = [(name.replace("_", " "), value) for name, value in training.items() if name not in ("target_figures", "continues")]
    before = training_rows(training["continues"]) if training.get("continues") else []
    return rows + [(f"before: {name}", value) for name, value in before]


def decibels(sqnr_db: float | None, largest_error: float) -> float | str | None:
    """An SQNR for people; without one, either nothing differs or the reference is all zero."""
    return "exact" if sqnr_db is None and largest_error == 0 else sqnr_db


@dataclass(frozen=True)
class Advance:
    """Told of progress: how many more are done, and what has come out so far."""

    add: Callable[[int], None] = lambda count: None
    live: Callable[[str], None] = lambda text: None

    def __call__(self, count: int) -> None:
        self.add(count)


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Advance]:
    """A bar on standard error while a terminal looks on."""
    if quiet or not sys.stderr.isatty():
        yield Advance()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    name, live = TextColumn("{task.description}"), TextColumn("{task.fields[live]}")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), live)
    with Progress(*columns, console=Console(stderr=True, highlight=False), transient=True) as bar:
        task = bar.add_task(what, total=total, live="")
        yield Advance(lambda count: bar.advance(task, count), lambda text: bar.update(task, live=text))


def announce(program: Program, images: int) -> None:
    """Before a long run: what it will cost this machine."""
    from cimc.report.estimate import LONG_RUN_S, estimate

    expected = estimate(program, images)
    if expected.seconds is not None and expected.seconds > LONG_RUN_S:
        note(f"about {expected.seconds:.0f} s and {expected.memory_bytes / 1e9:.1f} GB for {images} images")


def note_die(program: Program, seed: int) -> None:
    """Say so where outputs were fitted to the die in the file, and a seed asks for another."""
    own = int(program.tensors["state/seed"][0]) if program.provenance.fitted and "state/seed" in program.tensors else seed
    if own != seed:
        note(f"note: the file holds the die of seed {own}, whose outputs were fitted; seed {seed} changes its read noise alone")


def parse_time(text: str) -> float:
    """``20min`` in seconds.

    Raises:
        CimcError: It is no time, or not between 0 and 1e12 s.
    """
    number, unit = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz"), text.strip().lstrip("0123456789.+-eE")
    try:
        seconds = float(number) * _SECONDS[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 <= seconds <= 1e12:
        raise CimcError(f"{text!r} is no time", where="--time", fix=f"a number with one of {', '.join(_SECONDS)}, such as 20min")
    return seconds


def told_time(seconds: float) -> str:
    """Seconds in the largest unit that they fill."""
    unit, size = next(((u, n) for u, n in reversed(_SECONDS.items()) if seconds >= n), ("s", 1.0))
    return f"{seconds / size:.6g}{unit}"


def tie_option(values: Sequence[str] | None) -> str | list[str]:
    """``--tie``: a word, or patterns."""
    words = list(values or ["auto"])
    return words[0] if len(words) == 1 and words[0] in ("auto", "as-written", "none") else words


def parse_bind(values: Sequence[str]) -> dict[str, Any]:
    """``["sr=16000", "state=s.npy", "w"]`` as values by name: numbers, lists, paths, None for a default.

    Raises:
        CimcError: A value is none of these, or a name stands twice.
    """
    bind: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or name in bind:
            raise CimcError(f"{value} {'names an input twice' if name else 'names no input'}", where="--bind", fix="NAME=VALUE")
        if not equals or text.endswith((".npy", ".npz")):
            bind[name] = Path(text) if equals else None
            continue
        try:
            bind[name] = json.loads(text)
        except (ValueError, RecursionError):
            bind[name] = None
        if not isinstance(bind[name], bool | int | float | list):
            fix = "for example sr=16000, flag=true, state=[0.0,0.5], state=FILE.npy"
            raise CimcError(f"{text!r} is no number, no list and no npy or npz file", where="--bind", fix=fix)
    return bind


def parse_shapes(values: Sequence[str]) -> dict[str, list[int | None]]:
    """``["input=1,?,512"]`` as sizes by name, None for those that stay open.

    Raises:
        CimcError: Not of that form, or a name stands twice.
    """
    shapes: dict[str, list[int | None]] = {}
    for value in values:
        name, _, text = value.rpartition("=")
        sizes = [part.strip() for part in text.split(",")] if text else []
        if not name or name in shapes or not all(part == "?" or (part.isdecimal() and len(part) < 19) for part in sizes):
            what = "names an input twice" if name in shapes else "is not NAME=SIZE,SIZE,…"
            raise CimcError(f"{value} {what}", where="--shape", fix="for example input=1,512; ? leaves a size open")
        shapes[name] = [None if part == "?" else int(part) for part in sizes]
    return shapes


def parse_copies(values: Sequence[str]) -> dict[str, int]:
    """``["conv1=8"]`` as numbers by layer.

    Raises:
        CimcError: Not of that form, or not a positive number.
    """
    copies = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        if not equals or not name or not number.isdecimal() or int(number) < 1:
            raise CimcError(f"--copies {value} is not LAYER=NUMBER", fix="for example --copies conv1=8")
        copies[name] = int(number)
    return copies


def parse_repeats(values: Sequence[str] | None) -> dict[str, dict[str, int]] | Literal["free", "none"]:
    """``["conv1:rows=2", "conv1:reads=4"]`` as numbers by layer, or pattern of layers, and word; or one word alone.

    Raises:
        CimcError: Not of that form.
    """
    match list(values or ["free"]):
        case ["free"]:
            return "free"
        case ["none"]:
            return "none"
        case given if {"free", "none"} & set(given):
            raise CimcError("--repeat free and --repeat none go alone", fix="give repeats of layers, or one of the words")
        case _:
            pass
    repeats: dict[str, dict[str, int]] = {}
    for value in values or ():
        head, _, number = value.rpartition("=")
        name, _, word = head.rpartition(":")
        if not name or word not in ("rows", "columns", "reads") or not number.isdecimal() or len(number) > 4:
            raise CimcError(
                f"--repeat {value} is not LAYER:WHAT=NUMBER",
                fix="for example --repeat conv1:rows=2; or columns, reads",
            )
        repeats.setdefault(name, {})[word] = int(number)
    return repeats


def print_run(
    output: Path,
    outputs: Mapping[str, Any],
    inputs: Mapping[str, Any],
    more: Mapping[str, Any],
    check: Path | None,
    program: Program,
    json: bool,
) -> None:
    """What a run wrote to ``output``, how far it lies from ONNX Runtime's on the model ``check``, and ``more`` for machines."""
    described = [{"name": name, **_described(value)} for name, value in outputs.items()]
    result: dict[str, Any] = {"output": str(output), "seed": more["seed"], "outputs": described, **more}
    if check is not None:
        from cimc.report.compare import compare_outputs, reference_values

        result["check"] = [row.to_dict() for row in compare_outputs(outputs, reference_values(check, inputs, program=program))]
    if json:
        print_json(result)
        return
    print_table(str(output), ("output", "dtype", "shape"), [(o["name"], o["dtype"], o["shape"]) for o in described])
    if check is not None:
        rows = [(row["name"], decibels(row["sqnr_db"], row["largest_error"]), row["largest_error"]) for row in result["check"]]
        print_table("against ONNX Runtime", ("output", "SQNR dB", "largest error"), rows)


def _described(value: Any) -> dict[str, Any]:
    """dtype and shape are null for what is no tensor."""
    tensor = hasattr(value, "dtype")
    return {"dtype": value.dtype.name if tensor else None, "shape": list(value.shape) if tensor else None}
