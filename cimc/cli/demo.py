"""`cimc demo`: a tour from an untrained network to a chip image, by the commands that a user would give."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from json import loads
from pathlib import Path
from shlex import join
from typing import Annotated, Any

import typer

from cimc.cli.common import Json, note, print_json
from cimc.cli.compile import compile as compile_command
from cimc.cli.evaluate import evaluate
from cimc.cli.explain import explain
from cimc.cli.export import export
from cimc.cli.train import train


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the files go.")] = Path("cimc-demo"),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="28x28 grey images of ten classes; default: mnist or fashion-mnist if on this machine, else made-up pictures.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training.")] = 2,
    chips: Annotated[int, typer.Option(min=1, help="Dice that are evaluated.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the network, the pictures, the chip and the order of the data.")] = 0,
    json: Json = False,
) -> None:
    """Build a small network, train it on a chip, compile, evaluate, explain and export it."""
    import onnx

    from cimc.cli.demo_parts import network, pictures
    from cimc.datasets import on_this_machine
    from cimc.files import make_folder, write_file
    from cimc.npz import save_npz

    make_folder(output)
    model, trained, weights, program, image = (
        output / name for name in ("network.onnx", "trained.cim", "trained.onnx", "program.cim", "chip.cimg")
    )
    written = [model, trained, weights, program, image]
    if data is None:
        name = next(iter(on_this_machine()), None)
        if name is None:
            data = output / "pictures.npz"
            save_npz(data, pictures(seed))
            written.append(data)
            note("note: neither MNIST nor Fashion-MNIST is on this machine: the pictures are made up (--data gives others)")
        else:
            data = Path(name)
            note(f"note: the data set {name} is on this machine and is used (--data gives others)")
    write_file(model, network(seed).SerializeToString())
    onnx.checker.check_model(str(model))
    note(f"{model}: an untrained network of two convolutions and a dense layer")
    steps: list[dict[str, Any]] = []

    def step(command: Callable[..., None], what: str, arguments: dict[str, Any], words: list[object]) -> None:
        line = f"cimc {join(map(str, words))}"
        note(f"\n# {what}\n$ {line}")
        shown = StringIO()
        if not json:
            command(**arguments)
            return
        with redirect_stdout(shown):
            command(**arguments, json=True)
        steps.append({"command": line, "result": loads(shown.getvalue())})

    step(
        train, "Train the network on the chip, and write the trained weights as ONNX too",
        {"model": model, "data": data, "epochs": epochs, "seed": seed, "output": trained, "onnx": weights},
        ["train", model, "--data", data, "--epochs", epochs, "--seed", seed, "-o", trained, "--onnx", weights],
    )  # fmt: skip
    step(
        compile_command, "Compile the trained weights for any die of that chip",
        {"model": weights, "calibration": data, "output": program},
        ["compile", weights, "--calibration", data, "-o", program],
    )  # fmt: skip
    step(
        evaluate, f"Write them into {chips} dice, and classify the test images on each",
        {"program_files": [program], "data": data, "chips": chips, "seed": seed},
        ["evaluate", program, "--data", data, "--chips", chips, "--seed", seed],
    )  # fmt: skip
    step(
        explain, "What costs accuracy on the first die, and what would help",
        {"file": program, "data": data, "seed": seed}, ["explain", program, "--data", data, "--seed", seed],
    )  # fmt: skip
    step(
        export, "Export what the trained chip holds as an image for another chip",
        {"program_file": trained, "chip": "bulk-rram-256", "calibration": data, "output": image},
        ["export", trained, "--chip", "bulk-rram-256", "--calibration", data, "-o", image],
    )  # fmt: skip
    if json:
        print_json({"data": str(data), "steps": steps, "files": [str(path) for path in written]})
        return
    note(f"\nThe files are in {output}: {', '.join(path.name for path in written)}. Every command has --help.")
