"""`cimc train`: train a model on a simulated chip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.cli.common import Json, figure, note, print_json
from cimc.errors import CimcError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cimc.ir.program import Program, ValueSpec
    from cimc.training.trainer import Trainer

#: Images that input scales and ADC ranges of a model are first chosen on; training chooses them again on the chip.
_CALIBRATION = 256


def train(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|M.cim", show_default=False, help="A model, a compiled one, or a trained one.")
    ],
    data: Annotated[Path, typer.Option(metavar="D.npz", help="x and y, or x_train, y_train, x_test, y_test.")],
    epochs: Annotated[int, typer.Option(min=1, help="How many.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="TRAINED.cim", help="Where the trained chip goes.")],
    onnx: Annotated[
        Path | None, typer.Option(metavar="TRAINED.onnx", help="Also write the model with the trained weights.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A chip's name or a YAML file; of an ONNX model. Default: bulk-rram.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the target; of an ONNX model.")
    ] = None,
    loss: Annotated[
        str, typer.Option(help="softmax_cross_entropy, mse, binary_cross_entropy, or model; :OUTPUT if not the first.")
    ] = "softmax_cross_entropy",
    optimizer: Annotated[Literal["sgd", "momentum", "adam", "adamw"], typer.Option(help="The optimizer.")] = "adamw",
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 4e-3,
    weight_decay: Annotated[float | None, typer.Option(help="Default: the optimizer's, 0.01 of adamw, else 0.")] = None,
    schedule: Annotated[Literal["cosine", "constant", "step", "plateau"], typer.Option(help="Of the learning rate.")] = "cosine",
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose mean gradient makes a step.")] = 1,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Random batches that make an epoch; default: all data once.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the chip and of the order of the data.")] = 0,
    backward: Annotated[
        Literal["digital", "analog"], typer.Option(help="By the digital weights, or on the transposed array.")
    ] = "digital",
    update: Annotated[
        Literal["threshold", "residual", "naive"] | None, typer.Option(help="Update rule; default: the target's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Its threshold, in parts of the largest weight; default: the target's.")
    ] = None,
    init: Annotated[
        Literal["weights", "devices"] | None,
        typer.Option(help="Program the model's weights, or read the devices as born. Default: weights, if they beat guessing."),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Weight that spans the window, in units of sqrt(2 / fan-in); default: the target's.")
    ] = None,
    w_max: Annotated[float | None, typer.Option(help="The weight that does, the same in every layer, instead.")] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers or initializers that stay as they are.")
    ] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest global norm of the gradients.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for checkpoint and metrics.jsonl.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(min=1, help="A checkpoint also every so many steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint, if there is one.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write TensorBoard scalars.")] = None,
    json: Json = False,
) -> None:
    """Train a model on a simulated chip."""
    from cimc.runtime.chip import Chip
    from cimc.training.history import TensorBoard
    from cimc.training.trainer import Trainer

    for path in (output, onnx):
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise CimcError("no such folder, or none that may be written to", where=str(path.parent), fix="choose another")
    arrays = _Data(data)
    program = _program(model, target, settings, arrays)
    x, y = arrays.part("train", program)
    validation = arrays.part("test", program) if arrays.has_test else None
    chip = Chip(program, None if "state/seed" in program.tensors else seed)
    trainer = Trainer(
        chip,
        loss=loss,
        optimizer=optimizer,
        lr=lr,
        batch_size=batch,
        update=update,
        backward=backward,
        seed=seed,
        schedule=schedule,
        init=init,
        window=window,
        w_max=w_max,
        freeze=freeze or (),
        threshold=threshold,
        clip_norm=clip_norm,
        accumulate=accumulate,
        optimizer_options={} if weight_decay is None else {"weight_decay": weight_decay},
        callbacks=[] if tensorboard is None else [TensorBoard(tensorboard)],
    )
    for text in trainer.notes:
        note(f"note: {text}")
    told = len(trainer.notes)
    with _Bar() as bar:
        history = trainer.fit(
            x, y, epochs=epochs, steps_per_epoch=steps_per_epoch, validation=validation, checkpoint=checkpoint,
            checkpoint_steps=checkpoint_steps, resume=resume, callbacks=[bar.callback],
        )  # fmt: skip
    for text in trainer.notes[told:]:
        note(f"note: {text}")
    trained = trainer.program()
    trained.save(output)
    if onnx is not None:
        _write_onnx(onnx, model, trainer, trained)
    result: dict[str, Any] = {
        "output": str(output),
        "onnx": None if onnx is None else str(onnx),
        "target": program.target.name,
        "seed": seed,
        **history.to_dict(),
    }
    if json:
        print_json(result)
        return
    last, writes = history.last, history.cost["writes"]
    accuracy = last["validation_accuracy"] if last["validation_accuracy"] is not None else last["accuracy"]
    typer.echo(f"{output}: {model} trained on {program.target.name}, {last['epoch']} epochs, {last['step']} steps")
    if accuracy is not None:
        what = "test images" if last["validation_accuracy"] is not None else "the last epoch's training images"
        typer.echo(f"  accuracy on the chip: {100 * accuracy:.2f} % of {what}")
    typer.echo(
        f"  updates: {last['updates_per_weight']:.3g} per weight (most: {last['most_updates']}), "
        f"{writes['device_writes']} device writes"
    )
    cost = history.cost
    typer.echo(
        f"  tile operations: {cost['tile_ops']['forward']} forward, {figure(cost['tile_ops']['backward'])} backward; "
        f"{figure(cost['latency_ms']['analog'])} ms, {figure(cost['energy_mj']['analog'])} mJ analog"
    )


class _Data:
    """The data file: ``x`` and ``y``, or the four arrays with ``_train`` and ``_test``."""

    def __init__(self, path: Path) -> None:
        from cimc.data import read_npz

        self.path, self.arrays = path, read_npz(path)
        self.has_test = "x_test" in self.arrays and "x_train" in self.arrays

    def part(self, part: str, program: Program) -> tuple[Any, Any]:
        """Images (or inputs by name) and labels."""
        suffix = f"_{part}" if f"x_{part}" in self.arrays else ""
        names = [spec.name for spec in program.inputs if not spec.has_default]
        labels = self.arrays.get(f"y{suffix}")
        if f"x{suffix}" in self.arrays and len(names) == 1:
            return self._ready(f"x{suffix}", program.inputs[0]), labels
        if all(name in self.arrays for name in names):
            return {spec.name: self._ready(spec.name, spec) for spec in program.inputs if spec.name in names}, labels
        wanted = "x and y, or x_train and y_train" if len(names) == 1 else f"an array for each of {', '.join(names)}, and y"
        raise DataError(f"holds {', '.join(self.arrays) or 'nothing'}", where=str(self.path), fix=f"save {wanted}")

    def _ready(self, name: str, spec: ValueSpec) -> NDArray[Any]:
        from cimc.data import as_input

        return as_input(self.arrays[name], spec, f"{self.path}, {name}")


def _program(model: Path, target: str | None, settings: list[str] | None, data: _Data) -> Program:
    """The program to train: compiled now, or loaded."""
    if model.suffix == ".cim":
        from cimc.ir.artifact import load

        for option, value in (("--target", target), ("--set", settings)):
            if value:
                raise CimcError(
                    "the program is compiled already", where=option, fix="give the .onnx instead, or leave the option out"
                )
        return load(model)
    from cimc import compiler
    from cimc.data import as_input
    from cimc.frontend.load import load as load_model
    from cimc.passes.lower import value_spec

    calibration = None
    inputs = [value_spec(value) for value in load_model(model).model.graph.inputs]
    key = "x_train" if "x_train" in data.arrays else "x"
    if len(inputs) == 1 and key in data.arrays:
        images = data.arrays[key][:_CALIBRATION]
        calibration = {inputs[0].name: as_input(images, inputs[0], f"{data.path}, {key}")}
    state = compiler.compile_model(model, target or "bulk-rram", calibration=calibration, settings=settings)
    for text in state.notes:
        note(f"note: {text}")
    return state.need_program()


def _write_onnx(path: Path, model: Path, trainer: Trainer, trained: Program) -> None:
    """The user's model with the trained values; of a compiled one, or where it lacks a name, the graph as it was lowered."""
    import onnx

    from cimc.data import write_file
    from cimc.training.trained import into_model

    proto = None
    if model.suffix != ".cim":
        proto = onnx.load(model)
        if missing := into_model(proto, trainer.weights()):
            note(f"note: {model} has no initializer {', '.join(missing)}: {path} holds the graph as it was compiled")
            proto = None
    write_file(path, (trained.to_onnx() if proto is None else proto).SerializeToString())


class _Bar:
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
                if done:
                    note(f"resumed after {done} steps")
                total = None if steps_per_epoch is None else epochs * steps_per_epoch
                self.task = progress.add_task("training", total=total, completed=done, state="")

            def on_step(self, trainer: Trainer, row: Row) -> None:
                state = f"epoch {row['epoch']}, loss {row['loss']:.4f}, lr {row['lr']:.2g}"
                progress.update(self.task, advance=1, state=state)

            def on_epoch(self, trainer: Trainer, row: Row) -> None:
                progress.console.print(epoch_line(row), soft_wrap=True)

        self.callback = Show()

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
