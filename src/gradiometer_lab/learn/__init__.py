"""`gradiometer learn`: what the theory of SGD says, tested on problems with known answers."""

import click

from gradiometer.cli.sections import SectionedGroup
from gradiometer_lab.learn.lecture import lecture
from gradiometer_lab.learn.sample import sample
from gradiometer_lab.learn.schedule import schedule
from gradiometer_lab.learn.selftest import selftest


@click.group(cls=SectionedGroup, epilog="Example: gradiometer learn lecture --out lecture")
def learn() -> None:
    """Test the theory of SGD, check a schedule, draw from a posterior, or check this machine."""


for verb in (lecture, schedule, sample, selftest):
    learn.add_command(verb)
