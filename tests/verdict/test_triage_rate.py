"""The readings of the rate: how far the network came, and how long its path keeps its direction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradiometer import watch
from gradiometer.integrations.watch.observers.triage import path
from gradiometer.measurement.estimate import Estimate
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.rate import direction_of
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import findings_of, triage_of
from gradiometer.verdict.words.say import say
from made_up_signs import (
    LOOKS,
    STEPS,
    certain,
    claims,
    constant,
    cosine_rates,
    evaluations,
    falling,
    healthy,
    nearest,
    reaching,
)


def distances_of(points: np.ndarray) -> np.ndarray:
    """The rows that are recorded of a path with these points at `LOOKS`."""
    return np.array(
        [
            (LOOKS[new], LOOKS[old], np.square(points[new] - points[old]).sum())
            for new in range(len(points))
            for old in range(new)
        ]
    )


def walk(cosine: float, entries: int = 400) -> np.ndarray:
    """Points whose steps share one direction, so that two steps have this mean cosine."""
    generator = np.random.default_rng(0)
    steps = generator.standard_normal((len(LOOKS), entries)) / np.sqrt(entries)
    common = np.zeros(entries)
    common[0] = np.sqrt(cosine / (1 - cosine))
    return (steps + common).cumsum(axis=0)


def on(cosine: float, **changes: Any) -> Signs:
    """A training at a constant rate on such a path, whose loss still falls."""
    still_falling = falling() * np.linspace(1.5, 1, STEPS)
    made = {"losses": still_falling, "rates": np.full(STEPS, 0.1)} | changes
    return healthy(distances=distances_of(walk(cosine)), **made)


def direction(signs: Signs) -> Estimate:
    found = direction_of(signs)
    assert found is not None
    return found


@pytest.mark.parametrize(("reach", "doubts"), [(17.9, ("rate_not_tried",)), (18.1, ())])
def test_a_way_that_is_hardly_far_enough_is_not_healthy(
    reach: float, doubts: tuple[str, ...]
) -> None:
    """At a fifth of its rate a network of messages was called healthy, and lost 15 %."""
    made = {"losses": falling(), "rates": cosine_rates()}
    adam = {"optimizer": "AdamW", "family": "adaptive", "movement": reaching(reach)}
    (claim,) = triage_of(on(0.0, **made, **adam)).claims
    assert claim.doubts == doubts


@pytest.mark.parametrize(("cosine", "claim"), [(0.0, Claim.UNDECIDED), (0.2, Claim.RATE_LOW)])
def test_with_adam_a_short_way_that_turned_is_no_low_rate(cosine: float, claim: Claim) -> None:
    """Six networks at a good rate of AdamW and RMSprop went 52 to 99 % of the usual way."""
    short = {"family": "adaptive", "movement": reaching(8), "rates": cosine_rates()}
    assert triage_of(on(cosine, **short)).claims[0].claim is claim
    plain = {"movement": reaching(6), "rates": cosine_rates()}
    assert triage_of(on(cosine, **plain)).claims[0].claim is Claim.RATE_LOW


@pytest.mark.parametrize("cosine", [0.0, 0.2, 0.5, 0.9])
def test_the_direction_is_the_mean_cosine_of_far_parts(cosine: float) -> None:
    found = direction(on(cosine))
    assert found.low <= cosine <= found.high or abs(found.value - cosine) < 0.01
    assert found.high - found.low < 0.1


def test_the_interval_holds_the_cosine_of_many_short_walks() -> None:
    held = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        steps = generator.standard_normal((len(LOOKS), 30)) / np.sqrt(30)
        steps[:, 0] += 0.7
        found = direction(healthy(distances=distances_of(steps.cumsum(axis=0))))
        # of a long walk of the same kind
        held += found.low <= 0.33 <= found.high
    assert held >= 46  # 54 of 60 expected at 90 %


def test_the_direction_counts_only_while_the_rate_is_high() -> None:
    points = walk(0.0)
    late = LOOKS > STEPS / 2
    points[late] = points[~late][-1] + np.outer(np.arange(late.sum()), np.ones(points.shape[1]))
    rates = np.where(np.arange(STEPS) > STEPS / 2, 0.001, 0.1)
    assert direction(healthy(distances=distances_of(points), rates=rates)).high < 0.05


def test_a_momentum_is_no_direction() -> None:
    """At a momentum of 0.99 the cosine of the updates of a network was 0.95 at every rate from 1e-5
    to 1e-2, and a good one was called too low."""
    assert direction_of(on(0.5, momentum=0.9)) is not None
    assert direction_of(on(0.5, momentum=0.995)) is None


def test_a_path_with_few_points_has_no_direction() -> None:
    rows = distances_of(walk(0.9))
    assert direction_of(healthy(distances=rows[rows[:, 0] < LOOKS[8]])) is None
    assert direction_of(healthy()) is None


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_path_that_goes_straight_on_has_a_rate_that_is_too_low(has_ended: bool) -> None:
    found = triage_of(on(0.5, has_ended=has_ended)).claims[0]
    assert found.claim is Claim.RATE_LOW and found.cure == ("rate 4x",)
    finding = findings_of(triage_of(on(0.5, has_ended=has_ended)))[0]
    said = say(finding).seen
    assert "kept pointing the same way" in said and "[" in said and "{" not in said
    assert Claim.RATE_LOW not in certain(on(0.25, has_ended=has_ended))


@pytest.mark.parametrize(("momentum", "warns"), [(0.0, True), (0.9, False)])
def test_plain_sgd_may_stand_at_the_edge_on_a_straight_path(momentum: float, warns: bool) -> None:
    (found,) = findings_of(triage_of(on(0.5, family="sgd", momentum=momentum)))
    assert ("stability limit" in say(found).caveat) == warns


@pytest.mark.parametrize(
    ("share", "has_ended", "factor"),
    [(0.01, True, 8), (0.12, True, 8), (0.01, False, 8), (0.05, False, 4), (0.1, False, 2)],
)
def test_the_rate_that_is_advised_does_not_pass_the_edge(
    share: float, has_ended: bool, factor: int
) -> None:
    low = healthy(edges=nearest(share), movement=reaching(0.5), has_ended=has_ended)
    (found,) = triage_of(low).claims
    assert found.claim is Claim.RATE_LOW and found.cure == (f"rate {factor}x",)
    (finding,) = findings_of(triage_of(low))
    assert (
        "even the sharpest moment reached" in say(finding).seen
        and f"{share:.0%}".rstrip("%") in say(finding).seen
    )


@pytest.mark.parametrize(("momentum", "limit"), [(0.0, 0.5), (0.9, 2.0)])
def test_near_the_edge_neither_a_straight_path_nor_a_short_way_is_certain(
    momentum: float, limit: float
) -> None:
    near, far = nearest(1.02 * limit), nearest(0.98 * limit)
    sgd = {"family": "sgd", "momentum": momentum}
    for signs in (on(0.5, **sgd), healthy(movement=reaching(2), **sgd)):
        assert Claim.RATE_LOW in certain(signs)
        assert Claim.RATE_LOW in certain(replace(signs, edges=far))
        assert Claim.RATE_LOW not in certain(replace(signs, edges=near))


def test_negative_curvature_says_nothing_of_the_edge() -> None:
    saddle = np.array([[1.0, -0.5], [90.0, -0.1], [200.0, -0.2]])
    assert Claim.RATE_LOW not in claims(healthy(edges=saddle))


def test_a_small_batch_leaves_the_claim_of_a_rate_far_below_the_edge() -> None:
    small = {"batch_size": 4, "product": constant(0.2)}
    assert claims(on(0.5, edges=nearest(0.05), **small)) == {Claim.RATE_LOW, Claim.BATCH_SMALL}


def test_of_many_readings_of_the_edge_an_outlier_counts_only_as_the_highest() -> None:
    steps = np.arange(1, 78)
    shares = np.where(steps == 40, 90.0, 0.3)
    signs = healthy(edges=np.stack([steps, shares], axis=1))
    assert signs.edge == 0.3 and signs.highest_edge == 90.0
    few = healthy(edges=np.stack([steps[:7], np.arange(7.0)], axis=1))
    assert few.edge == few.highest_edge == 6.0


def test_a_straight_path_on_which_the_test_loss_has_risen_needs_no_higher_rate() -> None:
    test = evaluations([0.8, 0.66, 0.67, 0.7, 0.72, 0.72, 0.73, 0.74, 0.74, 0.75], 0.24)
    falls = evaluations([0.8, 0.7, 0.66, 0.64, 0.62, 0.6, 0.59, 0.58, 0.57, 0.57], 0.24)
    assert Claim.RATE_LOW in claims(on(0.5, **falls))
    assert Claim.RATE_LOW not in claims(on(0.5, **test))


def test_a_straight_path_on_which_the_loss_rises_says_nothing() -> None:
    rising = falling()[::-1]
    assert Claim.RATE_LOW not in claims(on(0.5, losses=rising, has_ended=False))


def test_a_straight_path_that_went_far_and_stays_at_a_guess_says_nothing() -> None:
    """Four times the rate changed nothing for convolutions that were to add two numbers."""
    noise = 0.05 * np.random.default_rng(5).standard_normal(STEPS)
    flat = falling(1.0)[0] * (1 - 0.0001 * np.arange(STEPS) / STEPS + noise)
    falls = falling(1.0)[0] * (np.linspace(1.1, 0.95, STEPS) + noise / 10)
    assert Claim.RATE_LOW not in claims(on(0.5, losses=flat))
    assert Claim.RATE_LOW in claims(on(0.5, losses=falls))


def test_a_training_that_comes_nowhere_is_told_before_its_end() -> None:
    nowhere = {"movement": reaching(0.5), "has_ended": False}
    assert Claim.RATE_LOW in claims(healthy(**nowhere, rates=np.full(STEPS, 0.1)))
    # in a warm-up, or at the beginning of a long plan, nobody knows
    assert Claim.RATE_LOW not in claims(healthy(**nowhere, rates=np.linspace(0, 0.1, STEPS)))
    long = {"steps": 100 * STEPS}
    assert Claim.RATE_LOW not in claims(healthy(**nowhere, rates=np.full(STEPS, 0.1), facts=long))


@pytest.mark.parametrize(
    ("steps", "reach", "is_told"),
    [(400, 5.5, True), (400, 5.7, False), (800, 2.7, True), (800, 2.9, False)],
)
def test_the_reach_is_forecast_for_the_planned_end(steps: int, reach: float, is_told: bool) -> None:
    signs = healthy(
        movement=reaching(reach),
        rates=np.full(STEPS, 0.1),
        has_ended=False,
        facts={"steps": steps},
    )
    assert (Claim.RATE_LOW in claims(signs)) is is_told


def test_nothing_is_healthy_where_a_higher_rate_or_a_decay_may_end_lower() -> None:
    constant_rate = triage_of(on(0.05)).claims[0]
    assert constant_rate.claim is Claim.UNDECIDED
    assert constant_rate.doubts == ("decay_not_tried",)
    assert claims(on(0.05, rates=np.repeat([0.1, 0.001], [STEPS - 40, 40]))) == {Claim.HEALTHY}
    found = triage_of(on(0.2, losses=falling(0.08))).claims[0]
    assert found.claim is Claim.UNDECIDED and found.doubts == ("rate_not_tried",)
    left_half = {"losses": falling(0.3) * np.linspace(1, 0.99, STEPS)}
    near = triage_of(on(0.05, movement=reaching(9), **left_half)).claims[0]
    assert near.claim is Claim.UNDECIDED
    rows = distances_of(walk(0.05))
    far = reaching(13)
    few = triage_of(healthy(movement=far, distances=rows[rows[:, 0] < LOOKS[5]])).claims[0]
    assert few.claim is Claim.UNDECIDED and few.doubts == ("few_looks",)
    # what has learnt nearly all has nothing to gain
    assert claims(on(0.2, losses=falling(0.01))) == {Claim.HEALTHY}


def test_nothing_is_healthy_while_its_loss_falls_fast_at_a_high_rate() -> None:
    tiny = np.geomspace(1, 1e-4, STEPS)
    still = triage_of(on(0.05, losses=tiny, rates=np.full(STEPS, 0.1))).claims[0]
    assert still.claim is Claim.UNDECIDED and still.doubts == ("still_falls",)
    decayed = on(0.05, losses=tiny, rates=np.linspace(0.1, 0, STEPS))
    assert claims(decayed) == {Claim.HEALTHY}
    # more updates would fit the training examples alone
    past_its_best = {"test": np.append(np.linspace(0.6, 0.3, 9), 0.33)}
    at_high_rate = {"losses": tiny, "rates": np.full(STEPS, 0.1)}
    assert claims(on(0.05, **at_high_rate, **past_its_best)) == {Claim.HEALTHY}


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_the_distances_are_those_of_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(path, "ENTRIES", int(share * 5_161))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 100), nn.Tanh(), nn.Linear(100, 30), nn.Linear(30, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    inputs = torch.randn(64, 20)
    points = {}
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(90):
            points[step] = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
            optimizer.zero_grad()
            loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
            loss.backward()
            w.step(loss, inputs)
            optimizer.step()
    signs = Signs.of(w.run)
    assert len(signs.distances) > 20
    for step, earlier, square in signs.distances:
        true = float((points[int(step)] - points[int(earlier)]).square().sum())
        assert square == pytest.approx(share * true, rel=1e-4 if share == 1 else 0.8)


def test_points_of_a_long_run_cover_it_evenly() -> None:
    parameter = torch.zeros(3)
    followed = path.PathPoints([parameter])
    for look in range(1_000):
        parameter += 1
        newest = followed.distances(10 * look) if 10 * look >= followed.next else None
        if newest is not None:
            steps, squares = newest
            gaps = np.diff([*steps, 10 * look])
            assert len(steps) <= path.KEPT and steps[0] == 0
            assert set(gaps.tolist()) == {gaps[0]}
            true = 3 * (np.array([10 * look]) - steps) ** 2 / 100
            assert squares.numpy() == pytest.approx(true)


def test_a_model_of_many_tensors_is_followed_in_some_of_them() -> None:
    parameters = [torch.randn(40, 40) for _ in range(100)]
    followed = path.PathPoints(parameters)
    assert followed.distances(0) is None
    torch._foreach_add_(parameters, 1)
    found = followed.distances(10)
    assert found is not None
    # as many entries have moved by one as are followed
    assert 0.7 * path.ENTRIES < float(found[1][0]) <= path.ENTRIES


def test_a_sum_of_all_gradients_goes_straight_on_at_any_rate() -> None:
    assert claims(on(0.5, stale=constant(0.5))) == {Claim.ZERO_GRAD}
