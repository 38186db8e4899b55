"""The command line. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from cimc.cli.calibrate import calibrate
from cimc.cli.commands import Commands
from cimc.cli.compare import compare
from cimc.cli.compile import compile as compile_command
from cimc.cli.demo import demo
from cimc.cli.device import app as device_app
from cimc.cli.doctor import doctor
from cimc.cli.evaluate import evaluate
from cimc.cli.explain import explain
from cimc.cli.export import export
from cimc.cli.image import app as image_app
from cimc.cli.inspect import inspect
from cimc.cli.limit import yield_
from cimc.cli.process import run as run_process
from cimc.cli.report import report
from cimc.cli.run import run
from cimc.cli.targets import app as targets_app
from cimc.cli.train import train
from cimc.cli.tune import tune
from cimc.cli.warmup import warmup
from cimc.version import __version__

#: Plain help: rich would double the time of `--help`.
app = typer.Typer(
    name="cimc",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_command)
app.command("run")(run)
app.command("train")(train)
app.command("tune")(tune)
app.command("evaluate")(evaluate)
app.command("compare")(compare)
app.command("calibrate")(calibrate)
app.command("explain")(explain)
app.command("inspect")(inspect)
app.command("report")(report)
app.command("export")(export)
app.command("yield")(yield_)
app.command("demo")(demo)
app.command("warmup")(warmup)
app.command("doctor")(doctor)
app.add_typer(image_app, name="image")
app.add_typer(device_app, name="device")
app.add_typer(targets_app, name="targets")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cimc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """From an ONNX model to compute-in-memory crossbar hardware: compile, simulate, cost."""


def main() -> None:
    """As `cimc.__main__.main`, for who has this module loaded."""
    run_process(lambda: app(prog_name="cimc"))
