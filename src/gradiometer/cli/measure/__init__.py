"""`gradiometer measure`: quantities that training itself does not measure, of a run
or a problem."""

import click

from gradiometer.cli.measure.batch import batch
from gradiometer.cli.measure.certificate import certificate
from gradiometer.cli.measure.sharpness import sharpness
from gradiometer.cli.sections import SectionedGroup


@click.group(
    cls=SectionedGroup, epilog="Example: gradiometer measure certificate runs/digits-mlp-1"
)
def measure() -> None:
    """Measure the worth of other batch sizes, the curvature, or if a run has converged."""


for verb in (batch, sharpness, certificate):
    measure.add_command(verb)
