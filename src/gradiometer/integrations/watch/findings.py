"""A tuple of findings with their warnings and a readable `print`."""

from collections.abc import Iterable

from gradiometer.measurement.finding import Finding


class Findings(tuple[Finding, ...]):
    """Findings, the most urgent first. `print` shows the warnings, then one sentence after another.

    Args:
        findings: The findings.
        warnings: What was wrong with the loop or with measuring it, oldest first.
    """

    warnings: tuple[str, ...]

    def __new__(cls, findings: Iterable[Finding] = (), warnings: Iterable[str] = ()) -> "Findings":
        """Findings and warnings."""
        made = super().__new__(cls, findings)
        made.warnings = tuple(warnings)
        return made

    def __str__(self) -> str:
        lines = [f"! warning: {warning}" for warning in self.warnings]
        lines += [f"{finding.state.symbol} {finding}" for finding in self]
        return "\n".join(lines) or "Nothing has been measured yet."
