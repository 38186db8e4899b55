"""`cimc tune`: find settings with which a network keeps its accuracy on a chip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cimc.cli.common import Json, Resize, note, opened, parse_time, print_json, print_table, tell_data
from cimc.cli.compile import preprocessing_of
from cimc.cli.outputs import guard
from cimc.cli.plugins import Plugins
from cimc.cli.process import Stopped
from cimc.errors import CimcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cimc.tuning.trace import Trial


def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", show_default=False, help="The model.")],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DATA",
            help="An npz with x_train, y_train to choose by and x_test, y_test for the report, or x and y; a folder of images; "
            "a data set.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="M.cim", help="The compiled model.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="A chip's name (see `cimc targets list`) or a YAML file.")
    ] = "bulk-rram",
    goal: Annotated[float, typer.Option(min=0, max=100, help="Percentage points that may be lost.")] = 0.5,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="WORD=+SHARE,...", help="What may be added: arrays=+20%,latency=+50%,energy=+9%. Default: no limit."
        ),
    ] = None,
    digital_share: Annotated[str, typer.Option(metavar="SHARE", help="Work that may become digital, as 5%.")] = "0%",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the target.")
    ] = None,
    fine_tune: Annotated[int, typer.Option(min=0, metavar="EPOCHS", help="Noise-aware training before programming.")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate of it.")] = 1e-3,
    dice: Annotated[int, typer.Option(min=1, help="Dice simulated in each trial; the report takes as many others.")] = 5,
    images: Annotated[int, typer.Option(min=1, help="Images to choose by, and for the report, at most.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of dice and training.")] = 0,
    time_limit: Annotated[str | None, typer.Option(metavar="T", help="After that no trial begins: 20min, 2h.")] = None,
    trace: Annotated[Path | None, typer.Option(metavar="T.jsonl", help="Keep each trial in this file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up the trials that the trace holds.")] = False,
    scale: Annotated[float | None, typer.Option(help="Preprocessing, as `cimc compile`.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="M[,M...]", help="Mean, likewise.")] = None,
    std: Annotated[str | None, typer.Option(metavar="S[,S...]", help="Standard deviation, likewise.")] = None,
    resize: Resize = None,
    plugins: Plugins = None,
    json: Json = False,
) -> None:
    """Find settings that lose at most the stated points on a chip, at the least cost."""
    from cimc.tuning.costs import parse_budget
    from cimc.tuning.tune import tune as search

    guard([output, trace], [model, data, target])
    if resume and trace is None:
        raise CimcError("there is no trace to resume from", where="--resume", fix="add --trace T.jsonl")
    source = opened(data, resize)
    base: list[Trial] = []

    def told(trial: Trial) -> None:
        base.append(trial)
        note(f"{trial.what}: {_points(trial.measured.lost_points)}, {_more(trial, base[0])}")

    with _going_on(trace):
        result = search(
            model,
            target,
            source,
            goal=goal,
            budget=parse_budget(budget) if budget else None,
            digital_share=_share(digital_share),
            settings=settings,
            dice=dice,
            images=images,
            fine_tune=fine_tune,
            lr=lr,
            seed=seed,
            time_limit_s=None if time_limit is None else parse_time(time_limit),
            trace=trace,
            resume=resume,
            preprocessing=preprocessing_of(scale, mean, std),
            told=told,
        )
    result.program.save(output)
    about = tell_data(source)
    for text in result.notes:
        note(f"note: {text}")
    if json:
        print_json({"output": str(output), **result.to_dict(), "data": about})
        return
    print_table(
        "front of the trials", ("lost points", "arrays", "latency", "energy", "digital", "what"), _rows(result.front, base[0])
    )
    rows: list[tuple[str, object]] = [
        ("chosen", result.best.candidate.words()),
        ("why the search ended", result.stopped),
        ("accuracy of ONNX Runtime", result.report.reference),
        ("accuracy, median of other dice", result.report.accuracy),
        ("lowest", min(result.report.accuracies)),
        ("with the defaults", result.before.accuracy),
        ("points lost", result.report.lost_points),
        ("within goal and budget", "yes" if result.met else "no"),
    ]
    print_table(f"{output}, on {result.report.images} other images", ("", "value"), rows)


@contextmanager
def _going_on(trace: Path | None) -> Iterator[None]:
    """A search that is stopped says how to go on."""
    try:
        yield
    except Stopped as stop:
        if trace is None:
            stop.fix = "with --trace T.jsonl each trial is kept, and --resume takes them up"
        elif trace.exists():
            stop.fix = f"add --resume to the same command: it takes up the trials in {trace}"
        raise


def _points(lost: float) -> str:
    return f"{lost:.2f} points lost"


def _more(trial: Trial, base: Trial) -> str:
    added = trial.cost.added(base.cost)
    return ", ".join(f"{word} {100 * share:+.0f} %" for word, share in added.items())


def _rows(trials: Sequence[Trial], base: Trial) -> list[tuple[Any, ...]]:
    rows = []
    for trial in trials:
        added = trial.cost.added(base.cost)
        shares = [f"{100 * added[word]:+.0f} %" for word in ("arrays", "latency", "energy")]
        digital = f"{100 * trial.cost.digital_share:.1f} %"
        rows.append((f"{trial.measured.lost_points:.2f}", *shares, digital, trial.candidate.words()))
    return rows


def _share(text: str) -> float:
    """``"5%"`` or ``"0.05"``.

    Raises:
        CimcError: It is neither.
    """
    from cimc.tuning.costs import share_of

    value = share_of(text)
    if value is None or value > 1:
        raise CimcError(f"{text} is no share from 0 to 100 %", where="--digital-share", fix="for example 5%")
    return value
