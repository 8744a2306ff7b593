"""Every statement of the lecture, in order."""

from gradiometer.errors import BadArgument
from gradiometer.lab.lecture.s01 import S1
from gradiometer.lab.lecture.s02 import S2
from gradiometer.lab.lecture.s03 import S3
from gradiometer.lab.lecture.s04 import S4
from gradiometer.lab.lecture.s05 import S5
from gradiometer.lab.lecture.s06 import S6
from gradiometer.lab.lecture.s07 import S7
from gradiometer.lab.lecture.s08 import S8
from gradiometer.lab.lecture.s09 import S9
from gradiometer.lab.lecture.s10 import S10
from gradiometer.lab.lecture.s11 import S11
from gradiometer.lab.lecture.s12 import S12
from gradiometer.lab.lecture.statement import Statement

# S1 to S12.
STATEMENTS: dict[str, Statement] = {
    statement.name: statement for statement in (S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12)
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
