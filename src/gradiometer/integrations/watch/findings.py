"""Findings that print as sentences."""

from gradiometer.measurement.finding import Finding


class Findings(tuple[Finding, ...]):
    """Findings that print as sentences."""

    def __str__(self) -> str:
        return "\n".join(f"{finding.state.symbol} {finding}" for finding in self) or "Nothing has been measured yet."
