"""The cases of the clinic, from the files in `parts`: two tables for each part.

A healthy row gives a network, data, steps and batch, and the rate of each optimizer and schedule
(or "-"). The rates come from a grid of about a factor of three, at 400 to 500 steps and one seed;
those that it left out are completed by analogy. A sick row names one of these trainings and what is
done to it, with how much of it.

The parts share no network and no data. Thresholds are chosen on the development half. The judged
half was judged again and again while rules were made. The three fresh parts were made before rules
saw them, and judged once; the rules were changed after the first two.
"""

import tomllib
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from clinic.illnesses import BY_A_PERSON, GAINS, ILLNESSES
from clinic.recipe import Recipe

HALVES = (
    "development",
    "judged",
    "fresh",
    "second_fresh",
    "third_fresh",
    "fourth_fresh",
    "fifth_fresh",
    "sixth_fresh",
    "seventh_fresh",
    "eighth_fresh",
    "ninth_fresh",
    "tenth_fresh",
    "eleventh_fresh",
    "twelfth_fresh",
)
LONGER = ("longer", "longer_fresh", "longer_second", "longer_third")
"""Trainings of 3,000 and more updates, so that a tenth of their time pays for trials. Their networks and
data are those of earlier parts, and the four share none. Rules about trials were chosen on the first,
the second and the third were judged, and the fourth is fresh: its rates are the best of a grid of a
factor of two."""
FEWER_CURED = (
    "sixth_fresh",
    "seventh_fresh",
    "eighth_fresh",
    "ninth_fresh",
    "tenth_fresh",
    "twelfth_fresh",
)
SHORT = (*FEWER_CURED, "eleventh_fresh")
"""The parts for a figure that a busy machine reproduces in minutes. Every second healthy training is
watched in two lines."""
MILD = (*LONGER, "fourth_fresh", "fifth_fresh", *SHORT)
"""The parts whose illnesses are mild to strong: a cure that gains 2 % on two seeds earns a place, where
it is 10 % in the others. Of their sick trainings every second one is also judged after its cure, of
`FEWER_CURED` every fourth."""
SEEDS = (1, 2)
"""The seeds on which gains are measured, of longer trainings the first. They are the same for all
cases, which so share their cured trainings."""


@dataclass(frozen=True)
class Case:
    """A training of the clinic.

    Args:
        name: Its row in the table.
        half: One of `HALVES`.
        recipe: What is trained.
        healthy: What is trained when nothing is wrong: for a healthy case the recipe itself.
        illnesses: Names of what is wrong and how much of it, none for a healthy case.
        seed: Of the watched training.
        alone: True if it is watched in two lines: without `loss=`, batch and evaluations.
    """

    name: str
    half: str
    recipe: Recipe
    healthy: Recipe
    illnesses: tuple[tuple[str, float], ...]
    seed: int
    alone: bool = False

    @property
    def claims(self) -> tuple[str, ...]:
        """The claims that are right."""
        return tuple(ILLNESSES[name].claim for name, _ in self.illnesses)

    @property
    def only_by_a_person(self) -> bool:
        """True if no function can cure one of its illnesses: said beforehand, not after the
        judgement."""
        return bool(BY_A_PERSON & set(self.claims))


def healthy_recipes(table: str) -> dict[str, Recipe]:
    """The recipes of a healthy table, by "network data optimizer schedule"."""
    head, *rows = table.strip().splitlines()
    columns = head.split()[4:]
    recipes = {}
    for row in rows:
        network, data, steps, batch, *rates = row.split()
        for column, rate in zip(columns, rates, strict=True):
            if rate == "-":
                continue
            optimizer, schedule = column.split("/")
            recipes[f"{network} {data} {optimizer} {schedule}"] = Recipe(
                network,
                data,
                optimizer,
                float(rate),
                schedule,
                steps=int(steps),
                batch=int(batch),
                gain=GAINS.get(network, 1.0),
            )
    return recipes


def sick_case(row: str, half: str, healthy: dict[str, Recipe]) -> Case:
    """The case of a row such as "gru markov adamw cosine : rate_low 8 + labels_noisy 0.4". Two
    colons mean that it is watched in two lines.

    The seed comes from the row itself, so that another row does not change it.
    """
    alone = " :: " in row
    base, listed = row.split(" :: " if alone else " : ")
    illnesses = []
    for words in listed.split(" + "):
        name, much = words.split()
        illnesses.append((name, float(much)))
    well = healthy[base]
    for name, much in illnesses:
        well = ILLNESSES[name].prepare(well, much)
    sick = well
    for name, much in illnesses:
        sick = ILLNESSES[name].spoil(sick, much)
    # the healthy trainings of a longer part are those that its sick ones are compared with
    seed = seeds_of(half)[0] if half in LONGER else zlib.crc32(row.encode())
    return Case(f"{base}: {listed}", half, sick, well, tuple(illnesses), seed, alone)


def seeds_of(half: str) -> tuple[int, ...]:
    """The seeds on which the gains of a part are measured."""
    return SEEDS[:1] if half in LONGER else SEEDS


def partly_cured(case: Case) -> list[Recipe]:
    """A case of two illnesses with only one of them, for each of the two."""
    return [ILLNESSES[name].spoil(case.healthy, much) for name, much in case.illnesses]


@cache
def sick_cases(half: str) -> tuple[Case, ...]:
    """The sick trainings of a half."""
    healthy, rows = _tables(half)
    return tuple(sick_case(row, half, healthy) for row in rows)


@cache
def well_cases(half: str) -> tuple[Case, ...]:
    """The healthy trainings of a half, and the sick ones after their cure, each with
    another seed."""
    healthy, _ = _tables(half)
    cases = [
        Case(name, half, recipe, recipe, (), int(half in LONGER), half in SHORT and place % 2 == 0)
        for place, (name, recipe) in enumerate(healthy.items())
    ]
    every = 4 if half in FEWER_CURED else 2 if half in MILD else 1
    # the table of longer trainings has enough
    for case in () if half in LONGER else sick_cases(half)[::every]:
        cases.append(replace(case, name=f"cured {case.name}", recipe=case.healthy, illnesses=()))
    return tuple(cases)


def _tables(half: str) -> tuple[dict[str, Recipe], list[str]]:
    tables = tomllib.loads(Path(__file__).with_name("parts").joinpath(f"{half}.toml").read_text())
    rows = [
        row.strip()
        for row in tables["sick"].strip().splitlines()
        if row.strip() and not row.strip().startswith("#")
    ]
    return healthy_recipes(tables["healthy"]), rows
