"""Chaos past the edge, twins in part, and a norm that grows: each is told, and ordinary paths are
not."""

import numpy as np
import pytest
import torch

from gradiometer import Estimate, State
from gradiometer.convergence.trajectory import Trajectory
from gradiometer.convergence.trajectory.dead_units import twin_units_of
from gradiometer.convergence.trajectory.endpoint import Endpoint, chaos_finding, infinity_finding
from gradiometer.convergence.trajectory.path_facts import Kind, Trail, facts_of, kind_of
from gradiometer.verdict.words.say import say
from known_steps import kept_steps

STEPS = np.array(kept_steps(4096))


def descent(learning_rate: float, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Iterates and losses of ½ Σ log(1 + x²), whose curvature is at most 1."""
    random, x = np.random.default_rng(0), np.linspace(0.5, 1.5, 8)
    points, losses = [], []
    for _ in range(4097):
        points.append(x)
        losses.append(0.5 * np.log1p(x**2).sum())
        x = x - learning_rate * (x / (1 + x**2) + noise * random.standard_normal(8))
    return np.array(points)[STEPS], np.array(losses)


def path(points: np.ndarray) -> Trail:
    return Trail.of(STEPS, points, np.full(len(STEPS), 0.1))


def test_chaos_past_the_edge_is_told() -> None:
    points, losses = descent(7.0)
    found = chaos_finding(Estimate.exact(7.0 / 2), facts_of(path(points)), losses, 7.0)
    assert found is not None and found.state is State.ACT
    assert (
        "chaos past the edge" in say(found).seen
        and "3.50 times its limit at η = 7.00" in say(found).seen
    )
    assert say(found).advice.startswith("Halve the learning rate")


@pytest.mark.parametrize(
    ("learning_rate", "noise", "share"), [(0.5, 0.0, 0.25), (0.5, 1.0, 0.25), (1.9, 0.1, 0.95)]
)
def test_ordinary_descent_is_not_called_chaos(
    learning_rate: float, noise: float, share: float
) -> None:
    points, losses = descent(learning_rate, noise)
    assert (
        chaos_finding(Estimate.exact(share), facts_of(path(points)), losses, learning_rate) is None
    )
    # Not even if the sharpness were far above its limit: the loss is near its best.
    if not noise:
        assert (
            chaos_finding(Estimate.exact(3.0), facts_of(path(points)), losses, learning_rate)
            is None
        )


def test_parameters_whose_norm_grows_without_an_end_are_not_converging() -> None:
    direction = np.random.default_rng(0).standard_normal(12)
    side = np.random.default_rng(1).standard_normal(12) / 3

    def kind(length: np.ndarray, early: float = 0.0) -> Kind:
        return kind_of(
            facts_of(path(length[:, None] * direction + (1 + early * time**-0.5)[:, None] * side))
        )

    time = STEPS + 1.0
    # As in networks that fit every example: early moves in other directions die out, and the norm
    # goes on.
    assert kind(np.log(time) ** 0.35, early=12.0) is Kind.DIVERGING
    assert kind(5 - 4 * time**-0.25) is Kind.CONVERGING
    assert kind(5 - 4 / time, early=12.0) is Kind.CONVERGING


def test_twins_below_half_of_a_layer_are_told() -> None:
    torch.manual_seed(0)
    first = torch.nn.Linear(8, 20)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Linear(20, 5))
    assert not list(Endpoint(10, 1.0, twins=twin_units_of(model)).findings(Kind.CONVERGING))
    with torch.no_grad():
        first.weight[3], first.weight[7] = first.weight[5], -first.weight[5]
    (found,) = Endpoint(10, 1.0, twins=twin_units_of(model)).findings(Kind.CONVERGING)
    assert (
        say(found).seen.startswith("3 of 20 rows equal another up to sign in 0.weight")
        and found.state is State.LOOK
    )


def test_a_loss_far_above_its_start_is_chaos_even_in_flat_places() -> None:
    random = np.random.default_rng(0)
    facts = {
        "step_correlation": Estimate.interval(-0.1, -0.2, 0.0, level=0.9, method="mean", samples=20)
    }
    losses = np.r_[2.3, random.uniform(20, 90, 400)]
    for share in (None, Estimate.exact(0.01)):
        found = chaos_finding(share, facts, losses, 3.0)
        assert (
            found is not None and "the loss is far above its start at η = 3.00" in say(found).seen
        )
    assert chaos_finding(None, facts, np.r_[2.3, random.uniform(1, 4, 400)], 3.0) is None
    assert (
        chaos_finding(Estimate.exact(4.0), facts, np.r_[2.3, random.uniform(2.2, 2.4, 400)], 3.0)
        is not None
    )


def test_a_network_that_fits_every_example_runs_to_infinity_and_others_do_not() -> None:
    facts = {
        "norm_growth": Estimate.interval(-0.3, -0.45, -0.1, level=0.9, method="fit", samples=4),
        "alignment": Estimate.exact(0.85),
    }
    losses = 2.3 / (1 + np.arange(4000) / 4)
    found = infinity_finding(facts, losses, weight_decay=0.0)
    assert (
        found is not None and found.state is State.LOOK and "before step 1,000" in say(found).seen
    )
    assert "by 0.812 [0.732, 0.933]× as much in each as in the one before" in say(found).seen
    slower = facts | {
        "norm_growth": Estimate.interval(-0.5, -0.6, -0.4, level=0.9, method="fit", samples=4)
    }
    sideways = facts | {"alignment": Estimate.exact(0.5)}
    for others in (slower, sideways):
        assert infinity_finding(others, losses, 0.0) is None
    assert infinity_finding(facts, losses, 1e-4) is None
    # a floor
    assert infinity_finding(facts, np.r_[losses[:1000], np.full(3000, losses[999])], 0.0) is None
    # fitted only late
    assert infinity_finding(facts, 2.3 / (1 + np.arange(4000) / 400), 0.0) is None
    assert infinity_finding(facts, np.r_[losses[:-1], np.nan], 0.0) is None


def test_the_moves_are_described_by_their_factor_in_a_doubling_of_time() -> None:
    facts = {
        "step_correlation": Estimate.exact(0.5),
        "travel": Estimate.exact(9.0),
        "turns": Estimate.exact(0.0),
        "turn_consistency": Estimate.exact(0.0),
        "straightness": Estimate.exact(0.8),
        "alignment": Estimate.exact(0.1),
        "move_slope": Estimate.exact(0.5),
    }
    found = Trajectory().judge(facts)
    assert found is not None and say(found).seen == (
        "The parameters are still travelling in one direction: displacement grows 1.41× per "
        "doubling of steps, and the net distance is 0.80 of the path length."
    )
    unknown = facts | {"move_slope": Estimate.unknown(level=0.9, method="fit", samples=3)}
    found = Trajectory().judge(unknown)
    assert found is not None and say(found).seen.endswith(
        "still travelling in one direction: the net distance is 0.80 of the path length."
    )


def test_a_path_that_is_long_enough_is_not_told_to_wait_for_300_steps() -> None:
    decided = {
        "step_correlation": Estimate.exact(0.5),
        "travel": Estimate.exact(9.0),
        "turns": Estimate.exact(0.0),
        "turn_consistency": Estimate.exact(0.0),
        "straightness": Estimate.exact(0.3),
        "alignment": Estimate.exact(0.1),
        "move_slope": Estimate.unknown(level=0.9, method="fit", samples=3),
    }
    for facts in ({"step_correlation": decided["step_correlation"]}, decided):
        found = Trajectory().judge(facts)
        assert found is not None and found.claim == "path_unknown"
        assert ("about 300 steps" in say(found).means) == (facts is not decided)
