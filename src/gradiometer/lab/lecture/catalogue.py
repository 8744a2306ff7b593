"""Every statement of the lecture, in order."""

from importlib import import_module

from gradiometer.errors import BadArgument
from gradiometer.lab.lecture.statement import Statement

# S1 to S12, each in the file of its number.
STATEMENTS: dict[str, Statement] = {
    f"S{number}": getattr(import_module(f"gradiometer.lab.lecture.s{number:02d}"), f"S{number}")
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
