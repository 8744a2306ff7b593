"""`NormsWatch`: squared norms that any program computes, recorded as a run."""

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradiometer import BadArgument, Draw, NormsWatch, Sampling, diagnose, watch
from gradiometer.integrations.watch.record import Announcements, check_place
from gradiometer.measurement import supervised
from gradiometer.report.page.cards import cards
from gradiometer.run.cadence.overhead import overhead_sentence
from gradiometer.run.problem import problem_of

STEP = {"small": 4.0, "big": 2.0, "sizes": (8, 32), "learning_rate": 0.1}


def micro_batches(steps: int) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield [
            (torch.randn(4, 8, generator=generator), torch.randint(5, (4,), generator=generator))
            for _ in range(4)
        ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))


def squared_norms(gradients: list[torch.Tensor], names: list[str]) -> dict[str, Any]:
    """By layer, as `watch` names them."""
    layers: dict[str, Any] = {}
    for name, gradient in zip(names, gradients, strict=True):
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0.0) + gradient.square().sum()
    return layers


def test_it_records_what_watch_records_on_the_same_batches(tmp_path: Path) -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loss = supervised(nn.CrossEntropyLoss(reduction="none"))
    watched = watch(
        model, optimizer, accumulation=4, every=1, gauges="noise", out=tmp_path, name="watched"
    )
    with watched, NormsWatch(out=tmp_path, name="norms", optimizer="sgd") as w:
        for parts in micro_batches(16):
            optimizer.zero_grad()
            each, values = [], []
            for batch in parts:
                value = loss(model, batch).mean()
                twin = copy.deepcopy(model)
                gradients = torch.autograd.grad(loss(twin, batch).mean(), list(twin.parameters()))
                each.append(squared_norms(list(gradients), names))
                (value / 4).backward()
                watched.step(value, batch)
                values.append(value.detach())
            big = squared_norms([p.grad for p in model.parameters() if p.grad is not None], names)
            w.norms(each, big, sizes=(4, 16), learning_rate=0.05, loss=torch.stack(values).mean())
            optimizer.step()
    theirs, ours = watched.run, w.run
    assert theirs is not None and ours is not None
    assert ours.layers == theirs.layers and ours.status == "finished" and ours.steps == theirs.steps
    np.testing.assert_allclose(ours.losses[1], theirs.losses[1], rtol=1e-6)
    mine, wanted = ours.series("noise"), theirs.series("noise")
    assert mine is not None and wanted is not None
    assert (
        mine.steps.tolist() == wanted.steps.tolist()
        and mine.batch_size.tolist() == wanted.batch_size.tolist()
    )
    for name, moments in wanted.moments.items():
        np.testing.assert_allclose(mine.moments[name], moments, rtol=2e-4, atol=1e-6)
    expected = diagnose(theirs).estimates
    assert diagnose(ours).estimates.keys() == expected.keys()
    assert diagnose(ours).estimates["noise_scale"].value == pytest.approx(
        expected["noise_scale"].value, rel=1e-4
    )
    # which looks at the model
    gauges = [one for one in watched.findings() if one.gauge != "triage"]
    assert [one.state for one in w.findings()] == [one.state for one in gauges]


@pytest.mark.parametrize("sizes", [(8, 32), (8, 20), (1, 2), (24, 32)])
def test_the_moments_are_unbiased_for_any_two_sizes(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """Independent batches of b and of B, with tr Σ = 60 and ‖g‖² = 5, to five standard errors."""
    draws = np.random.default_rng(0)
    with NormsWatch(out=tmp_path) as w:
        for _ in range(500):
            small, big = (
                np.square(0.5 + draws.normal(size=20) * np.sqrt(3 / size)).sum() for size in sizes
            )
            w.norms([small], big, sizes, learning_rate=0.1)
    assert w.run is not None and w.run.warnings == []
    series = w.run.series("noise")
    assert series is not None and len(series) == 500
    for name, truth in (("gradient_variance", 60.0), ("gradient_norm_squared", 5.0)):
        values = series.moments[name][:, 0]
        assert abs(values.mean() - truth) < 5 * values.std() / np.sqrt(500)


@pytest.mark.parametrize(
    "small",
    [
        5.0,
        [4.0, 6.0, 3.0, 7.0],
        np.float32(5),
        torch.tensor([4.0, 6.0, 3.0, 7.0], dtype=torch.bfloat16).float(),
        {"model": 5.0},
    ],
)
def test_a_mean_a_list_and_an_array_are_the_same(tmp_path: Path, small: Any) -> None:
    with NormsWatch(out=tmp_path) as w:
        w.norms(small, 2.0, (8, 32), learning_rate=0.1)
    assert w.run is not None
    series = w.run.series("noise")
    assert series is not None
    assert series.moments["gradient_variance"].tolist() == [[pytest.approx(32.0)]]
    assert series.moments["gradient_norm_squared"].tolist() == [[pytest.approx(1.0)]]


def test_a_tree_of_norms_is_recorded_by_layer(tmp_path: Path) -> None:
    each = [{"dense": {"kernel": 4.0, "bias": 1.0}}, {"dense": {"kernel": 6.0, "bias": 1.5}}]
    stacked = {"dense": {"kernel": np.array([4.0, 6.0]), "bias": [1.0, 1.5]}}
    big = {"dense": {"kernel": 2.0, "bias": 1.0}}
    with NormsWatch(out=tmp_path) as w:
        for _ in range(8):
            w.norms(each, big, (8, 16), learning_rate=0.1)
            w.norms(stacked, big, (8, 16), learning_rate=0.1)
    assert w.run is not None and w.run.layers == ("dense.kernel", "dense.bias")
    series = w.run.series("noise")
    assert series is not None
    assert np.ptp(series.moments["gradient_variance"], axis=0).tolist() == [0.0, 0.0]
    assert {"noise_scale/dense.kernel", "noise_share/dense.bias"} <= diagnose(
        w.run
    ).estimates.keys()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sizes": (32, 8)}, "`sizes` must be .b, B. with b below B, got .32, 8."),
    ({"sizes": (32, 32)}, "`sizes` must be .b, B. with b below B"),
    ({"sizes": (8, 16, 32)}, "`sizes` must be .b, B., .* got .8, 16, 32."),
    ({"sizes": (0, 8)}, "`sizes` must be at least 1, got 0"),
    ({"sizes": (8.5, 32)}, "`sizes` must be a whole number, got 8.5"),
    ({"small": float("nan")}, "`small` must be squared norms, at least 0 and finite, got nan"),
    ({"small": [3.0, -1.0]}, "`small` must be squared norms, at least 0 and finite, got -1"),
    ({"big": float("inf")}, "`big` must be squared norms, at least 0 and finite, got inf"),
    ({"big": None}, "`big` must be a number or a list of numbers, got None"),
    ({"big": "2"}, "`big` must be a number or a list of numbers, got '2'"),
    ({"big": [1.0, 2.0]}, "`big` must be one number, or one per layer"),
    ({"big": {"a": 1.0}}, "`small` has the layers model, and `big` has a"),
    ({"small": {}}, "`small` has no layer"),
    ({"small": []}, "`small` must be a number or a list of numbers, got .."),
    (
        {"small": np.ones((2, 2))},
        "`small` must be a number or a list of numbers, got an array of shape .2, 2.",
    ),
    (
        {"small": [4.0] * 5},
        "`small` has 5 micro-batches of 8 examples, more than the 32 of the batch",
    ),
    ({"small": 1.0}, "`small` is 1, less than `big`, 2: .* not of the sum"),
    ({"small": 2.0}, "`small` equals `big`, 2: .* before the gradients are averaged"),
    (
        {"small": {"a": [1.0, 2.0], "b": 3.0}, "big": {"a": 1.0, "b": 1.0}},
        "`small` must have one number per micro",
    ),
    (
        {"small": [{"a": 1.0}, {"b": 1.0}], "big": {"a": 1.0}},
        "`small` has micro-batches with different layers",
    ),
    ({"learning_rate": -0.1}, "`learning_rate` must be at least 0 and finite, got -0.1"),
    ({"learning_rate": "fast"}, "`learning_rate` must be a number, got str"),
    ({"loss": [1.0, 2.0]}, "`loss` must be a number, got list"),
    ({"step": -1}, "`step` must be at least ., got -1"),
    ({"step": 2**60}, "`step` must be below 9,007,199,254,740,992"),
    ({"loss": 10**400}, "`loss` must be a number, got int"),
    ({"small": 10**400}, "`small` must be a number or a list of numbers"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_first_call_is_refused_and_a_later_one_is_a_warning(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with NormsWatch(out=tmp_path) as w:
        with pytest.raises(BadArgument, match=message):
            w.norms(**(STEP | given))
        assert w.run is None and list(tmp_path.iterdir()) == []
        w.norms(**STEP)
        for _ in range(3):
            w.norms(**(STEP | given))
        w.norms(**STEP)
    assert w.run is not None and w.run.status == "finished"
    warnings = w.run.warnings
    assert len(warnings) == 1 and re.search(message, warnings[0]), warnings


def test_a_reading_that_is_doubtful_by_chance_is_kept(tmp_path: Path) -> None:
    """Leaving readings out by their value would bias the mean."""
    with NormsWatch(out=tmp_path) as w:
        w.norms(**STEP)
        w.norms(**(STEP | {"small": 1.0}))
    assert w.run is not None and len(w.run.warnings) == 1
    series = w.run.series("noise")
    assert series is not None and series.moments["gradient_variance"][:, 0].round(3).tolist() == [
        21.333,
        -10.667,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": " "}, "`optimizer` must be a name such as 'adamw', got ' '"),
        ({"level": 90.0}, "`level` must lie between 0 and 1, got 90"),
        (
            {"sampling": Sampling(Draw.RESHUFFLED)},
            "`sampling` is reshuffled, over a training set of unknown size: give its `examples`",
        ),
        ({"to": [3]}, "`to` holds a int"),
    ],
)
def test_settings_are_checked_when_it_is_made(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        NormsWatch(out=tmp_path, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": 3}, "`to` must be a list of trackers, got int"),
        ({"to": "x"}, "`to` must be a list of trackers, got str"),
        ({"to": torch.tensor(1.0)}, "`to` must be a list of trackers, got torch.Tensor"),
        ({"name": b"x"}, "`name` must be a string, got bytes"),
        ({"out": 3}, "`out` must be the path of a folder, got int"),
    ],
)
def test_where_a_run_is_recorded_is_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        check_place(**({"out": "runs", "name": "x", "to": ()} | given))


@pytest.mark.parametrize("name", ["page", "quiet"])
def test_what_is_printed_is_switched_by_true_and_false(name: str) -> None:
    with pytest.raises(BadArgument, match=f"`{name}` must be True or False, got 'no'"):
        Announcements(**{name: "no"})
    with pytest.raises(BadArgument, match=f"`{name}` must be True or False, got tensor"):
        Announcements(**{name: torch.tensor([])})


def test_it_is_used_inside_of_with_and_once(tmp_path: Path) -> None:
    w = NormsWatch(out=tmp_path)
    with pytest.raises(BadArgument, match="`norms` must be called inside `with NormsWatch"):
        w.norms(**STEP)
    with w:
        w.norms(**STEP)
    w.norms(**STEP)  # training may go on after the end
    assert w.run is not None and w.run.steps == 1
    with pytest.raises(BadArgument, match="entered only once"):
        w.__enter__()


def test_a_full_disk_ends_the_recording_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with NormsWatch(out=tmp_path) as w:
        w.norms(**STEP)

        def full(*_: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr("gradiometer.storage.journal.JournalWriter.append", full)
        for _ in range(3):
            w.norms(**STEP)
    assert w.steps == 1 and "nothing is recorded from step 1 on: OSError" in caplog.text


def test_a_loss_that_is_not_finite_is_reported_once(tmp_path: Path) -> None:
    with NormsWatch(out=tmp_path) as w:
        for loss in (1.0, float("nan"), float("nan")):
            w.norms(**STEP, loss=loss)
    assert w.run is not None
    assert (
        w.run.warnings[0] == "the loss is nan at step 1, for the first time in this run"
        and len(w.run.warnings) == 1
    )


def test_an_exception_of_training_is_the_end_of_the_run(tmp_path: Path) -> None:
    w = NormsWatch(out=tmp_path)
    with pytest.raises(ValueError, match="theirs"), w:
        w.norms(**STEP)
        raise ValueError("theirs")
    assert w.run is not None and w.run.status == "interrupted"


def test_a_run_is_continued_from_its_state(tmp_path: Path) -> None:
    with NormsWatch(out=tmp_path) as first:
        for step in (0, 10, 20):
            first.norms(**STEP, step=step)
        state = first.state_dict()
        first.norms(**STEP, step=30)
    with NormsWatch(out=tmp_path) as second:
        second.load_state_dict(state)
        second.norms(**STEP, step=25)
    assert second.run is not None and second.run.path == tmp_path / "norms-1"
    series = second.run.series("noise")
    assert series is not None and series.steps.tolist() == [0, 10, 20, 25]


def test_estimates_go_to_trackers(tmp_path: Path) -> None:
    sent: list[tuple[dict[str, float], int]] = []
    with NormsWatch(out=tmp_path, to=[lambda numbers, step: sent.append((numbers, step))]) as w:
        for step in range(20):
            w.norms(**(STEP | {"small": 4.0 + step % 3}))
    numbers, step = sent[-1]
    assert step == 19 and numbers["gradiometer/noise_scale"] > 0


def test_the_run_holds_settings_that_are_known_and_says_that_the_cost_is_not(
    tmp_path: Path,
) -> None:
    with NormsWatch(
        out=tmp_path, name="a JAX run", optimizer="adamw", sampling=Sampling(Draw.RESHUFFLED, 5000)
    ) as w:
        for step in range(40):
            w.norms(**(STEP | {"small": 4.0 + step % 3}), step=5 * step, loss=1.0)
    assert w.run is not None and w.run.name == "a-JAX-run-1" and w.run.sampling.examples == 5000
    assert (
        w.run.manifest["problem"]["optimizer"] == "adamw"
        and "momentum" not in w.run.manifest["configuration"]
    )
    assert w.run.configuration.sampling == "reshuffled"
    assert overhead_sentence(w.run.overhead).startswith("The program gave the norms of 40 steps.")


@pytest.mark.slow
@pytest.mark.page
def test_the_page_of_the_run_is_written_and_paths_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with NormsWatch(out=tmp_path) as w:
        for step in range(20):
            w.norms(**(STEP | {"small": 4.0 + step % 3}), loss=1.0)
        w.norms(**(STEP | {"big": float("nan")}))
    assert (tmp_path / "norms-1" / "report.html").exists()
    assert capsys.readouterr().err.splitlines()[0] == f"gradiometer: {tmp_path / 'norms-1'}"
    assert str(w.findings()).startswith(
        "! warning: step 20 is not recorded: `big` must be squared norms"
    )


def test_no_line_is_named_that_needs_a_model(tmp_path: Path) -> None:
    with NormsWatch(out=tmp_path) as w:
        for _ in range(5):
            w.norms(**STEP)
    assert w.run is not None and not w.run.has_program_with_model
    for verb in ("certify", "sharpness", "ensemble"):
        with pytest.raises(BadArgument, match="it has no model to run"):
            problem_of(w.run, verb)
    assert {card.command for card in cards(w.run, ())} == {""}


def test_it_needs_no_torch() -> None:
    code = "import sys; from gradiometer import NormsWatch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_state_that_was_loaded_shows_its_run_before_the_next_norms(tmp_path: Path) -> None:
    with NormsWatch(out=tmp_path, page=False, quiet=True) as first:
        for step in range(5):
            first.norms(4.0 + step % 3, 2.0, sizes=(16, 128), learning_rate=0.1)
    second = NormsWatch(out=tmp_path, page=False, quiet=True)
    second.load_state_dict(first.state_dict())
    assert first.run is not None and second.run is not None
    assert second.run.path == first.run.path
    assert "5 steps" in repr(second)
