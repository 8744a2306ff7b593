"""A tuple of findings with a readable `print`."""

from gradiometer.measurement.finding import Finding


class Findings(tuple[Finding, ...]):
    """Findings, the most urgent first. `print` shows one sentence after another."""

    def __str__(self) -> str:
        return "\n".join(f"{finding.state.symbol} {finding}" for finding in self) or "Nothing has been measured yet."
