"""The configuration and the problem of a run, for commands that work on it."""

from gradiometer.errors import BadArgument
from gradiometer.problems.problem import Problem
from gradiometer.problems.registry import load
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run, check_run
from gradiometer.run.trust import check_trust

AT_THE_END = "at the end of `with watch(…) as w:`, with the"
# The lines that do the work of a command in the user's own program, for a watched run.
IN_YOUR_PROGRAM = {
    "measure certificate": (
        f"Add the line `w.certify(train)` to it, {AT_THE_END} training examples."
    ),
    "measure sharpness": (
        f"Add the line `w.sharpness(train)` to it, {AT_THE_END} training examples."
    ),
    "ensemble": (
        "Add the line `w.snapshot()` to it, at the end of each cycle of the learning rate, and "
        f"`w.ensemble(test)` {AT_THE_END} test examples."
    ),
    "learn sample": (
        "Use `gradiometer.exploration.chains.sample(model, loss, train, sampler)` in it."
    ),
    "fork": (
        "Add the line `w.fork(batches=loader, alternatives=['rate 2x'], horizon='500 updates')` to "
        "it, between two updates, or give --loop MODULE:FUNCTION, a function that returns its "
        "Loop."
    ),
    "resume": (
        "Save `w.state_dict()` in your checkpoints, and call `w.load_state_dict(…)` before the "
        "first step."
    ),
}


def configuration_of(run: Run, verb: str) -> Configuration:
    """The configuration of a run of `train`, for the command `verb`. A watched run is refused with
    its own line."""
    check_run(run)
    if not run.has_program_with_model:
        raise BadArgument(
            f"`{run.path}` has gradient norms that were given as numbers: it has no model to run."
        )
    if not isinstance(run.configuration, Configuration):
        raise BadArgument(
            f"`{run.path}` is a watched run: only your program has its model and data. "
            f"{IN_YOUR_PROGRAM[verb]}"
        )
    check_trust(run.manifest, run.path, verb)
    return run.configuration


def problem_for(configuration: Configuration) -> Problem:
    """The problem that a configuration names."""
    c = configuration
    return load(c.problem, model=c.model, data_dir=c.data_dir, seed=c.seed)


def problem_of(run: Run, verb: str) -> Problem:
    """The problem of a run. Its data must be unchanged. The arguments are those of
    `configuration_of`."""
    problem = problem_for(configuration_of(run, verb))
    recorded = run.manifest.get("problem", {}).get("fingerprint")
    if problem.fingerprint != recorded:
        raise BadArgument(
            f"`{run.path}` was trained on data with fingerprint {recorded}, and {problem.name} now "
            f"has {problem.fingerprint}: a run is resumed on the same data."
        )
    return problem
