"""The clinic's tables and trainings: every case is what its row says, and the halves
share nothing."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from clinic.bench import Bench, Wanted, gain
from clinic.cases import HALVES, LONGER, MILD, partly_cured, sick_cases, well_cases
from clinic.catalogue import DATA, NETWORKS, data_of
from clinic.earning import EARNED
from clinic.illnesses import BY_A_PERSON, CURES, ILLNESSES, follow
from clinic.judging import Said, marks_of, show_sick
from clinic.learned import Row, learned, numbers_of, show_learned
from clinic.rates import TABLES, trainings, until
from clinic.recipe import build, train

from gradiometer import Run
from gradiometer.loop import forks_of
from gradiometer.problems.images import fashion_mnist
from gradiometer.verdict.triage.level import level_of
from gradiometer.verdict.triage.signs import Signs

CLAIMS = {
    "rate_low",
    "rate_high",
    "momentum_rate",
    "no_decay",
    "decay_early",
    "schedule_unit",
    "stopped_early",
    "batch_small",
    "batch_large",
    "overfit",
    "unshuffled",
    "unscaled",
    "vanishing",
    "exploding",
    "dead_relu",
    "no_gradient",
    "softmax_twice",
    "eval_mode",
    "dropout",
    "leak",
    "labels_random",
    "labels_noisy",
    "clip_small",
    "weight_decay",
    "zero_grad",
    "accumulation",
    "bad_batch",
    "rate_burst",
    "nan_example",
    "unstable",
}
SICK = [case for half in (*HALVES, *LONGER) for case in sick_cases(half)]
SHORT = {"steps": 30}
ON_GENERATED_DATA = [
    case for case in SICK if case.recipe.data in ("clusters", "friedman", "waves", "tones")
]


def first_of_each_illness():
    """One case of each row of the table of illnesses, on data that needs no file."""
    found = {}
    for case in ON_GENERATED_DATA:
        found.setdefault(case.name.split(": ")[1].split()[0], case)
    return list(found.values())


def test_two_illnesses_that_cannot_both_be_seen_are_also_counted_apart(capsys):
    first, second = [case for case in SICK if len(case.claims) == 2][:2]
    one, other = second.claims
    show_sick(
        [
            (first, Said(first.claims[0], dict.fromkeys(first.claims, ()))),
            (second, Said(one, {one: ()}, unseen=frozenset({other}))),
        ]
    )
    printed = capsys.readouterr().out
    assert "both of two illnesses named: 1 of 2" in printed
    assert "both of two illnesses named that can both be seen: 1 of 1" in printed


def test_the_clinic_has_what_it_promises():
    claims = {claim for case in SICK for claim in case.claims}
    assert len(SICK) >= 80
    assert len(claims) >= 25
    assert sum(len(case.claims) == 2 for case in SICK) >= 15
    assert sum(len(well_cases(half)) for half in HALVES) >= 150


@pytest.mark.parametrize("case", SICK, ids=lambda case: case.name)
def test_a_sick_recipe_is_not_the_healthy_one_and_its_illness_is_a_claim(case):
    assert case.recipe != case.healthy
    assert set(case.claims) <= CLAIMS
    if len(case.claims) == 2:
        alone = partly_cured(case)
        assert len({*alone, case.recipe, case.healthy}) == 4


def test_every_illness_that_a_function_cures_has_a_cure_that_changes_the_sick_recipe():
    for case in SICK:
        for claim in case.claims:
            if claim in BY_A_PERSON:
                assert case.only_by_a_person
                assert follow(claim, (), case.recipe) is None
            else:
                assert follow(claim, (), case.recipe) not in (None, case.recipe)


def test_every_claim_of_an_illness_is_cured_by_a_function_or_by_a_person():
    assert {illness.claim for illness in ILLNESSES.values()} <= set(CURES) | BY_A_PERSON <= CLAIMS


@pytest.mark.parametrize("halves", [HALVES, LONGER], ids=["parts", "longer trainings"])
def test_the_parts_share_no_network_and_no_data(halves):
    used = []
    for half in halves:
        recipes = [case.recipe for case in (*sick_cases(half), *well_cases(half))]
        used.append(({recipe.network for recipe in recipes}, {recipe.data for recipe in recipes}))
    for one, other in combinations(used, 2):
        assert not one[0] & other[0]
        assert not one[1] & other[1]


def test_longer_trainings_are_as_many_and_as_long_as_promised():
    sick = [case for half in LONGER for case in sick_cases(half)]
    well = [case for half in LONGER for case in well_cases(half)]
    assert len(sick) >= 24 and len(well) >= 20
    assert all(3_000 <= case.recipe.steps <= 12_000 for case in (*sick, *well))


def test_every_case_has_its_network_and_its_data():
    """A part lost a network and a data set that only one of its healthy rows had, and could not be
    judged any more."""
    for half in (*HALVES, *LONGER):
        for case in (*sick_cases(half), *well_cases(half)):
            assert case.recipe.network in NETWORKS and case.recipe.data in DATA, case.name


@pytest.mark.parametrize(
    "name",
    [
        "symptoms",
        "visits",
        "fares",
        "terrain",
        "grades",
        "delays",
        "tariffs",
        "calls",
        "instruments",
        "journals",
        "flats",
        "patients",
        "premiums",
        "forks_of_a_road",
    ],
)
def test_a_guess_is_the_best_constant_answer(name):
    """Gaps are measured from the level of a guess, which a loss of its own must say itself."""
    data = data_of(name)
    targets = data.train[1]
    constant = data.constant() if hasattr(data, "constant") else targets.mean(dim=0)
    best = float(data.loss(constant.expand(len(targets), -1), targets))
    assert data.guess() == pytest.approx(best, rel=1e-3)
    for change in (-0.05, 0.05):
        assert best < float(data.loss((constant + change).expand(len(targets), -1), targets))


def test_names_and_trainings_are_different_within_a_half():
    for half in (*HALVES, *LONGER):
        cases = [*sick_cases(half), *well_cases(half)]
        assert len({case.name for case in cases}) == len(cases)
        assert len({(case.recipe, case.seed) for case in cases}) == len(cases)


def test_every_kept_case_earned_its_place():
    rows = {row["case"]: row for row in json.loads(EARNED.read_text())}
    assert set(rows) == {case.name for case in SICK}
    for row in rows.values():
        least = 0.02 if row["half"] in MILD else 0.1
        assert row["earns"] and min(row["gains"]) >= least


@pytest.mark.parametrize("case", first_of_each_illness(), ids=lambda case: case.name)
def test_an_illness_trains_and_differs_from_its_cure(case):
    sick = train(replace(case.recipe, **SHORT), seed=0)
    well = train(replace(case.healthy, **SHORT), seed=0)
    assert len(sick.losses) >= 30
    differs_only_later = {"decay_early", "stopped_early", "bad_batch", "rate_burst", "overfit"}
    if not differs_only_later & set(case.claims):
        assert (sick.fresh, sick.losses) != (well.fresh, well.losses)


def test_watch_leaves_a_training_of_the_clinic_as_it_was(tmp_path):
    case = next(case for case in ON_GENERATED_DATA if case.claims == ("rate_low",))
    recipe = replace(case.recipe, steps=40, schedule="constant")
    bench = Bench(tmp_path, processes=1)
    wanted = [Wanted(recipe, 3, watched=is_watched) for is_watched in (False, True)]
    wanted.append(replace(wanted[1], trials=50.0))
    bench.train(wanted)
    plain, watched, tried = (bench.outcome(each) for each in wanted)
    assert plain == watched == tried
    assert bench.run(wanted[1]).is_dir()
    assert forks_of(Run.open(bench.run(wanted[2])))
    assert tried.spent > 0 == watched.spent


def test_an_outcome_is_trained_once(tmp_path):
    recipe = replace(ON_GENERATED_DATA[0].healthy, **SHORT)
    bench = Bench(tmp_path, processes=1)
    bench.train([Wanted(recipe, 0)])
    path = Wanted(recipe, 0).folder(tmp_path) / "outcome.json"
    before = path.stat().st_mtime_ns
    bench.train([Wanted(recipe, 0)])
    assert path.stat().st_mtime_ns == before


def test_marks_of_a_verdict():
    case = next(case for case in SICK if case.claims == ("rate_low",))
    assert marks_of(case, Said("rate_low", {"rate_low": ()})) == (True, True, False, False)
    assert marks_of(case, Said("rate_high", {"rate_high": (), "rate_low": ()})) == (
        False,
        True,
        True,
        False,
    )
    assert marks_of(case, Said("undecided", {})) == (False, False, False, True)


def test_a_cure_with_a_number_is_followed_as_it_is_written():
    recipe = ON_GENERATED_DATA[0].healthy
    assert follow("rate_high", ("rate 0.25x",), recipe) == replace(recipe, rate=recipe.rate / 4)
    small = follow("batch_small", ("batch 4x, rate sqrt",), recipe)
    assert small == replace(recipe, batch=4 * recipe.batch, rate=2 * recipe.rate)
    large = follow("batch_large", ("batch 0.5x",), recipe)
    assert large == replace(recipe, batch=recipe.batch // 2, steps=2 * recipe.steps)
    assert follow("stopped_early", ("train for 1,600 steps",), recipe) == replace(
        recipe, steps=1_600
    )
    assert follow("weight_decay", ("weight decay 0.01",), recipe) == replace(
        recipe, weight_decay=0.01
    )
    assert follow("no_gradient", ("remove `detach()`",), recipe) is None  # nothing is detached here


def test_gains_of_trainings_that_ended_in_nan():
    assert gain(2.0, 1.0) == pytest.approx(0.5)
    assert gain(float("inf"), 1.0) == 1
    assert gain(1.0, float("inf")) == -float("inf")


@pytest.mark.skipif(
    not Path(fashion_mnist.DEBIAN).exists(), reason="Fashion-MNIST is not on this machine"
)
def test_some_cases_have_five_million_parameters():
    large = [case for case in SICK if case.recipe.network in ("wide", "broad")]
    assert len(large) >= 3
    for case in large:
        model = build(case.recipe, data_of(case.recipe.data))
        assert sum(parameter.numel() for parameter in model.parameters()) >= 5_000_000
        assert case.recipe.steps * case.recipe.batch <= 5_000


def test_detached_and_forgotten_parameters_do_not_learn():
    for reason in ("detached", "optimizer"):
        case = next(
            case for case in SICK if case.recipe.frozen == reason and case.recipe.data != "clothes"
        )
        torch.manual_seed(0)
        assert train(replace(case.recipe, steps=5), seed=0).losses


@pytest.mark.parametrize("table", TABLES)
def test_the_rates_are_judged_on_trainings_that_no_part_has(table):
    """The second table has the networks and data of the tenth part, which no other part has, and
    the third one pairs of what parts have."""
    good = [each for each in trainings(table) if each.kind == "good"]
    assert len(good) >= 150
    assert len({(each.recipe.network, each.recipe.data) for each in good}) >= 10
    assert {each.recipe.optimizer for each in good} == {"sgd", "momentum", "adamw"}
    others = [half for half in HALVES if (table, half) != ("rates_fresh", "tenth_fresh")]
    parts = [case.recipe for half in others for case in (*sick_cases(half), *well_cases(half))]
    pairs = {(recipe.network, recipe.data) for recipe in parts}
    assert not {(each.recipe.network, each.recipe.data) for each in good} & pairs
    if table != "rates_pairs":
        assert not {each.recipe.network for each in good} & {recipe.network for recipe in parts}
        assert not {each.recipe.data for each in good} & {recipe.data for recipe in parts}
    others = [each for each in trainings(table) if each.kind != "good"]
    assert all(each.recipe.rate != each.good.rate for each in others)


def test_the_tables_of_rates_share_no_network_and_no_data():
    used = [
        {name for each in trainings(table) for name in (each.recipe.network, each.recipe.data)}
        for table in TABLES
    ]
    assert all(not one & other for one, other in combinations(used, 2))


def test_the_record_of_the_first_steps_is_that_of_a_shorter_training(tmp_path):
    recipe = replace(trainings(TABLES[0])[0].recipe, schedule="constant", steps=130)
    longer, shorter = (
        Signs.of(Run.open(next(path for path in folder.iterdir() if path.is_dir())))
        for folder in (tmp_path / "longer", tmp_path / "shorter")
        if train(recipe if folder.name == "longer" else replace(recipe, steps=80), 0, out=folder)
    )
    first = until(longer, 80)
    assert not first.has_ended and first.steps == shorter.steps == 80
    assert first.losses.tolist() == shorter.losses.tolist()
    assert first.looks.tolist() == shorter.looks.tolist()
    assert first.distances.tolist() == shorter.distances.tolist()
    assert first.edges[:, 0].max() < 80 < longer.edges[:, 0].max()
    assert first.strides == pytest.approx(shorter.strides)


def test_a_classifier_learns_a_cause_that_a_number_tells_from_other_parts_alone(capsys):
    """Each cause has a mark in one number, which no rule knows."""
    sick = [case for case in sick_cases("eighth_fresh") if len(case.claims) == 1][:30]
    kinds = {case.claims[0]: float(place) for place, case in enumerate(sick)}

    def rows_of(half):
        return [
            Row(replace(case, half=half), {"mark": kinds[case.claims[0]]}, {}, "undecided")
            for case in sick
        ] + [Row(replace(case, half=half, illnesses=()), {}, {}, "healthy") for case in sick[:10]]

    teaching, judged = rows_of("ninth_fresh"), rows_of("eighth_fresh")
    show_learned([*teaching, *judged], ["eighth_fresh"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("rules") and "right   0%" in said[0]
    assert all("of 30;  a claim on   0% of 10 healthy" in line for line in said)
    assert said[3].startswith("record, at 0.5") and "right 100%" in said[3]
    chances = learned(teaching, judged, with_rules=False)
    assert max(chances[-1], key=chances[-1].__getitem__) == "healthy"


def test_numbers_of_a_record_are_those_that_it_has():
    losses = np.linspace(2.0, 1.0, 200)
    signs = Signs(losses=losses, rates=np.full(200, 0.1), family="sgd")
    numbers = numbers_of(signs, level_of(signs))
    assert numbers["rate"] == pytest.approx(np.log(0.1))
    assert numbers["loss 0"] == pytest.approx(np.log(losses[:4].mean() / level_of(signs).value))
    assert numbers["fall of the second half"] == pytest.approx(
        np.log(losses[100:125].mean() / losses[190:].mean())
    )
    assert "test" not in numbers and np.isnan(numbers["edge"])
