"""Runs against one another: seeds are not a difference, a hundredfold learning rate is, and the
claim is counted."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from gradiometer import BadArgument, diagnose, watch
from gradiometer.cli import main
from gradiometer.measurement import Estimate
from gradiometer.problems import load
from gradiometer.report.compare import compare
from gradiometer.report.compare.contrast import NOT_TRAINING, Contrast, claim, sentence, verdict
from gradiometer.report.compare.page import groups_table, in_words, render
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import FILE, read_examples
from gradiometer.train import train
from gradiometer.verdict.words.say import say
from report_run import run_in


def run_with(
    folder: Path, loss: float, seed: int, fingerprint: str = "5f1c", **settings: Any
) -> Run:
    """A run whose training and test losses end at a level, up to what its seed does."""
    made = run_in(folder, steps=400, seed=seed, **settings)
    random = np.random.default_rng((seed, 1))
    own = loss * random.normal(1.0, 0.02)
    losses = own * random.gamma(50, 1 / 50, 400) + np.exp(-np.arange(400) / 20)
    noise = [
        {
            "kind": "reading",
            "gauge": "noise",
            "step": step,
            "batch_size": 32,
            "learning_rate": 0.1,
            "moments": {
                name: [float(value) for value in random.gamma(20, level / 20, 5)]
                for name, level in (("gradient_variance", 300.0), ("gradient_norm_squared", 1.0))
            },
        }
        for step in range(0, 400, 4)
    ]
    lines = [{"kind": "losses", "from": 0, "values": losses.tolist()}, *noise]
    (made.path / "readings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = (made.path / "events.jsonl").read_text()
    replaced = re.sub(
        r'"test_loss": \{"value": [\d.]+, "low": [\d.]+, "high": [\d.]+',
        f'"test_loss": {{"value": {own}, "low": {own - 0.03}, "high": {own + 0.03}',
        text,
    )
    (made.path / "events.jsonl").write_text(replaced)
    manifest = (made.path / "run.toml").read_text()
    (made.path / "run.toml").write_text(f'{manifest}\n[problem]\nfingerprint = "{fingerprint}"\n')
    return Run.open(made.path)


def only(contrasts: tuple[Contrast, ...]) -> Contrast:
    (contrast,) = contrasts
    return contrast


def test_two_seeds_of_one_configuration_show_no_difference(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, 1.0, seed) for seed in (0, 5)]
    contrast = only(compare(runs)[1])
    assert not contrast.shown
    assert sentence(contrast).startswith(
        "No difference is shown: A and B have the same configuration with the seeds 0 and 5. "
    )
    assert "To compare configurations, change more than the seed" in claim(contrast)


def test_no_difference_is_claimed_between_seeds_however_far_apart_they_end(tmp_path: Path) -> None:
    contrast = only(compare([run_with(tmp_path, 1.0, 0), run_with(tmp_path, 2.0, 1)])[1])
    assert contrast.deciding.shown
    assert not contrast.shown


def test_a_hundredfold_learning_rate_makes_a_difference_of_these_two_runs(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path, 0.2, 0, learning_rate=0.1),
        run_with(tmp_path, 2.0, 0, learning_rate=0.001),
    ]
    contrast = only(compare(runs)[1])
    assert contrast.shown
    assert contrast.changed == {"learning_rate": (0.1, 0.001)}
    found = {difference.quantity: difference for difference in contrast.differences}
    assert list(found) == ["test_loss", "training_loss", "test_accuracy", "noise_scale"]
    for quantity in ("test_loss", "training_loss"):
        assert 1.6 < found[quantity].estimate.low < found[quantity].estimate.high < 2.0
    assert found["noise_scale"].estimate.low < 1 < found["noise_scale"].estimate.high
    assert "about these two runs" in claim(contrast)
    assert "at least 2 seeds of each" in claim(contrast)


def test_losses_of_the_same_steps_are_paired(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, 1.0, 3), run_with(tmp_path, 1.1, 3, momentum=0.5)]
    contrast = only(compare(runs)[1])
    paired = next(
        each for each in contrast.differences if each.quantity == "training_loss"
    ).estimate
    losses = [run.losses[1][300:] for run in runs]
    alone = 1.65 * np.sqrt(sum(np.var(each) / 100 for each in losses))
    assert paired.low < float(np.mean(losses[1] - losses[0])) < paired.high
    assert (paired.high - paired.low) / 2 < 0.3 * alone


def trained(out: Path, **settings: Any) -> Run:
    """A short training on real data, which is evaluated at its end."""
    digits = load("digits", model="mlp")
    return train(digits, Configuration(model="mlp", epochs=2, budget=0.0, **settings), out)


def test_trainings_with_the_same_bits_differ_by_exactly_zero(tmp_path: Path) -> None:
    contrast = only(compare([trained(tmp_path), trained(tmp_path)])[1])
    for difference in contrast.differences:
        found = difference.estimate
        assert (found.value, found.low, found.high) == (0, 0, 0)
    assert [each.quantity for each in contrast.differences] == [
        "test_loss",
        "training_loss",
        "test_accuracy",
    ]
    assert sentence(contrast) == (
        "No difference is shown: A and B have the same configuration and the same seed, 0. "
        "Their difference is 0 [0, 0] in test loss."
    )


def test_test_losses_are_paired_by_example(tmp_path: Path) -> None:
    runs = [trained(tmp_path), trained(tmp_path, learning_rate=0.12)]
    found = only(compare(runs)[1]).deciding
    singles = []
    for run in runs:
        evaluation = run.evaluations[-1]
        values = read_examples(run.path, *evaluation["examples"]["test_loss"])
        assert values is not None
        assert values.mean() == pytest.approx(evaluation["estimates"]["test_loss"]["value"])
        singles.append(values)
    differences = singles[1] - singles[0]
    error = stats.t.ppf(0.95, len(differences) - 1) * differences.std(ddof=1)
    error /= math.sqrt(len(differences))
    assert found.over == "pairs of test examples"
    assert found.estimate.value == pytest.approx(differences.mean())
    assert (found.estimate.high - found.estimate.low) / 2 == pytest.approx(error)
    # four times narrower than from two test sets of their own
    assert error < 0.25 * math.sqrt(sum(each.var() / len(each) for each in singles))


def test_without_the_losses_of_examples_the_estimates_are_compared(tmp_path: Path) -> None:
    runs = [trained(tmp_path), trained(tmp_path, learning_rate=0.12)]
    with (runs[1].path / FILE).open("r+b") as file:
        file.truncate(100)
    found = only(compare([Run.open(run.path) for run in runs])[1]).deciding
    assert found.over == "test examples"
    paired = only(compare([runs[0], trained(tmp_path, learning_rate=0.12)])[1]).deciding
    width, narrow = (each.estimate.high - each.estimate.low for each in (found, paired))
    assert width > 2 * narrow


def test_a_training_that_was_repeated_counts_once(tmp_path: Path) -> None:
    runs = [trained(tmp_path), trained(tmp_path), trained(tmp_path, learning_rate=0.12)]
    groups, contrasts = compare(runs)
    assert [group.seeds for group in groups] == ["2 runs", "seed 0"]
    assert only(contrasts).deciding.over == "pairs of test examples"
    alone = only(compare([runs[0], runs[2]])[1]).deciding
    assert only(contrasts).deciding.estimate == alone.estimate


def test_own_loops_are_paired_by_the_losses_that_were_given(tmp_path: Path) -> None:
    given = np.random.default_rng(0).exponential(size=50)
    runs = []
    for shift in (0.0, 0.1):
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
            for _ in range(5):
                optimizer.zero_grad()
                loss = model(torch.ones(8, 2)).square().mean()
                loss.backward()
                w.step(loss)
                optimizer.step()
            w.evaluated(test=torch.tensor(given + shift))
        assert w.run is not None
        runs.append(w.run)
    difference = only(compare(runs)[1]).deciding
    assert difference.over == "pairs of test examples"
    assert difference.estimate.value == pytest.approx(0.1, rel=1e-5)
    assert difference.estimate.high - difference.estimate.low < 1e-6
    assert "as far as it is recorded" in sentence(only(compare(runs)[1]))


def test_folders_are_taken_by_pattern_and_what_is_no_run_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 5):
        run_with(tmp_path, 1.0, seed)
    (tmp_path / "tuning.html").touch()
    (tmp_path / "notes").mkdir()
    page = ["--no-open", "--out", str(tmp_path / "compare.html")]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["runs", "compare", f"{tmp_path}/*", *page])
    printed = capsys.readouterr()
    assert "No difference is shown" in printed.out
    assert re.findall(r"left out: .*?(\w+(?:\.html)?) is not a run", printed.err) == [
        "notes",
        "tuning.html",
    ]
    with pytest.raises(SystemExit, match=r"^[1-9]$"):
        main(["runs", "compare", f"{tmp_path}/no*", *page])


@pytest.mark.slow
def test_pairs_of_seeds_speak_of_configurations_and_count_the_pairs_a_claim_needs(
    tmp_path: Path,
) -> None:
    small = [run_with(tmp_path, 1.0, seed) for seed in (0, 1, 2)]
    large = [run_with(tmp_path, 1.005, seed + 40, momentum=0.9) for seed in (0, 1, 2)]
    contrast = only(compare([*small, *large])[1])
    assert contrast.names == ("A", "B")
    assert contrast.deciding.over == "seeds"
    assert contrast.deciding.estimate.method == "Student over 3 and 3 runs"
    assert not contrast.shown
    assert re.search(
        r"about [\d,]+ \[\d[\d,]*, .*\] pairs of seeds would be needed", claim(contrast)
    )
    paired = [run_with(tmp_path, 1.05, seed, nesterov=True, momentum=0.9) for seed in (0, 1, 2)]
    contrast = only(compare([*small, *paired])[1])
    assert contrast.pairs == 3
    assert contrast.shown
    assert "over 3 pairs of seeds" in sentence(contrast)


@pytest.mark.slow
def test_seeds_of_each_configuration_are_a_group_with_the_mean_over_its_seeds(
    tmp_path: Path,
) -> None:
    rates = (0.1, 0.01, 0.02)
    made = [
        run_with(tmp_path, loss, seed, learning_rate=rate)
        for seed in (0, 1, 2)
        for rate, loss in zip(rates, (1.0, 1.5, 0.7), strict=True)
    ]
    groups, contrasts = compare(made)
    assert [(group.letter, group.seeds) for group in groups] == [
        ("A", "3 seeds"),
        ("B", "3 seeds"),
        ("C", "3 seeds"),
    ]
    own = [run.evaluations[-1]["estimates"]["test_loss"]["value"] for run in made[1::3]]
    found = groups[1].numbers["test_loss"]
    margin = float(stats.t.ppf(0.95, 2)) * np.std(own, ddof=1) / np.sqrt(3)
    assert found.value == pytest.approx(np.mean(own)) and found.high - found.value == pytest.approx(
        margin
    )
    assert [contrast.names for contrast in contrasts] == [("A", "B"), ("A", "C")]
    assert [contrast.pairs for contrast in contrasts] == [3, 3]
    alone = only(compare([*made[0::3], *made[1::3]])[1]).deciding.estimate
    together = contrasts[0].deciding.estimate
    assert (alone.level, together.level) == (
        0.9,
        0.95,
    ) and together.high - together.low > alone.high - alone.low
    told = verdict(groups, contrasts)
    assert told.startswith(
        "2 of 2 configurations differ from A. C (learning rate 0.02) is best: it ends 0."
    )
    assert told.endswith("lower in test loss than A (learning rate 0.1).")


def test_seeds_of_one_configuration_alone_are_summarised(tmp_path: Path) -> None:
    groups, contrasts = compare([run_with(tmp_path, 1.0, seed) for seed in (0, 1, 2)])
    assert contrasts == () and len(groups) == 1
    assert verdict(groups, contrasts).startswith(
        "All 3 runs have the same configuration and differ in their seeds."
    )


@pytest.mark.slow
def test_the_page_draws_the_mean_over_seeds_and_has_differences_only_if_configurations_differ(
    tmp_path: Path,
) -> None:
    first = [run_with(tmp_path, 1.0, seed) for seed in (0, 1)]
    page = render(
        *compare([*first, *(run_with(tmp_path, 1.5, seed, momentum=0.5) for seed in (0, 1))])
    )
    assert (
        page.count('class="row look"') == 1 and "B (2 seeds)" in page and 'id="differences"' in page
    )
    assert 'id="differences"' not in render(*compare([*first, run_with(tmp_path, 1.0, 2)]))


def test_a_number_that_is_not_known_is_said_in_words(tmp_path: Path) -> None:
    groups, _ = compare([run_with(tmp_path, 1.0, 0), run_with(tmp_path, 1.0, 0, momentum=0.5)])
    groups[1].numbers["noise_scale"] = Estimate.unknown(level=0.9, method="none", samples=1)
    (_, *known), (_, *unknown) = groups_table(groups).rows
    assert known[-1] == in_words(groups[0].numbers["noise_scale"]) and "[" in known[-1]
    assert unknown[-1] == "cannot tell yet"
    assert (
        in_words(Estimate.interval(9e4, 900.0, np.inf, level=0.9, method="t", samples=3))
        == "at least 900 (90%)"
    )


def test_a_recorded_interval_is_wider_at_a_higher_level(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, 1.0, 0), run_with(tmp_path, 1.0, 0, momentum=0.5)]
    narrow, wide = (only(compare(runs, level)[1]).deciding.estimate for level in (0.9, 0.99))
    ratio = float(stats.norm.ppf(0.995) / stats.norm.ppf(0.95))
    assert wide.level == 0.99 and wide.high - wide.low == pytest.approx(
        ratio * (narrow.high - narrow.low)
    )


def test_what_is_beside_the_point_of_training_makes_no_other_configuration(tmp_path: Path) -> None:
    assert set(NOT_TRAINING) < set(Configuration.__struct_fields__)
    runs = [run_with(tmp_path, 1.0, 0, budget=0.1), run_with(tmp_path, 1.0, 1, every=4)]
    assert only(compare(runs)[1]).changed == {}


def test_one_reading_in_a_long_run_makes_the_next_ones_far_away(tmp_path: Path) -> None:
    run = run_with(tmp_path, 1.0, 0)
    readings = (run.path / "readings.jsonl").read_text().splitlines()
    (run.path / "readings.jsonl").write_text("\n".join(readings[:2]) + "\n")
    (noise,) = [
        finding for finding in diagnose(Run.open(run.path)).findings if finding.gauge == "noise"
    ]
    assert "an interval needs about 6,000 more steps" in say(noise).seen


def test_runs_of_unequal_length_are_compared_where_both_have_been(tmp_path: Path) -> None:
    short, long = run_with(tmp_path, 1.0, 0), run_in(tmp_path, steps=800, momentum=0.9)
    with (long.path / "run.toml").open("a") as manifest:
        manifest.write('\n[problem]\nfingerprint = "5f1c"\n')
    assert only(compare([short, Run.open(long.path)])[1]).step == 400


def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path) -> None:
    run = run_with(tmp_path, 1.0, 0)
    with pytest.raises(BadArgument, match="`runs` must be 2 to 200 runs, got 1"):
        compare([run])
    with pytest.raises(BadArgument, match="`runs` must be 2 to 200 runs, got 201"):
        compare([run] * 201)
    with pytest.raises(BadArgument, match=r"twice\. Compare it with another run"):
        compare([run, Run.open(run.path)])
    with pytest.raises(BadArgument, match="must have the same data"):
        compare([run, run_with(tmp_path, 1.0, 0, fingerprint="other")])
    empty = run_with(tmp_path, 1.0, 0)
    (empty.path / "readings.jsonl").unlink()
    (empty.path / "events.jsonl").unlink()
    with pytest.raises(BadArgument, match="have no loss at a common step"):
        compare([run, Run.open(empty.path)])


@pytest.mark.slow
def test_the_page_of_runs_named_like_scripts_is_harmless(tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)<!--"
    runs = [run_with(evil.parent, 1.0, 0), run_with(evil.parent, 1.5, 0, momentum=0.9)]
    runs[0].path.rename(evil)
    page = render(*compare([Run.open(evil), runs[1]]))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert len(page.encode()) < 3_000_000


@pytest.mark.slow
def test_the_command_says_it_in_words_and_as_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run_with(tmp_path, 0.2, 0), run_with(tmp_path, 2.0, 0, learning_rate=0.001)]
    arguments = [
        "runs",
        "compare",
        *(str(run.path) for run in runs),
        "--out",
        str(tmp_path / "compare.html"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "B against A: learning rate 0.1 → 0.001" in told
    assert re.search(
        r"B \(learning rate 0.001\) ends \S+ \[\S+, \S+\] higher in test loss than A \(learning rate 0.1\)",
        told,
    )
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["contrasts"][0]["difference_shown"] is True
    assert said["contrasts"][0]["differences"][0]["low"] > 1.6
    assert Path(said["page"]).read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit) as ended:
        main([*arguments[:-1], str(tmp_path / "missing" / "compare.html")])
    assert ended.value.code == 6
