"""The passes of a compilation in their order, with their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cimc.data import bound_value, load_arrays, needed_inputs
from cimc.errors import CimcError, VerifyError
from cimc.ir.bound import without_bound
from cimc.ir.program import Preprocessing, Provenance, Repeats, ValueSpec
from cimc.passes.base import Compilation, Pass
from cimc.passes.calibrate import Calibrate
from cimc.passes.conditions import need_graph
from cimc.passes.fold import Fold
from cimc.passes.forecast import Forecasting
from cimc.passes.free_repeat import FreeRepeat
from cimc.passes.keep_scales import KeepScales
from cimc.passes.legalise import Legalise
from cimc.passes.lower import Lower, value_spec
from cimc.passes.map import Map
from cimc.passes.place import Place
from cimc.passes.quantise import Quantise
from cimc.passes.ranges import Ranges
from cimc.passes.repeat import Repeat, checked_repeats
from cimc.passes.scales import Scales
from cimc.passes.schedule import Schedule
from cimc.passes.select import Select
from cimc.passes.specialise import Specialise
from cimc.passes.tie import Tie
from cimc.passes.tile import Tile
from cimc.passes.unsigned import Unsigned
from cimc.passes.untie import AUTO, Untie
from cimc.sources import Data

#: Data, as `cimc.sources.open_data` takes them, or arrays by input name; lists of arrays for sequences.
Calibration = Data | Mapping[str, Any]
#: Repeats by layer, or a word: ``free`` where they cost nothing, ``none``.
RepeatsOption = Mapping[str, Repeats | Mapping[str, int]] | Literal["free", "none"]


@dataclass(frozen=True)
class ReadCalibration(Pass):
    """Calibration data for the inputs that are left once others are bound.

    Args:
        data: Arrays by input name, or data, whose images are preprocessed as `evaluate` does with its own; None: there are none.
        preprocessing: That of a model of one input.
    """

    data: Calibration | None = None
    preprocessing: Preprocessing | None = None

    name: ClassVar[str] = "read-calibration"

    def requires(self, state: Compilation) -> None:
        """The inputs are not calibrated yet, and preprocessing has one to be for.

        Raises:
            CimcError: There are several inputs, and preprocessing.
            VerifyError: Layers have kept samples of their inputs, or the graph is lowered.
        """
        need_graph(state)
        if state.samples:
            raise VerifyError("inputs are calibrated already", fix="run this pass before `calibrate`")
        inputs = _open_inputs(state)
        if self.preprocessing is not None and len(inputs) != 1:
            raise CimcError(f"preprocessing is for a model of one input, this one has {len(inputs)}", fix="leave it out")

    def call(self, state: Compilation) -> Sequence[str]:
        """Take the data into the compilation.

        Raises:
            DataError: They hold another value of a bound input, or a file does not hold what the model takes.
        """
        if self.data is None:
            return ()
        inputs = _open_inputs(state)
        if isinstance(self.data, Mapping):
            state.calibration = without_bound(self.data, state.bound, "calibration data")
        else:
            state.calibration = load_arrays(self.data, inputs, how=self.preprocessing, bound=state.bound)
        return list(state.calibration)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where data of a bound input are left."""
        for name in () if state.calibration is None else state.bound.keys() & state.calibration.keys():
            raise VerifyError("it is bound and has calibration data", where=f"after read-calibration, input '{name}'")

    def unchanged(self, state: Compilation) -> str:
        """No data are given, or none are for an input that is left."""
        return "no calibration data are given" if self.data is None else "the data are of bound inputs alone"


def _open_inputs(state: Compilation) -> list[ValueSpec]:
    """Inputs that a run of the model needs."""
    return needed_inputs([value_spec(value) for value in state.model.graph.inputs])


def pipeline(
    *,
    calibration: Calibration | None = None,
    chips: int | None = None,
    copies: Mapping[str, int] | None = None,
    repeats: RepeatsOption | None = None,
    digital: str | Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    tie: str | Sequence[str] = AUTO,
    bind: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    provenance: Provenance | None = None,
    keep: KeepScales | None = None,
    only_known: bool = False,
) -> tuple[Pass, ...]:
    """The passes of a compilation, with the options of `compile_model`. From `tile` on they change the program, before the graph.

    Args:
        provenance: File name and hash of the model.
        keep: Takes full scales over from another program, for an image of it; None: each layer has its own.
        only_known: Leave out repeats and copies of layers that there are not, instead of refusing them.
    """
    given = repeats if isinstance(repeats, Mapping) else {}
    lower, place = Lower(provenance or Provenance(), preprocessing), Place(chips, copies or {}, only_known)
    return (
        Specialise({name: bound_value(value, name) for name, value in (bind or {}).items()}, shapes or {}),
        ReadCalibration(calibration, preprocessing),
        Legalise(),
        Tie(tie),
        Untie(tie),
        Fold(),
        Select((digital,) if isinstance(digital, str) else tuple(digital)),
        Unsigned(),
        Repeat(checked_repeats(given), only_known),
        Calibrate(_assumed(preprocessing)),
        Quantise(),
        Scales(),
        lower,
        *(() if keep is None else (keep,)),
        Tile(),
        Map(),
        Ranges(),
        Forecasting(),
        place,
        FreeRepeat(repeats == "free", (Quantise(), Scales(), lower, Tile(), Map(), Ranges(), place)),
        Schedule(),
    )


def _assumed(how: Preprocessing | None) -> tuple[float, float]:
    """Where real inputs lie that nothing is known of: images of 0 to 1, or 0 to 255 where a scale is stated, preprocessed."""
    if how is None:
        return 0.0, 1.0
    top = 1.0 if how.scale is None else 255 * how.scale
    pairs = zip(how.mean * len(how.std), how.std * len(how.mean), strict=True)
    ends = [(end - mean) / std for mean, std in pairs for end in (0.0, top)]
    return min(ends), max(ends)


PASS_NAMES = tuple(step.name for step in pipeline())
