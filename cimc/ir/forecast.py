"""What a compiled program is expected to lose, by layer and by cause, and at the outputs."""

from __future__ import annotations

from math import log10

from pydantic import BaseModel, ConfigDict, Field

#: SQNR of an output below which, and share of changed decisions above which, an output is expected to be poor.
POOR_DB, POOR_SHARE = 10.0, 0.05


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayerForecast(_Record):
    """One layer given the float network's own activations."""

    layer: str
    sqnr_db: float | None = Field(
        None, description="10 log10 of signal over error power of the product; null: no error, or no signal."
    )
    causes_db: dict[str, float] = Field(
        default_factory=dict, description="The same by cause: signal over the error power of it alone."
    )


class OutputForecast(_Record):
    """One output of the network, with the errors of all layers."""

    name: str
    sqnr_db: float | None = Field(None, description="10 log10 of signal over error power; null: no error, or no signal.")
    changed_share: float | None = Field(
        None, description="Share of decisions (largest entry along the last axis) that change; null: the output is no scores."
    )


class Forecast(_Record):
    """Expected right after programming, as an average over dice."""

    layers: tuple[LayerForecast, ...]
    outputs: tuple[OutputForecast, ...] = Field((), description="Empty where the network could not be run with errors.")
    basis: str = Field("", description="The inputs behind it, and the dice that outputs were averaged over.")
    left_out: tuple[str, ...] = Field((), description="Effects that the target has and the forecast lacks.")

    def by_cause_db(self) -> dict[str, float]:
        """Signal over error power of each cause, the mean of the layers' error shares, worst first."""
        shares: dict[str, float] = {}
        for layer in self.layers:
            for cause, db in layer.causes_db.items():
                shares[cause] = shares.get(cause, 0.0) + 10 ** (-db / 10) / len(self.layers)
        return {cause: -10 * log10(share) for cause, share in sorted(shares.items(), key=lambda pair: -pair[1])}

    def poor(self) -> list[OutputForecast]:
        """The outputs that are expected to be poor."""
        return [
            output
            for output in self.outputs
            if (output.sqnr_db is not None and output.sqnr_db < POOR_DB) or (output.changed_share or 0.0) > POOR_SHARE
        ]

    def warnings(self) -> list[str]:
        """A sentence for each output that is expected to be poor, with the way out."""
        causes = " and ".join(list(self.by_cause_db())[:2])
        return [
            f"output {output.name} is expected to be poor: {_told(output)}; most of the errors are {causes}; "
            "fit the outputs on the chip (cimc calibrate), search for settings (cimc tune), or train on it (cimc train); "
            "where the target clips nothing, scales of least error may help; docs/accuracy.md says more"
            for output in self.poor()
        ]

    def summary(self) -> str:
        """The outputs in a line."""
        return "; ".join(f"{output.name} {_told(output)}" for output in self.outputs)


def _told(output: OutputForecast) -> str:
    words = ["no error" if output.sqnr_db is None else f"{output.sqnr_db:.1f} dB"]
    if output.changed_share is not None:
        words.append(f"{100 * output.changed_share:.2g} % of decisions change")
    return ", ".join(words)
