"""The clinic from the command line: `python -m clinic list|earn|judge|rates|learned`, from the
folder `benchmarks`."""

import argparse
import tempfile
import time
from pathlib import Path

from clinic import earning
from clinic.bench import Bench
from clinic.cases import HALVES, LONGER, sick_cases, well_cases
from clinic.judging import judge
from clinic.learned import judge_learned
from clinic.rates import TABLES, judge_rates


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="clinic", description=__doc__)
    parser.add_argument("command", choices=("list", "earn", "judge", "rates", "learned"))
    parser.add_argument("--half", choices=(*HALVES, *LONGER), default="development")
    parser.add_argument(
        "--table", choices=TABLES, default=TABLES[-1], help="Good rates for `rates`."
    )
    parser.add_argument(
        "--runs", type=Path, help="Folder that keeps the trainings. By default a temporary one."
    )
    parser.add_argument("--processes", type=int, help="Trainings at a time. By default one a core.")
    parser.add_argument("--followed", action="store_true", help="Also follow each headline's cure.")
    parser.add_argument(
        "--trials",
        type=float,
        default=0.0,
        help="Judge also with this share of the training time for trials, such as 0.1.",
    )
    parser.add_argument(
        "--gate", action="store_true", help="Fail if a number is not as it must be."
    )
    parser.add_argument(
        "--verbose", action="store_true", help="Also print each case whose headline is wrong."
    )
    asked = parser.parse_args()
    if asked.command == "list":
        show_cases(asked.half)
        return
    began = time.perf_counter()
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(asked.runs or Path(temporary), asked.processes)
        if asked.command == "earn":
            rows = earning.earn(bench, asked.half)
            earning.show(rows)
            earning.write(rows)
        elif asked.command == "rates":
            missed = judge_rates(bench, asked.table, verbose=asked.verbose)
        elif asked.command == "learned":
            judge_learned(bench, asked.half)
        else:
            missed = judge(
                bench,
                asked.half,
                follow=asked.followed,
                verbose=asked.verbose,
                trials=asked.trials,
            )
    print(f"{time.perf_counter() - began:.0f} s")
    if missed:
        print(f"not as it must be: {', '.join(missed)}")
    if missed and asked.gate:
        raise SystemExit(1)


def show_cases(half: str) -> None:
    """Print the names of the cases of a half."""
    for case in sick_cases(half):
        print(f"{case.name}  ->  {', '.join(case.claims)}")
    print(f"{len(sick_cases(half))} sick, {len(well_cases(half))} healthy or cured")


if __name__ == "__main__":
    main()
