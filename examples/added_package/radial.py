"""The radial part of the gradient. It is zero if the scale of the weights does not change the loss,
as before a normalisation; weight decay is then a schedule of the learning rate and no penalty."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import click

from gradiometer import Estimate, Finding, Gauge, Issue, Run, Series, State, TrainingStep, diagnose
from gradiometer.jobs import Pool
from gradiometer.measurement import RunFacts
from gradiometer.measurement.uncertainty import ratio_of_means
from gradiometer.report.sections import Numbers, Section
from gradiometer.verdict import Diagnosis, Words


@dataclass(frozen=True)
class Radial(Gauge):
    """E(ĝ·w)² / E‖ĝ‖²‖w‖², the share of the squared gradient that is parallel to the weights."""

    name: ClassVar[str] = "radial"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = ""
    labels: ClassVar[Mapping[str, str]] = {"radial_share": "share of ‖ĝ‖² along the weights"}
    question: ClassVar[str] = "Does the scale of the weights matter?"
    needs_loss: ClassVar[bool] = False

    def measure(self, step: TrainingStep) -> dict[str, float]:
        weights = [each.detach() for each in step.objective.parameters]
        gradient = step.gradient
        lengths = step.product_of(gradient, gradient) * step.product_of(weights, weights)
        return {"along": step.product_of(gradient, weights) ** 2, "lengths": lengths}

    def estimate(self, series: Series, level: float = 0.9) -> dict[str, Estimate]:
        along, lengths = series.moments["along"], series.moments["lengths"]
        share = ratio_of_means(along, lengths, level=level, spacing=series.spacing)
        return {"radial_share": share}

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts) -> Finding:
        share = estimates["radial_share"]
        claim = "scale_free" if share.high < 1e-6 else "scale_matters"
        state = State.OK if share.tells else State.CANNOT_TELL
        return Finding(self.name, self.issue, claim, state, {"radial_share": share})


SEEN = "A share of {radial_share} of the squared gradient is parallel to the weights."
CLAIMS = {
    "scale_matters": Words(SEEN, "The loss depends on the scale of the weights."),
    "scale_free": Words(SEEN, "The scale of the weights does not change the loss."),
}


def section(run: Run, diagnosis: Diagnosis) -> Section:
    rows = [(f"{step:,}", str(share)) for step, share in diagnosis.history.get("radial_share", ())]
    table = Numbers(("step", "share along the weights"), tuple(rows))
    lead = "How much of the gradient only changes the scale of the weights?"
    return Section("radial", "Scale of the weights", lead, (), table, issue=Issue.DRIFT)


@click.command("radial")
@click.argument("run", type=click.Path(exists=True))
def command(run: str) -> None:
    """Print the share of the gradient of RUN that is parallel to the weights."""
    click.echo(diagnose(Run.open(run)).estimates["radial_share"])


class WhenIdle(Pool):
    """Waits before each job until the load of the machine is below a number, as `idle:1.5`."""

    def __init__(self, load: str) -> None:
        self.load = float(load or 1)

    def _outcomes(self, jobs, shared):
        for job in jobs:
            while os.getloadavg()[0] >= self.load:
                time.sleep(1)
            yield from super()._outcomes([job], shared)
