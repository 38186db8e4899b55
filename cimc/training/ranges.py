"""When input gains and ADC ranges are chosen anew in training, and for which form of the model they were."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal

from cimc.runtime.chip import Chip
from cimc.training.feed import Batch
from cimc.training.step import Step

Form = Literal["training", "inference"]

#: What a training counts, by the names of a crossbar's own counts.
_READS = {
    "forward_tile_ops": "tile_reads",
    "backward_tile_ops": "transposed_reads",
    "digital_macs": "digital_macs",
    "adc_conversions": "adc_conversions",
    "adc_saturations": "adc_saturations",
    "dac_inputs": "dac_inputs",
    "dac_clips": "dac_clips",
    "backward_conversions": "transposed_conversions",
    "backward_saturations": "transposed_saturations",
    "transfer_tile_ops": "transfer_reads",
    "transfer_conversions": "transfer_conversions",
}
_of = attrgetter(*_READS.values())


class Ranges:
    """The ranges of one chip.

    Args:
        chip: Whose they are.
        step: Of its training program.
        share: Of the last ADC reads that saturated, or of DAC inputs that clipped, from which on they are chosen anew; at least
            twice the share that the target allows (``adc.saturation_share``, ``dac.clip_share``).
        kept: Whether the chip brings ranges of inference.
    """

    def __init__(self, chip: Chip, step: Step, share: float, kept: bool) -> None:
        allowed = max(chip.program.target.adc.saturation_share, chip.program.target.dac.clip_share)
        share = max(share, 2 * allowed)  # ranges that were chosen to leave out a share are not outgrown by it
        self.chip, self._step, self._share = chip, step, share
        self._enough = 10 / max(share, 1e-6)  # reads that tell such a share
        self._forms = self._both("inference") if kept else set()
        self._since = self.reads()

    def _both(self, form: Form) -> set[Form]:
        """The forms that ranges of one form suit."""
        return {form} if self._step.has_own_form else {"inference", "training"}

    def suit(self, form: Form) -> bool:
        """Whether they were chosen for that form."""
        return form in self._forms

    def forget(self) -> None:
        """Have them chosen anew."""
        self._forms = set()

    def choose(self, form: Form, batch: Batch) -> None:
        """Choose them on a batch.

        Raises:
            DataError: It does not suit the model.
        """
        if form == "inference" and self._step.has_own_form:
            self.chip.calibrate(batch[0])
        else:  # where both forms are one, the chip's program need not be brought up to date for it
            self._step.calibrate(*batch)
        self._forms = self._both(form)
        self._since = self.reads()

    def reads(self) -> dict[str, int]:
        """What the crossbars have done since they were made."""
        crossbars = self.chip.crossbars.values()
        firings = {
            "forward_ops": sum(crossbar.stats.tile_reads // crossbar.tiles for crossbar in crossbars),
            "backward_ops": sum(crossbar.stats.transposed_reads // crossbar.tiles for crossbar in crossbars),
            "transfer_ops": sum(c.stats.transfer_reads * (len(c.row_cuts) - 1) // c.tiles for c in crossbars),
        }
        counts = map(sum, zip(*(_of(crossbar.stats) for crossbar in crossbars), strict=True))
        return {**firings, **dict.fromkeys(_READS, 0), **dict(zip(_READS, counts, strict=False))}

    def outgrown(self, reads: dict[str, int]) -> bool:
        """Whether too many reads saturated or inputs clipped since the last look; there is one once they are enough to tell.

        Args:
            reads: What the crossbars have done, from `reads`.
        """
        conversions, inputs = (reads[name] - self._since[name] for name in ("adc_conversions", "dac_inputs"))
        if conversions + inputs < self._enough:
            return False
        saturations, clips = (reads[name] - self._since[name] for name in ("adc_saturations", "dac_clips"))
        self._since = reads
        return max(saturations / max(1, conversions), clips / max(1, inputs)) > self._share

    def state(self) -> dict[str, Any]:
        """For a checkpoint; the ranges themselves are the chip's."""
        since = {name: value - self._since[name] for name, value in self.reads().items()}
        return {"calibrated": sorted(self._forms), "since": since}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._forms = set(record["calibrated"])
        self._since = {name: value - record["since"].get(name, 0) for name, value in self.reads().items()}
