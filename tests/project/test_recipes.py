"""The bank of recipes: each is trained for some updates, and its table can be taken up again."""

from dataclasses import replace

import pytest
import torch
from recipes import data
from recipes.bank import RECIPES
from recipes.changes import ALL, FAULTS, LISTED
from recipes.data import Absent, Data
from recipes.faults import SETS, Fault, read
from recipes.gains import Gain, page
from recipes.judging import Case, Verdict, cases, followed, verdict
from recipes.losses import carried_on
from recipes.recipe import Recipe
from recipes.results import HEALTHY, Results, Training, digest
from recipes.training import Stream, train
from recipes.watched import in_two_lines, with_loss


def short(name: str, updates: int = 3) -> Recipe:
    """A recipe for some updates, or a skipped test where its data are not on this machine."""
    try:
        RECIPES[name].rows()
    except Absent as error:
        pytest.skip(str(error))
    return replace(RECIPES[name], updates=updates)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_judged_on_rows_that_it_never_saw(name):
    recipe = short(name)
    rows = recipe.rows()
    ended = train(recipe, 0)
    assert len(ended.losses) == 3
    assert torch.tensor([*ended.losses, ended.held_out]).isfinite().all()
    assert len(rows.held_out[0]) >= 150
    assert len(rows.order) == len(rows.train[0])
    assert train(recipe, 0) == ended, "the same seed must give the same bits"


@pytest.mark.parametrize("name", ["tabular", "nanogpt", "word_lstm"])
@pytest.mark.parametrize("lines", [2, 3])
def test_a_watch_leaves_the_bits_of_a_recipe(name, lines, tmp_path):
    recipe = short(name, 20)
    watching = in_two_lines(tmp_path) if lines == 2 else with_loss(tmp_path, recipe.updates)
    assert train(recipe, 0, watching) == train(recipe, 0)


def test_every_change_and_fault_changes_some_recipe_and_no_change_is_empty():
    for change in ALL.values():
        changed = [change(recipe) for recipe in RECIPES.values()]
        assert any(changed)
        for before, after in zip(RECIPES.values(), changed, strict=True):
            assert after is None or digest(after) != digest(before)


def test_a_decay_that_is_added_ends_at_zero_and_a_floor_does_not():
    recipe = RECIPES["vae"]
    assert recipe.factor(recipe.updates) == 1
    assert LISTED["decay to zero"](recipe).factor(recipe.updates) == 0
    assert LISTED["decay to zero"](RECIPES["vit"]) is None
    high = FAULTS["lowest rate 0.3"](RECIPES["vit"])
    assert high.factor(high.updates) == pytest.approx(0.3)


def test_rows_that_are_not_shuffled_come_in_the_order_of_their_classes(monkeypatch):
    seen = []
    recipe = replace(short("sklearn_mlp", 7), shuffled=False)

    def loss(model, batch):
        seen.extend(batch[1].tolist())
        return RECIPES["sklearn_mlp"].loss(model, batch)

    train(replace(recipe, loss=loss, held_out_loss=RECIPES["sklearn_mlp"].loss), 0)
    assert seen == sorted(seen) and len(seen) == 1_400


def test_the_state_of_an_lstm_goes_on_from_batch_to_batch():
    recipe = short("word_lstm")
    stream = Stream(recipe, recipe.rows(), 0)
    batches = iter(stream)
    assert len(next(batches)) == 2
    model = recipe.network(0.0)
    _, stream.state = carried_on(model, next(batches))
    *_, h, c = next(batches)
    assert h.shape == c.shape == (recipe.batch, 1, model.width)
    assert h.abs().sum() > 0
    rows = recipe.rows().train
    assert torch.equal(rows[1][0, -1:], rows[0][recipe.batch, :1]), "a row goes on below"


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A table of one recipe that is quickly trained."""
    quick = replace(RECIPES["sklearn_mlp"], updates=30)
    monkeypatch.setitem(RECIPES, "sklearn_mlp", quick)
    return Results(tmp_path / "results.jsonl")


def test_a_table_that_was_killed_goes_on_where_it_was(table):
    first, second = (Training("sklearn_mlp", change, 0) for change in (HEALTHY, "rate x4"))
    loss = table.train(first)
    table.train(second)
    whole = table.path.read_text()
    table.path.write_text(whole[:-20])  # the kill tears the second line

    again = Results(table.path)
    assert again.loss(first) == loss
    assert again.loss(second) is None
    assert again.train(second) == table.loss(second)
    assert Results(table.path).loss(second) == table.loss(second)


def test_a_recipe_that_was_changed_is_trained_again(table, monkeypatch):
    table.train(Training("sklearn_mlp", HEALTHY, 0))
    monkeypatch.setitem(RECIPES, "sklearn_mlp", replace(RECIPES["sklearn_mlp"], rate=0.1))
    assert table.loss(Training("sklearn_mlp", HEALTHY, 0)) is None


def test_the_page_says_what_a_change_gains_and_what_was_not_trained(table):
    for change in (HEALTHY, "rate x4"):
        for seed in (0, 1):
            table.train(Training("sklearn_mlp", change, seed))
    told = page(table)
    section = told.split("## sklearn_mlp")[1]
    assert "| rate x4 |" in section and "rate x2" not in section.split("##")[0]
    assert "Complete: 4 of" not in told and "Complete: 2 of" in told, "healthy ones are no change"
    assert "Not trained yet." in told


def test_a_gain_is_sure_only_on_both_seeds_and_beyond_the_noise():
    assert Gain("", "", (1.0, 1.0), (0.05, 0.07), 0.01).is_sure
    assert not Gain("", "", (1.0,), (0.07,), 0.01).is_sure
    assert not Gain("", "", (1.0, 1.0), (0.05, 0.07), 0.10).is_sure
    assert not Gain("", "", (1.0, 1.0), (-0.01, 0.20), 0.01).is_sure


def test_a_fault_is_kept_if_its_cure_gains_on_both_seeds_and_it_does_not_diverge():
    assert Fault("", "", (0.05, 0.2)).is_kept
    assert not Fault("", "", (0.2,)).is_kept
    assert not Fault("", "", (0.04, 0.2)).is_kept
    assert not Fault("", "", (0.2, 1.0)).is_kept


def test_the_sets_share_no_recipe_and_have_known_faults_at_most_four():
    sets = [read(path.stem) for path in sorted(SETS.glob("*.toml"))]
    listed = [recipe for each in sets for recipe in each.faults]
    assert sorted(listed) == sorted(RECIPES)
    for each in sets:
        for recipe, changes in each.faults.items():
            assert len(changes) <= 4
            assert all(ALL[change](RECIPES[recipe]) for change in changes)


def test_data_that_are_missing_are_named_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "LICENCES", tmp_path)
    data.licences.cache_clear()
    with pytest.raises(Absent, match=r"No licences in .*base-files"):
        data.licences()
    data.licences.cache_clear()


def test_held_out_rows_of_a_divided_table_are_not_trained_on():
    rows = torch.arange(100)
    parts: Data = data.divided((rows,), 20, rows, "")
    assert not set(parts.train[0].tolist()) & set(parts.held_out[0].tolist())
    assert torch.equal(parts.order, parts.train[0])


def test_the_cases_of_a_set_are_its_recipes_healthy_and_with_their_faults():
    faults = read("records").faults
    found = list(cases("records"))
    assert len(found) == len(faults) + sum(map(len, faults.values()))
    assert all(case.settings().name == case.recipe for case in found)


def test_a_recipe_far_below_its_rate_is_said_to_be_and_followed():
    slow = replace(short("tabular", 600), rate=1e-6)
    said = verdict(slow, 0, "two lines")
    assert said.headline == "rate_low"
    assert followed(slow, said).rate > slow.rate


@pytest.mark.parametrize(
    ("headline", "change", "name", "value"),
    [
        ("rate_low", "rate 4x", "rate", 0.004),
        ("clip_small", "clip 2", "clip", 2.0),
        ("batch_small", "batch 2x, rate sqrt", "batch", 512),
        ("stopped_early", "train for 4,000 steps", "updates", 4_000),
        ("unshuffled", "", "shuffled", True),
        ("dropout", "", "dropout", 0.1),
    ],
)
def test_what_a_verdict_says_is_followed(headline, change, name, value):
    settings = replace(RECIPES["tabular"], shuffled=False, dropout=0.5, clip=0.1)
    after = followed(settings, Verdict(headline, change))
    assert getattr(after, name) == pytest.approx(value)


def test_a_verdict_that_names_no_change_is_not_followed():
    assert followed(RECIPES["tabular"], Verdict("wrong_labels", "")) is None
    assert followed(RECIPES["tabular"], Verdict("unshuffled", "")) is None, "they are shuffled"
    assert Case("tabular", "rate x4").settings().rate == pytest.approx(0.004)
