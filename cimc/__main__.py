"""The `cimc` command, which is `python -m cimc` too: signals and streams are in hand before anything large is imported."""

from __future__ import annotations

from typing import NoReturn

from cimc.cli.process import run


def _command() -> None:
    from cimc.cli.app import app

    app(prog_name="cimc")


def main() -> NoReturn:
    """Entry point of the command.

    Exit codes: 0 done, 1 the work failed or its output was lost, 2 bad input or usage, 128 + N stopped by signal N.
    """
    run(_command)


if __name__ == "__main__":
    main()
