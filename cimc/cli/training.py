"""What `cimc train` takes and shows: the data file, options by name, a bar with a line an epoch, what came out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cimc.cli.common import figure, note, print_table
from cimc.cli.process import Stopped
from cimc.errors import CimcError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cimc.ir.program import Preprocessing, Program, ValueSpec
    from cimc.sources import Source
    from cimc.training.trainer import Trainer


class Data:
    """The data: ``x`` and ``y``, or both with ``_train`` and ``_test``; of several inputs each by its name, likewise."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def calibration(self, specs: Sequence[ValueSpec], needed: bool = False) -> dict[str, NDArray[Any]] | None:
        """Images by input name; None: the file lacks some.

        Raises:
            DataError: They are ``needed``, and an array is missing, or does not suit the model.
        """
        found = self._part("train", specs) if not needed else self._training(specs)
        if found is None or isinstance(found[0], dict):
            return None if found is None else found[0]
        return {specs[0].name: found[0]}

    def train(self, program: Program) -> tuple[Any, Any]:
        """Images (or inputs by name) and labels; None where there are no labels.

        Raises:
            DataError: An array is missing, does not suit the model, or is another value of a bound input.
        """
        from cimc.data import needed_inputs
        from cimc.ir.bound import without_bound

        bound = program.bound_values()
        without_bound(self.source.read(list(bound)), bound, self.source.where)
        return self._training(needed_inputs(program.inputs), program.preprocessing)

    def _training(self, specs: Sequence[ValueSpec], how: Preprocessing | None = None) -> tuple[Any, Any]:
        found = self._part("train", specs, how)
        if found is None:
            names = ", ".join(spec.name for spec in specs)
            wanted = "x and y, or x_train and y_train" if len(specs) == 1 else f"an array for each of {names}, and y"
            held = ", ".join(sorted(self.source.names)) or "nothing"
            raise DataError(f"holds {held}", where=self.source.where, fix=f"save {wanted}")
        return found

    def test(self, program: Program) -> tuple[Any, Any] | None:
        """The same of the test part; None: there is none."""
        from cimc.data import needed_inputs

        specs = needed_inputs(program.inputs)
        alone = len(specs) == 1 and "x_test" in self.source.names
        given = alone or all(f"{spec.name}_test" in self.source.names for spec in specs)
        return self._part("test", specs, program.preprocessing) if given else None

    def _part(self, part: str, specs: Sequence[ValueSpec], how: Preprocessing | None = None) -> tuple[Any, Any] | None:
        """One array for one input, still to be preprocessed, else arrays by name; and labels."""
        label, names = self._key("y", part), self.source.names
        if len(specs) == 1:
            keys_of_one = [key for key in (self._key("x", part), self._key(specs[0].name, part)) if key in names]
            if not keys_of_one:
                return None
            arrays = self.source.read([keys_of_one[0], label], specs[0])
            return self._ready(arrays[keys_of_one[0]], keys_of_one[0], specs[0], how), arrays.get(label)
        keys = {spec.name: self._key(spec.name, part) for spec in specs}
        if not all(key in names for key in keys.values()):
            return None
        arrays = self.source.read([*keys.values(), label])
        return {spec.name: self._ready(arrays[keys[spec.name]], keys[spec.name], spec) for spec in specs}, arrays.get(label)

    def _key(self, name: str, part: str) -> str:
        return f"{name}_{part}" if f"{name}_{part}" in self.source.names else name

    def _ready(self, array: NDArray[Any], key: str, spec: ValueSpec, how: Preprocessing | None = None) -> NDArray[Any]:
        from cimc.data import as_input

        return as_input(array, spec, f"{self.source.where}, {key}", how)


def check_options(
    loss: str, class_axis: int | None, ignore_index: int | None, optimizer: tuple[str, dict[str, Any]], lr: float,
    schedule: tuple[str, dict[str, Any]], window: float | None, w_max: float | None, threshold: float | None,
    clip_norm: float | None, limit: float | None,
) -> None:  # fmt: skip
    """What can be told of a training's options without its model: before that is compiled.

    Raises:
        CimcError: An option is not usable.
    """
    from cimc.training import optimizers, schedules
    from cimc.training.trainer import check_loss, check_numbers
    from cimc.training.window import Window

    check_loss(loss, class_axis, ignore_index)
    optimizers.create(optimizer[0], **optimizer[1])
    schedules.create(schedule[0], lr, **schedule[1])
    Window(window, w_max)
    check_numbers(threshold, clip_norm, limit)


def parse_options(option: str, values: Sequence[str]) -> dict[str, Any]:
    """``["momentum=0.8"]`` as values by name: numbers, ``true`` and ``false``, else text.

    Raises:
        CimcError: Not of that form.
    """
    options: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise CimcError(f"{value} is not NAME=VALUE", where=option)
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Bar:
    """A line an epoch on standard error; while a terminal looks on, a bar with loss and rate."""

    def __init__(self) -> None:
        import sys

        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from cimc.training.history import Callback, Row, epoch_line

        console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        progress = self.progress

        class Show(Callback):
            def on_start(self, trainer: Trainer, epochs: int, steps_per_epoch: int | None, done: int) -> None:
                for text in trainer.notes:
                    note(f"note: {text}")
                if done:
                    note(f"resumed after {done} steps")
                total = None if steps_per_epoch is None else epochs * steps_per_epoch
                self.task = progress.add_task("training", total=total, completed=done, state="")

            def on_step(self, trainer: Trainer, row: Row) -> None:
                right = "" if row["accuracy"] is None else f", accuracy {100 * row['accuracy']:.1f} %"
                state = f"epoch {row['epoch']}, loss {row['loss']:.4f}{right}, {row['device_writes']} device writes"
                progress.update(self.task, advance=1, state=state)

            def on_epoch(self, trainer: Trainer, row: Row) -> None:
                progress.console.print(epoch_line(row), soft_wrap=True)

        self.callback = Show()

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


@contextmanager
def going_on(checkpoint: Path | None) -> Iterator[None]:
    """A run that is stopped says how to go on."""
    from cimc.training.checkpoint import has_run

    try:
        yield
    except Stopped as stop:
        if checkpoint is None:
            stop.fix = "with --checkpoint DIR the state of a run is kept, and --resume goes on from it"
        elif has_run(checkpoint):
            stop.fix = f"add --resume to the same command: it goes on from the checkpoint in {checkpoint}"
        raise


def tell_plan(plan: Sequence[dict[str, Any]], err: bool = False) -> None:
    """What trains, and why the rest does not."""
    rows = [
        (
            row["name"],
            row["where"],
            "×".join(map(str, row["shape"])) or "–",
            "yes" if row["trains"] else "no",
            row["why"] + (f"; shared by {', '.join(row['shared_by'])}" if row["shared_by"] else ""),
        )
        for row in plan
    ]
    count = sum(row["trains"] for row in plan)
    title = f"{count} of {len(plan)} initializers train"
    print_table(title, ("initializer", "where", "shape", "trains", "why"), rows, err)


def tell(result: dict[str, Any], model: Path) -> None:
    """What came out, and what it cost; figures that the target does not give are named."""
    last, cost = result["epochs"][-1], result["cost"]
    writes, latency, energy = cost["writes"], cost["latency_ms"], cost["energy_mj"]
    tests = last["validation_accuracy"] is not None
    accuracy = last["validation_accuracy"] if tests else last["accuracy"]
    typer.echo(f"{result['output']}: {model} trained on {result['target']}, {last['epoch']} epochs, {last['step']} steps")
    if accuracy is not None:
        what = "test images" if tests else "the last epoch's training images"
        typer.echo(f"  accuracy on the chip: {100 * accuracy:.2f} % of {what}")
    counted = "".join(
        f", {writes[name]} {words}"
        for name, words in (("pulses", "pulses"), ("verify_reads", "verify reads"), ("failed", "failed"), ("worn", "worn out"))
        if writes[name]
    )
    typer.echo(
        f"  updates: {last['updates_per_weight']:.3g} per weight (most: {last['most_updates']}), "
        f"{writes['device_writes']} device writes{counted}"
    )
    typer.echo(
        f"  tile operations: {cost['tile_ops']['forward']} forward, {figure(cost['tile_ops']['backward'])} backward; "
        f"{figure(latency['analog'])} ms, {figure(energy['analog'])} mJ analog"
    )
    if latency["writes"] is not None or energy["writes"] is not None:
        typer.echo(f"  writing: {figure(latency['writes'])} ms, {figure(energy['writes'])} mJ")
    typer.echo(f"  digital: {figure(cost['digital_macs'])} multiply-accumulates of gradients")
    parts = (("reads", "analog"), ("writes", "writes"), ("digital work", "digital"))
    if missing := [word for word, key in parts if latency[key] is None or energy[key] is None]:
        typer.echo(f"  not given by the target, so not counted: time or energy of {', '.join(missing)}")
