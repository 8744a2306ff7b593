"""The records from the command line: `python -m records collect|pool|reliability`, from the folder
`benchmarks`.

collect      judges the trainings of a set that were not judged, and follows each of their claims
pool         writes the probabilities that the package ships
reliability  prints how well stated probabilities hold on trainings that they were not counted on
"""

import argparse
import tempfile
from pathlib import Path

import torch
from clinic.cases import HALVES
from recipes.judging import WAYS
from recipes.results import Results

from records import on_clinic, on_recipes, pooling, reliability
from records.outcomes import Outcomes

RECIPES = ("records", "judged")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        prog="records", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("collect", "pool", "reliability"))
    parser.add_argument("--set", choices=(*RECIPES, *HALVES), default=RECIPES[0])
    parser.add_argument("--way", choices=WAYS, default=WAYS[1], help="How recipes are watched.")
    parser.add_argument(
        "--processes", type=int, default=1, help="Trainings of the clinic at a time."
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = Outcomes()
    if asked.command == "pool":
        pooling.write(outcomes)
    elif asked.command == "reliability":
        reliability.show(outcomes)
    elif asked.set in RECIPES:
        on_recipes.collect(asked.set, asked.way, Results(), outcomes)
    else:
        with tempfile.TemporaryDirectory() as runs:
            on_clinic.collect(asked.set, Path(runs), outcomes, asked.processes)


if __name__ == "__main__":
    main()
