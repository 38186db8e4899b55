"""The folder of a run: its checkpoint and its epochs, locked as long as the run lasts."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cimc.errors import RunError
from cimc.files import clear_stale
from cimc.training.checkpoint import (
    Checkpoint,
    check_no_run,
    checkpoint_of,
    has_run,
    metrics_of,
    read_checkpoint,
    write_checkpoint,
)
from cimc.training.lock import RunLock


class Folder:
    """The checkpoints of one run.

    Args:
        path: Made if it is not there.

    Raises:
        CimcError: Another run has it.
        RunError: It cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = checkpoint_of(self.path)
        self.metrics = metrics_of(self.path)
        self._made = [place for place in (self.path, *self.path.parents) if not os.path.exists(place)]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = RunLock(self.path)
        except OSError as error:
            self._remove_empty()
            raise RunError(
                f"cannot write: {error.strerror}", where=str(self.path), fix="choose a folder that you may write to"
            ) from error
        except BaseException:
            self._remove_empty()
            raise
        clear_stale(self.path, older_than_s=0)  # of a run that was killed while it wrote; now the folder is ours

    def close(self) -> None:
        """Let others have the folder. Folders that were made for this run and are still empty go."""
        self.lock.release()
        self._remove_empty()

    def _remove_empty(self) -> None:
        with suppress(OSError):
            for place in self._made:  # the innermost first
                place.rmdir()

    def find(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from; None: there is none.

        Raises:
            CimcError: There is one, and it is not to be resumed.
            ArtifactError: It is damaged, or of another version.
        """
        if not resume:
            check_no_run(self.path)
        return read_checkpoint(self.path) if has_run(self.path) else None

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint.

        Raises:
            RunError: It cannot be written; the one before is intact.
        """
        write_checkpoint(checkpoint, self.path)
