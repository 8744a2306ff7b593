"""The detector on runs it was not made on: fresh variations of each case, and ordinary trainings
without an alarm."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gradiometer import diagnose
from gradiometer.convergence.trajectory import Trajectory
from gradiometer.convergence.trajectory.endpoint import NAME, endpoint_of
from gradiometer.convergence.trajectory.path_facts import Trail, facts_of, kind_of
from gradiometer.measurement import State
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer_lab.closed_forms import Quadratic
from gradiometer_lab.counterexamples import (
    Arctangent,
    LogCosh,
    Mirrored,
    Ring,
    Saddle,
    Softplus,
    Winding,
)
from trajectory_cases import Case, named

SEED = 101


def variations() -> list[Case]:
    """Other starts, rates, noises and dimensions than those the thresholds were chosen on."""
    spread = np.geomspace
    made = [
        ("diverging", Arctangent(start=(0.5,)), "InversePower(2.0, power=0.8)", 2**12),
        ("diverging", Arctangent(), "Constant(0.1)", 2**12),
        ("diverging", Softplus(start=(2.0,)), "InversePower(3.0, power=0.9)", 2**12),
        ("diverging", Softplus(), "Constant(1.0)", 2**11),
        ("saddle", Saddle(start=(0.0, 3.0)), "InversePower(0.2, time_constant=5)", 2**12),
        ("saddle", Saddle(deviation=(0.3,)), "InversePower(0.4, power=0.7)", 2**12),
        ("saddle", Saddle(deviation=(2.0,)), "InversePower(0.5, time_constant=2)", 2**12),
        ("saddle", Saddle(deviation=(0.5,)), "Constant(0.05)", 2**12),
        (
            "symmetric start",
            Mirrored(mean=(2.0,), deviation=(1.0,)),
            "InversePower(0.2, power=0.7)",
            2**11,
        ),
        (
            "symmetric start",
            Mirrored(start=(2.0, -2.0), mean=(0.5,)),
            "InversePower(0.1, power=0.6)",
            2**11,
        ),
        ("shaking apart", LogCosh(), "Constant(2.5)", 2**10),
        ("shaking apart", LogCosh(start=(2.0,)), "Constant(4.0)", 2**10),
        ("shaking apart", Quadratic([1.0], [1.0]), "Constant(2.05)", 2**9),
        (
            "shaking apart",
            Quadratic(spread(0.1, 1, 10), spread(0.1, 1, 10)),
            "Constant(2.02)",
            2**10,
        ),
        (
            "converging",
            Quadratic(spread(0.3, 1, 5), spread(0.3, 1, 5)),
            "InversePower(1.0, power=0.8)",
            2**12,
        ),
        (
            "converging",
            Quadratic(spread(0.2, 2, 50), spread(0.2, 2, 50)),
            "InversePower(0.5, power=0.9, time_constant=10)",
            2**12,
        ),
        ("converging", Quadratic([2.0], [2.0]), "InversePower(0.5, power=0.6)", 2**14),
        ("converging", Quadratic([1.0, 0.3], [1e-12, 1e-12]), "Constant(0.1)", 2**10),
        ("converging", Ring(deviation=(0.2, 0.2)), "InversePower(0.3, power=0.9)", 2**13),
        ("wandering", Quadratic([1.0], [1.0]), "Constant(0.5)", 2**14),
        ("wandering", Quadratic(spread(0.3, 1, 5), spread(0.3, 1, 5)), "Constant(0.1)", 2**12),
        ("wandering", Quadratic(spread(0.2, 1, 30), spread(0.2, 1, 30)), "Constant(0.2)", 2**12),
        ("wandering", Ring(), "Constant(0.05)", 2**12),
        ("wandering", Ring(deviation=(0.5, 0.5)), "Constant(0.2)", 2**12),
        ("dead units", None, "Constant(1.8)", 2**9),
    ]
    return [
        Case(f"{type(source).__name__} {schedule}", *rest)
        for rest in made
        for _, source, schedule, _ in [rest]
    ]


def name_of(case: Case, seed: int = SEED) -> str:
    steps, points, rates = case.path(seed)
    path = Trail.of(steps, points, rates)
    objective, problem = case.objective(points[-1])
    batch = problem.train.batch(torch.arange(min(256, len(problem.train))))
    return named(kind_of(facts_of(path)), endpoint_of(objective, batch, path))


@pytest.mark.nightly
def test_nine_in_ten_fresh_runs_get_their_name_and_none_has_a_false_alarm() -> None:
    told = [(case.name, case.ends, name_of(case)) for case in variations()]
    wrong = [row for row in told if row[1] != row[2]]
    assert len(wrong) <= len(told) / 10, wrong
    assert all(
        name in ("cannot tell", "under way", "converging", "wandering") for _, _, name in wrong
    ), wrong


@pytest.mark.nightly
def test_a_winding_of_another_pitch_is_called_circling() -> None:
    assert (
        name_of(Case("winding", "circling", Winding(pitch=8.0), "Constant(0.015)", 2**18))
        == "circling"
    )


ORDINARY = [
    {"learning_rate": 0.1, "epochs": 20},
    {"learning_rate": 0.01, "epochs": 20},
    {"learning_rate": 0.3, "epochs": 60},
    {"learning_rate": 0.1, "epochs": 30, "schedule": "cosine"},
    {"learning_rate": 0.05, "epochs": 20, "momentum": 0.9},
    {"learning_rate": 0.2, "epochs": 200, "batch_size": 512},
    {"learning_rate": 0.5, "epochs": 600, "batch_size": 1437},
    {"epochs": 20, "schedule": "InversePower(1.0)"},
    {"learning_rate": 0.1, "epochs": 60, "weight_decay": 0.01},
    {"learning_rate": 0.1, "epochs": 4, "batch_size": 4},
    {"model": "cnn", "learning_rate": 0.1, "epochs": 20},
    {
        "model": "cnn",
        "learning_rate": 0.05,
        "epochs": 20,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "schedule": "linear",
    },
    {"problem": "fashion-mnist", "learning_rate": 0.1, "epochs": 1, "batch_size": 64},
    {
        "problem": "fashion-mnist",
        "model": "cnn",
        "learning_rate": 0.05,
        "epochs": 1,
        "batch_size": 128,
    },
    {
        "problem": "fashion-mnist",
        "model": "cnn",
        "learning_rate": 0.1,
        "epochs": 1,
        "batch_size": 32,
    },
]
NIGHTLY = [pytest.param(changes, marks=pytest.mark.nightly) for changes in ORDINARY[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [ORDINARY[0], *NIGHTLY], ids=lambda changes: "-".join(map(str, changes.values()))
)
def test_an_ordinary_training_raises_no_alarm(tmp_path: Path, changes: dict) -> None:
    if (
        changes.get("problem") == "fashion-mnist"
        and not Path("/usr/share/datasets/fashion-mnist").is_dir()
    ):
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    configuration = Configuration(**{"problem": "digits", "every": 1000} | changes)
    run = train(load(configuration.problem, model=configuration.model), configuration, tmp_path)
    spoken = [
        finding for finding in diagnose(run).findings if finding.gauge in (Trajectory.name, NAME)
    ]
    assert spoken and all(finding.state in (State.OK, State.CANNOT_TELL) for finding in spoken), (
        spoken
    )
