"""`cimc train`: train a model on a simulated chip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cimc.cli.common import (
    Bind,
    Json,
    Resize,
    Shape,
    Tie,
    note,
    opened,
    parse_bind,
    parse_shapes,
    print_json,
    tell_data,
    tie_option,
)
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins
from cimc.cli.training import Bar, Data, check_options, going_on, parse_options, tell, tell_plan
from cimc.errors import CimcError
from cimc.files import check_folder

if TYPE_CHECKING:
    from cimc.ir.program import Program
    from cimc.training.trainer import Trainer


def train(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx|M.cim", show_default=False, help="A model, a compiled one, or a trained one.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="TRAINED.cim", help="Where the trained chip goes; may lack with --plan."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="An npz with x and y, or x_train, y_train, x_test, y_test; a folder of images; a data set. "
            "May lack with --emit.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many; may lack with --emit.")] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="TRAINED.onnx", help="Also write the model with the trained weights.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A chip's name or a YAML file; of an ONNX model. Default: bulk-rram.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the target; of an ONNX model.")
    ] = None,
    bind: Bind = None,
    shape: Shape = None,
    tie: Tie = None,
    loss: Annotated[
        str, typer.Option(help="softmax_cross_entropy, mse, binary_cross_entropy, or model; :OUTPUT if not the first.")
    ] = "softmax_cross_entropy",
    class_axis: Annotated[
        int | None, typer.Option(help="Axis of the logits along which classes lie; default: the labels' shape decides.")
    ] = None,
    ignore_index: Annotated[
        int | None, typer.Option(help="Class number of places that do not count, such as -100; default: all count.")
    ] = None,
    optimizer: Annotated[Literal["sgd", "momentum", "adam", "adamw"], typer.Option(help="The optimizer.")] = "adamw",
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 4e-3,
    weight_decay: Annotated[float | None, typer.Option(help="Default: the optimizer's, 0.01 of adamw, else 0.")] = None,
    optimizer_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another of its options: momentum, nesterov, beta1, …")
    ] = None,
    schedule: Annotated[Literal["cosine", "constant", "step", "plateau"], typer.Option(help="Of the learning rate.")] = "cosine",
    schedule_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of cosine: final; step: every, factor; plateau: patience, factor, mode, least."),
    ] = None,
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
        str | None,
        typer.Option(
            help="Update rule: threshold, residual, naive, pulsed, tiki_taka, ttv2, residual_arrays, or one of a plugin; "
            "default: the target's."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Its threshold, in parts of the largest weight; default: the target's.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Sum of steps at which residual updates give pulses, in parts of the largest weight; default: 1/3."),
    ] = None,
    init: Annotated[
        Literal["weights", "devices"] | None,
        typer.Option(help="Program the model's weights, or read the devices as born. Default: weights, if they beat guessing."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            help="Weight that spans the window, in parts of the RMS weight (init devices: He's); default: the target's."
        ),
    ] = None,
    w_max: Annotated[float | None, typer.Option(help="The weight that does, the same in every layer, instead.")] = None,
    learn_scales: Annotated[
        Literal["none", "layer", "column"] | None,
        typer.Option(
            help="Digital scales that train with the weights: none, one a layer or one a column; default: the target's."
        ),
    ] = None,
    scale_lr: Annotated[float | None, typer.Option(help="Their learning rate, of a relative change; default: --lr.")] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers or initializers that stay as they are.")
    ] = None,
    trainable: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these train; default: all that may.")
    ] = None,
    ste: Annotated[
        Literal["pass", "clipped"], typer.Option(help="Gradients where the DAC saturates: they pass, or are zero.")
    ] = "pass",
    clip_norm: Annotated[float | None, typer.Option(help="Largest global norm of the gradients.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for checkpoint and metrics.jsonl.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(min=1, help="A checkpoint also every so many steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint, if there is one.")] = False,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write TensorBoard scalars.")] = None,
    emit: Annotated[
        Literal["onnx", "text", "json"] | None, typer.Option(help="Write the training step in this form, and do not train.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="List what trains, and why the rest does not; do not train.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check all rules of the program after each pass.")] = False,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Train a model on a simulated chip."""
    if output is None and not plan:
        raise CimcError("there is no file for the trained chip", where="--output", fix="give -o TRAINED.cim, or --plan")
    showing = plan or emit is not None
    metrics = None if showing or output is None or checkpoint is not None else output.parent / f"{output.stem}.metrics.jsonl"
    bound = parse_bind(bind or [])
    files = (value for value in bound.values() if isinstance(value, Path))
    guard([output, onnx, metrics, *_kept_in(checkpoint)], [model, data, target, *files])
    for folder in (checkpoint, tensorboard):
        if folder is not None:
            check_folder(folder)
    if checkpoint_steps is not None and checkpoint is None:
        raise CimcError("there is no folder for checkpoints", where="--checkpoint-steps", fix="give --checkpoint DIR")
    if resume and checkpoint is None:
        raise CimcError("there is no folder to resume from", where="--resume", fix="give --checkpoint DIR")
    if checkpoint is not None and not (resume or showing):
        from cimc.training.checkpoint import check_no_run

        check_no_run(checkpoint)
    if not showing and (data is None or epochs is None):
        missing = " and ".join(word for word, value in (("--data", data), ("--epochs", epochs)) if value is None)
        raise CimcError(
            "training wants both --data and --epochs", where=missing, fix=f"give {missing}, or --plan to see what trains"
        )
    optimizer_options = parse_options("--optimizer-option", optimizer_option or ())
    optimizer_options |= {} if weight_decay is None else {"weight_decay": weight_decay}
    schedule_options = parse_options("--schedule-option", schedule_option or ())
    check_options(
        loss=loss, class_axis=class_axis, ignore_index=ignore_index, optimizer=(optimizer, optimizer_options), lr=lr,
        schedule=(schedule, schedule_options), window=window, w_max=w_max, threshold=threshold, clip_norm=clip_norm, limit=limit,
    )  # fmt: skip
    arrays = None if data is None else Data(opened(data, resize))
    if update is not None and model.suffix != ".cim":
        settings = _with_rule(settings or [], update)
    given = {"settings": settings, "tie": tie, "bind": bound, "shapes": parse_shapes(shape or []), "verify": verify}
    program = _program(model, target, arrays, trains=not showing, **given)
    patterns: dict[str, Any] = {"trainable": trainable or (), "ste": ste, "backward": backward, "loss": loss}
    patterns["verify"] = verify
    if showing or output is None or arrays is None or epochs is None:
        from cimc.ir.classes import Classes

        shown: dict[str, Any] = {**patterns, "frozen": freeze or (), "classes": Classes(class_axis, ignore=ignore_index)}
        shown["scales"] = program.target.update.scales if learn_scales is None else learn_scales
        if plan or emit is None or output is None:
            _plan(program, json, **shown)
        else:
            _emit(program, emit, output, json, **shown)
        return
    from cimc.runtime.chip import Chip
    from cimc.training.history import Metrics
    from cimc.training.tensorboard import TensorBoard
    from cimc.training.trainer import Trainer

    (x, y), validation = arrays.train(program), arrays.test(program)
    about = tell_data(arrays.source)
    watchers = [] if metrics is None else [Metrics(metrics)]
    chip = Chip(program, None if "state/seed" in program.tensors else seed)
    trainer = Trainer(
        chip,
        **patterns,
        optimizer=optimizer,
        lr=lr,
        batch_size=batch,
        update=update,
        seed=seed,
        schedule=schedule,
        init=init,
        window=window,
        w_max=w_max,
        learn_scales=learn_scales,
        scale_lr=scale_lr,
        freeze=freeze or (),
        threshold=threshold,
        limit=limit,
        clip_norm=clip_norm,
        accumulate=accumulate,
        optimizer_options=optimizer_options,
        schedule_options=schedule_options,
        callbacks=[] if tensorboard is None else [TensorBoard(tensorboard)],
        class_axis=class_axis,
        ignore_index=ignore_index,
    )
    tell_plan(trainer.plan(), err=True)
    with going_on(checkpoint), Bar() as bar:
        history = trainer.fit(
            x, y, epochs=epochs, steps_per_epoch=steps_per_epoch, validation=validation, checkpoint=checkpoint,
            checkpoint_steps=checkpoint_steps, resume=resume, callbacks=[*watchers, bar.callback],
        )  # fmt: skip
    for text in history.notes[len(trainer.notes) :]:
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
        "data": about,
        "parameters": trainer.plan(),
        **history.to_dict(),
    }
    if json:
        print_json(result)
        return
    tell(result, model)


def _with_rule(settings: list[str], update: str) -> list[str]:
    """Settings of the target that also choose an update rule, where that decides on arrays or has fields of its own."""
    from cimc.targets.kinds import section_class
    from cimc.targets.update_sections import Update

    return settings if section_class("update_rule", update) is Update else [f"update.rule={update}", *settings]


def _kept_in(checkpoint: Path | None) -> list[Path]:
    """The files that a run replaces in its folder."""
    if checkpoint is None or not os.path.isdir(checkpoint):
        return []
    return [checkpoint / "checkpoint.safetensors", checkpoint / "metrics.jsonl"]


def _plan(program: Program, json: bool, **options: Any) -> None:
    """The list of what trains."""
    from cimc.training.step import plan_of, training_program

    step = training_program(program, **options)
    for text in step.provenance.notes[len(program.provenance.notes) :]:
        note(f"note: {text}")
    if json:
        print_json({"parameters": plan_of(step)})
    else:
        tell_plan(plan_of(step))


def _emit(program: Program, form: str, output: Path, json: bool, **options: Any) -> None:
    """The training step as the user wants to see it, checked."""
    from cimc.files import write_file
    from cimc.ir.printer import print_program
    from cimc.training.step import training_program

    step = training_program(program, **{**options, "verify": True})
    for text in step.provenance.notes[len(program.provenance.notes) :]:
        note(f"note: {text}")
    if form == "onnx":
        content = step.to_onnx().SerializeToString()
    else:
        content = (print_program(step) if form == "text" else step.model_dump_json(indent=2) + "\n").encode()
    write_file(output, content)
    if json:
        print_json({"output": str(output), "target": program.target.name, "notes": list(step.provenance.notes)})


def _program(model: Path, target: str | None, data: Data | None, *, trains: bool, **options: Any) -> Program:
    """The program to train: compiled now, or loaded. Data that it cannot be trained on are told first."""
    if model.suffix == ".cim":
        from cimc.ir.artifact import load

        names = {"settings": "--set", "tie": "--tie", "bind": "--bind", "shapes": "--shape"}
        given = [("--target", target), *((option, options[name]) for name, option in names.items())]
        if wrong := [option for option, value in given if value]:
            fix = "give the .onnx instead, or leave the option out"
            raise CimcError("the program is compiled already", where=wrong[0], fix=fix)
        return load(model)
    from cimc import compiler
    from cimc.data import needed_inputs
    from cimc.frontend.load import load as load_model
    from cimc.passes.lower import value_spec

    specs = [value_spec(value) for value in load_model(model).model.graph.inputs]
    bind = options["bind"]
    if defaults := [spec.name for spec in specs if spec.has_default and spec.name not in bind]:
        note(f"note: inputs with a default ('{defaults[0]}', ...) are taken for parameters of the model: {len(defaults)}")
    inputs = [spec for spec in needed_inputs(specs) if spec.name not in bind]
    state = compiler.compile_model(
        model,
        target or "bulk-rram",
        calibration=None if data is None or not inputs else data.calibration(inputs, needed=trains),
        **{**options, "tie": tie_option(options["tie"]), "bind": {**dict.fromkeys(defaults), **bind}},
    )
    for text in state.notes:
        note(f"note: {text}")
    return state.need_program()


def _write_onnx(path: Path, model: Path, trainer: Trainer, trained: Program) -> None:
    """The user's model with the trained values; of a compiled one, or where it lacks a name, the graph as it was lowered."""
    import onnx

    from cimc.files import write_file
    from cimc.training.trained import in_own_names, into_model

    proto = None
    if model.suffix != ".cim":
        proto = onnx.load(model)
        if missing := into_model(proto, in_own_names(trained, trainer.weights())):
            note(f"note: {model} has no initializer {', '.join(missing)}: {path} holds the graph as it was compiled")
            proto = None
    write_file(path, (trained.to_onnx() if proto is None else proto).SerializeToString())
