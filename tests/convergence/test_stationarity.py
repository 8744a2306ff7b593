"""Has this learning rate stopped paying: the test that may act, and the streams it is judged on."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gradiometer import BadArgument
from gradiometer.convergence.plateau import extrapolation
from gradiometer.convergence.plateau.extrapolation import (
    Extrapolation,
    extrapolated_gain,
)
from gradiometer_lab.closed_forms import Quadratic
from streams import Observation, Stream

CURVATURES = (1.0, 0.3, 0.1)
CURVED = Stream(CURVATURES, CURVATURES, learning_rate=0.1, batch_size=8)
REGRESSION = Stream(CURVATURES, None, learning_rate=0.1, batch_size=4, momentum=0.5)


def first_alarms(
    test: Extrapolation, stream: Stream, starts: torch.Tensor, steps: int, seed: int = 1
) -> np.ndarray:
    """Step of each run's first alarm, −1 where there is none."""
    alarms = torch.full((len(starts),), -1)
    for step, seen in enumerate(stream.walk(starts, steps, seed)):
        alarms = torch.where((alarms < 0) & test.take(seen.position), step, alarms)
    return alarms.numpy()


def test_the_floor_of_a_stream_with_constant_noise_is_that_of_the_quadratic() -> None:
    noise = (1.0, 2.0, 0.5)
    for momentum in (0.0, 0.9):
        stream = Stream(CURVATURES, noise, learning_rate=0.2, batch_size=3, momentum=momentum)
        exact = Quadratic(list(CURVATURES), list(noise)).stationary_excess_loss(0.2, 3, momentum)
        assert stream.floor == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("stream", [CURVED, REGRESSION], ids=["constant noise", "regression"])
def test_runs_of_a_stream_have_its_expected_excess_loss_which_ends_at_the_floor(
    stream: Stream,
) -> None:
    start = np.array([[1.0, -1.0, 2.0]])
    expected = stream.expected_excess(start, 1500)[:, 0]
    assert expected[-1] == pytest.approx(stream.floor, rel=1e-6)
    h, runs = torch.tensor(CURVATURES), 4000
    everyone = torch.from_numpy(start).expand(runs, -1)
    for step, seen in enumerate(stream.walk(everyone, 41, seed=0)):
        if step in (0, 1, 5, 40):
            excess = (seen.position.double() ** 2 @ h.double()).numpy() / 2
            error = max(excess.std() / math.sqrt(runs), 1e-6 * expected[step])
            assert abs(excess.mean() - expected[step]) < 4 * error


def test_a_probe_gives_the_gradient_of_its_loss() -> None:
    for stream in (CURVED, REGRESSION):
        probe = stream.probe(2, 56, seed=0)
        points = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(probe.loss(points).sum(), points)
        torch.testing.assert_close(probe.gradient(points.detach()), gradient)
        assert probe.gradients(points.detach()).std(dim=0).min() > 0


def test_the_extrapolated_gain_is_exact_if_the_directions_span_the_space() -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    centre = torch.tensor([0.1, 1.0, -3.0], dtype=torch.float64)
    away = torch.randn(1, 16, 3, generator=generator, dtype=torch.float64)
    slopes = (away @ (h * centre)).expand(8, 1, 16)
    curvatures = torch.einsum("rap,p,rbp->rab", away, h, away)
    exact = float(h @ centre**2) / 2
    assert float(extrapolated_gain(slopes, curvatures)) == pytest.approx(exact, rel=0.05)
    flat = extrapolated_gain(slopes, -curvatures)
    assert torch.isfinite(flat).all() and (flat >= 0).all()


def test_the_upper_end_of_the_extrapolated_gain_covers_it_and_is_tighter_than_the_fit() -> None:
    """At the minimum itself, where all that is fitted is the noise of the probe's examples."""
    generator = torch.Generator().manual_seed(1)
    curvatures = torch.diag(torch.linspace(1, 2, 16, dtype=torch.float64)).expand(2000, 16, 16)
    truth = torch.full((16,), 0.2, dtype=torch.float64)
    slopes = truth + torch.randn(8, 2000, 16, generator=generator, dtype=torch.float64)
    exact = float((truth**2 / torch.linspace(1, 2, 16)).sum()) / 2
    fitted = (slopes.mean(dim=0) ** 2 / torch.linspace(1, 2, 16)).sum(dim=1) / 2
    upper = extrapolated_gain(slopes, curvatures)
    assert (upper <= fitted + 1e-3).all() and upper.mean() < fitted.mean() - 0.1
    assert float((upper >= exact).double().mean()) >= 0.85


def test_the_gain_of_a_cut_is_the_floor_once_the_start_is_forgotten() -> None:
    test = Extrapolation(CURVED.probe(200, 4096, seed=3))
    first_alarms(test, CURVED, torch.zeros(200, 3), 1100)
    assert test.look is not None
    iterates = test.look.iterates.mean(dim=1) - test.look.averaged
    # Averaging over 512 steps leaves 1/(512 · 0.1 · 0.3) of the floor, and less of the steeper
    # directions.
    assert float(iterates.mean()) == pytest.approx(CURVED.floor, rel=0.12)


def test_the_extrapolation_test_waits_for_a_slow_direction() -> None:
    stream = Stream((1.0, 0.5, 0.01), (1.0, 0.5, 0.01), learning_rate=0.1, batch_size=8)
    start = math.sqrt(6 * stream.floor * 2 / 0.01)  # the slow direction alone holds six floors
    starts = torch.tensor([[0.0, 0.0, start]]).expand(60, -1)
    excess = stream.expected_excess(starts[:1].numpy(), 4000)[:, 0]
    true = int((excess <= 2 * stream.floor).argmax())
    ours = first_alarms(Extrapolation(stream.probe(60, 4096, seed=4)), stream, starts, 4 * true)
    assert ((ours >= 0) & (ours < true)).mean() <= 0.05
    assert (ours >= 0).mean() > 0.7


def test_a_restored_test_gives_the_same_answers() -> None:
    steps = [seen.position for seen in CURVED.walk(torch.ones(3, 3), 700, seed=5)]
    probe = CURVED.probe(3, 256, seed=6)
    whole, stopped, resumed = (Extrapolation(probe) for _ in range(3))
    answers = [whole.take(position) for position in steps]
    for position in steps[:333]:
        stopped.take(position)
    resumed.restore(
        {name: tensor.clone() for name, tensor in stopped.tensors().items()}, stopped.values()
    )
    again = [resumed.take(position) for position in steps[333:]]
    assert all(torch.equal(a, b) for a, b in zip(answers[333:], again, strict=True))
    assert whole.look is not None and resumed.look is not None
    assert torch.equal(whole.look.left, resumed.look.left)


def test_the_distance_between_looks_grows() -> None:
    test, taken = Extrapolation(CURVED.probe(1, 8, seed=0)), []
    for _ in range(200):
        test.take(torch.zeros(1, 3))
        taken.append(test.values()["starts"])
    taken = sorted(set(taken))
    assert taken[:5] == [16, 19, 23, 27, 32]
    assert {32, 64, 128} <= set(taken)
    assert all(late > early for early, late in pairwise(taken))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: CURVED.probe(1, 0, seed=0),
            "`examples` must be at least 8, one for each part of a probe, got 0",
        ),
        (lambda: Stream((1.0, math.nan), None, 0.1, 4), "`curvatures` must be positive and finite"),
        (
            lambda: Stream((1.0,), (1.0, 2.0), 0.1, 4),
            "`noise` must be one finite variance for each of 1 curvatures",
        ),
        (
            lambda: Stream((1.0,), (1.0,), 2.5, 4),
            "`learning_rate` must lie between 0 and 2, got 2.5",
        ),
        (
            lambda: Stream((1.0,) * 50, None, 0.5, 1),
            "`learning_rate` 0.5 is too large for a batch of 1",
        ),
        (lambda: Stream((1.0,), None, 0.1, 4, momentum=1.0), r"`momentum` must lie in \[0, 1\)"),
    ],
)
def test_bad_arguments_raise_and_are_named(made, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        made()


def test_a_test_that_always_fires_is_early_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study can fail: a test that takes everything for stopped is early in every run."""
    far = 30 * torch.ones(10, 3)
    eager = Extrapolation(CURVED.probe(10, 64, seed=9), first=1)
    monkeypatch.setattr(
        extrapolation, "extrapolated_gain", lambda _, curvatures: curvatures.new_zeros(10)
    )
    assert (first_alarms(eager, CURVED, far, 40) >= 0).all()


def test_an_observation_is_of_the_step_before_its_update() -> None:
    steps = list(CURVED.walk(torch.ones(2, 3), 3, seed=0))
    assert all(isinstance(seen, Observation) for seen in steps)
    torch.testing.assert_close(steps[1].position, steps[0].position - 0.1 * steps[0].velocity)


@pytest.mark.nightly
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_early_alarms_of_the_whole_run_over_random_starts_are_few(momentum: float) -> None:
    """At most 5 % early in 300 runs from five random starts, over all looks, and most runs are
    stopped at last."""
    h = np.geomspace(1, 1 / 60, 8)
    rate = 0.1 if not momentum else 0.015
    stream = Stream(tuple(h.tolist()), None, learning_rate=rate, batch_size=4, momentum=momentum)
    drawn = np.random.default_rng(11).standard_normal((5, 8)) * np.sqrt(
        200 * stream.floor / (h.sum() / 2)
    )
    excess = stream.expected_excess(drawn, 20_000) / stream.floor
    true = (excess <= 2).argmax(axis=0)
    starts = torch.from_numpy(np.repeat(drawn, 60, axis=0))
    alarms = first_alarms(
        Extrapolation(stream.probe(300, 4096, seed=12)), stream, starts, 6 * int(true.max())
    )
    alarms = alarms.reshape(5, 60)
    early = (alarms >= 0) & (excess[alarms, np.arange(5)[:, None]] > 2)
    assert early.mean() <= 0.05
    assert (alarms >= 0).mean() > 0.8
