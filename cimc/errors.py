"""Errors for people: what is wrong, where, and the way out."""

from __future__ import annotations


class CimcError(Exception):
    """Base of every error that bad input or a failed run raises.

    Args:
        what: The problem in one sentence, with the figures that show it.
        where: The file, node, layer, step or field it was found in.
        fix: What the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            lines.append(f"  try: {self.fix}")
        return "\n".join(lines)


class ModelError(CimcError):
    """The ONNX model is not valid, or holds what no chip can take."""


class TargetError(CimcError):
    """The target description or a setting of it is wrong."""


class FitError(CimcError):
    """The model does not fit the target; ``fix`` names the levers."""


class DataError(CimcError):
    """Input, calibration or evaluation data do not suit the model."""


class ArtifactError(CimcError):
    """A file that cimc wrote is damaged, of another version, or not one of its own."""


class VerifyError(CimcError):
    """A program breaks a rule of the target IR; ``where`` names the step or layer."""

    exit_code = 1


class RunError(CimcError):
    """The work itself failed: the disk is full, the digital unit refused a segment."""

    exit_code = 1


class OutputError(RunError):
    """A file must not be written there: it is an input, or no plain file."""

    exit_code = 2
