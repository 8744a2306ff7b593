"""The recipes from the command line: `python -m recipes list|gains|page|faults|judge`, from the folder
`benchmarks`.

list    prints the recipes
gains   trains what is missing in the table, and writes RESULTS.md
page    writes RESULTS.md from what was trained
faults  prints which faults each recipe has, and with --write COMMIT puts them into sets/
judge   prints what the verdict says about each case of a set, and what following it gains
"""

import argparse

import torch

from recipes import faults, gains, judging
from recipes.bank import RECIPES
from recipes.results import Results
from recipes.table import fill


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        prog="recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("list", "gains", "page", "faults", "judge"))
    parser.add_argument("--write", metavar="COMMIT", help="The commit that trained the faults.")
    parser.add_argument("--set", default="records", help="The set that is judged: records, judged.")
    parser.add_argument("--way", choices=judging.WAYS, default=judging.WAYS[0])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results()
    if asked.command == "list":
        for recipe in RECIPES.values():
            print(f"{recipe.name:18} {recipe.published}")
        return
    if asked.command == "faults":
        faults.show(results)
        if asked.write:
            faults.write(results, asked.write)
        return
    if asked.command == "judge":
        judging.judge(asked.set, asked.way)
        return
    if asked.command == "gains":
        fill(results)
    gains.write(results)


if __name__ == "__main__":
    main()
