"""The steps whose iterates the trajectory gauge stores."""

from gradiometer.convergence.trajectory.trajectory import keeps


def kept_steps(steps: int) -> list[int]:
    """Those of a run of this length, in order."""
    return [step for step in range(steps) if keeps(step)]
