"""The root of the command line: whatever ends a command early becomes one message and an exit code."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cimc.cli.common import note, print_json
from cimc.cli.process import Stopped
from cimc.errors import CimcError, RunError

#: Errors of click. Newer versions of typer contain click, older ones import it.
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Commands(TyperGroup):
    """The commands of cimc. Errors of use and of the work are told in one form; with ``--json`` on standard output as well."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; exit with its code, or return it where ``standalone_mode`` is false."""
        words = sys.argv[1:] if args is None else list(args)
        try:
            result = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            code = result if isinstance(result, int) else 0
        except (CimcError, Stopped) as error:
            code = _tell(error, words)
        except MemoryError:
            code = _tell(RunError("out of memory", fix="fewer images at a time, or a smaller model"), words)
        except _ClickError as error:
            code = _told_usage(error, words)
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        """Run what was parsed."""
        with warnings.catch_warnings():
            warnings.showwarning = _note_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise Stopped(signal.SIGINT) from None


def _note_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
    """Warnings of cimc to its users are notes; others keep the place that they come from."""
    note(f"note: {message}" if category is UserWarning else warnings.formatwarning(message, category, filename, lineno).rstrip())


def _tell(error: CimcError | Stopped, words: list[str]) -> int:
    note(str(error) if isinstance(error, Stopped) else f"error: {error}")
    if "--json" in words:
        print_json({"error": {name: getattr(error, name) for name in ("what", "where", "fix", "exit_code")}})
    return error.exit_code


def _told_usage(error: Any, words: list[str]) -> int:
    """Tell an error of click's in our form; a command that needs a subcommand and has none shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        _tell(_usage(error), words)
    return int(error.exit_code)


def _usage(error: Any) -> CimcError:
    context, parameter, option = (getattr(error, name, None) for name in ("ctx", "param", "option_name"))
    command = context.command_path if context else "cimc"
    what, _, near = error.message.partition(". Did you mean ")
    near = near.rstrip("?").replace("'", "") or ", ".join(getattr(error, "possibilities", None) or ())
    where = command
    if parameter is not None:
        argument = parameter.param_type_name == "argument"
        where = parameter.metavar or parameter.name.upper() if argument else max(parameter.opts, key=len)
        what = what or "missing"
    elif option is not None:
        where = option
        what = f"{command} has no such option" if hasattr(error, "possibilities") else what
    what = (what[:1].lower() + what[1:]).removeprefix("value error, ").rstrip(".")
    return CimcError(what, where=where, fix=near or f"{command} --help")
