"""Every statement of the lecture, in order."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module

from gradiometer.errors import BadArgument
from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Here, Pool
from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.lecture.statement import ExperimentResult, Statement, result, run

# S1 to S12, each in the file of its number.
STATEMENTS: dict[str, Statement] = {
    f"S{number}": getattr(import_module(f"gradiometer_lab.lecture.s{number:02d}"), f"S{number}")
    for number in range(1, 13)
}


def chosen(names: tuple[str, ...]) -> list[Statement]:
    """The statements with these names, in the lecture's order; all if no name is given."""
    asked = [name.strip().upper() for name in names]
    for given, name in zip(names, asked, strict=True):
        if name not in STATEMENTS:
            raise BadArgument(
                f"Unknown statement {given!r} in `statements`. Available: {', '.join(STATEMENTS)}."
            )
    return [statement for name, statement in STATEMENTS.items() if not asked or name in asked]


def run_all(
    statements: Sequence[Statement], pool: Pool
) -> Iterator[tuple[Statement, Iterator[ExperimentResult]]]:
    """Each statement in order, with what `run` gives: in this process as it goes on, else when it
    is finished."""
    # In one process the predictions are shown before the measurements begin.
    if isinstance(pool, Here):
        yield from ((statement, run(statement)) for statement in statements)
        return
    # Only a name and numbers are sent: the lambdas of an experiment cannot be pickled.
    jobs = [Job(statement.name, _numbers_of, (statement.name,)) for statement in statements]
    for statement, numbers in zip(statements, pool.in_order(jobs), strict=True):
        later = [
            ExperimentResult(one, *its)
            for one, its in zip(statement.experiments, numbers, strict=True)
        ]
        yield statement, iter([*(replace(outcome, measured=()) for outcome in later), *later])


def _numbers_of(
    name: str,
) -> list[tuple[tuple[Estimate, ...], tuple[Estimate, ...], tuple[float, ...]]]:
    """Predicted and measured numbers of each experiment, and those of its wrong theory."""
    return [
        (outcome.predicted, outcome.measured, outcome.rival)
        for outcome in result(STATEMENTS[name]).outcomes
    ]
