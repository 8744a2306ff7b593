"""Two small runs that have a record of every kind: one of `gradiometer train`, and one of a watched
loop."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from harness import recorded_run
from torch import nn

from gradiometer import Estimate, Run, watch
from gradiometer.convergence.trajectory.endpoint import NAME, Endpoint
from gradiometer.drift.spikes.cause import EVENT, Examined
from gradiometer.jobs.job import Outcome
from gradiometer.loop import Rate
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.comparison.racing import Rung, Stop
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.run.folder import RunFolder
from gradiometer.storage.journal import plain

ABOUT = Estimate.interval(0.5, 0.4, 0.6, level=0.9, method="Student", samples=20)
SPIKE = 130
"""A step at which the watched loss is high."""


def whole_runs(parent: Path) -> tuple[Path, Path]:
    """The folders of both runs, in one folder."""
    trained = recorded_run(parent)
    watched = watched_run(trained.parent)
    for path in (trained, watched):
        add_events(path)
        add_race(path)
    return trained, watched


def watched_run(out: Path) -> Path:
    """A loop of 200 steps, with a loss, evaluations, a high loss, and what triage reads."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 6)
    targets = (inputs.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    loss = nn.CrossEntropyLoss(reduction="none")

    def of_batch(model: nn.Module, batch: Any) -> torch.Tensor:
        return loss(model(batch[0]), batch[1])

    with watch(model, optimizer, loss=of_batch, every=4, out=out, page=False, quiet=True) as w:
        for step in range(200):
            rows = torch.arange(16 * step, 16 * step + 16) % 256
            batch = inputs[rows], targets[rows]
            optimizer.zero_grad()
            value = loss(model(batch[0]), batch[1]).mean()
            if step == SPIKE:
                value = 8 * value
            value.backward()
            w.step(value, batch)
            optimizer.step()
            if step % 40 == 39:
                w.evaluated(
                    test=loss(model(inputs[:64]), targets[:64]), train=loss(model(inputs), targets)
                )
    return out / "loop-1"


def add_events(path: Path) -> None:
    """Add an event of each kind that these two runs have not met, and what warnings can carry."""
    about = ABOUT.to_dict()
    examined = Examined(3.0, 0.5, 16, [3, 7], 0.8, 0.5, 0.6, [1.0, 2.0])
    layers = {"0": (2, 8)}
    forked = {"fork": "0001", "outcome": "ends lower", "spent": 0.5}
    kinds: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("cooling", {"begins": 150, **forked}),
        ("rate fork", {"factor": 2.0, **forked}),
        (
            "cooled forecast",
            {
                "averaged": 0.5,
                "forecast": about,
                "fork": "0001",
                "seen": 0.5,
                "going_on": 0.6,
                "spent": 20.0,
            },
        ),
        (
            "stationarity",
            {
                "learning_rate": 0.05,
                "steps": 64,
                "left": 0.1,
                "gain": about,
                "predicted": about,
                "stopped": False,
            },
        ),
        ("cut scored", {"cut_at": 120, "seen": 0.1, "within": True, "predicted": about}),
        (EVENT, {**asdict(examined)}),
        (NAME, Endpoint(64, 30.0, 0.0, 0.0, ABOUT, ABOUT, layers, layers).to_dict()),
        ("snapshot", {"number": 1}),
        ("warning", {"text": "noise is no longer measured: it ends", "stopped": "trajectory"}),
        ("warning", {"text": "every batch has the same rows", "repeats": "batch"}),
        ("warning", {"text": "the first NaN is in the inputs", "not_finite": "inputs"}),
        ("interrupted", {"reason": "KeyboardInterrupt"}),
        ("diverged", {"reason": "the loss is inf", "learning_rate": 0.05}),
        ("resumed", {}),
        ("finished", {}),
    )
    step = Run.open(path).steps
    with RunFolder.open(path).readings_path().open("a") as file:
        file.write(json.dumps({"kind": "resumed", "step": step}) + "\n")
    with RunFolder.open(path).events_path.open("a") as file:
        for place, (event, fields) in enumerate(kinds):
            at = SPIKE if event == EVENT else step
            file.write(
                json.dumps(plain({"event": event, "step": at, "time": float(place), **fields}))
                + "\n"
            )


def add_race(path: Path) -> None:
    """Add a fork that was raced, with an alternative that was stopped, and values of single
    examples."""
    rungs = (Rung(320, 2), Rung(640, 2))
    plan = Plan(100, (Rate(2.0), Rate(8.0)), 2, 640, left=1600, rungs=rungs, seed=3)
    record = ForkRecord.keep(path, plan)
    with record.ledger().opened() as keep:
        for branch in plan.branches:
            worse = 0.1 * (getattr(branch.alternative, "factor", 1.0) - 1) + 0.01 * branch.replicate
            readout = Readout.of(torch.linspace(0.2, 0.6, 8).double().numpy() + worse)
            alternative = branch.alternative.name
            curve = ((160, 0.6 + worse), (branch.horizon, 0.5 + worse))
            found = BranchResult(
                alternative,
                branch.replicate,
                branch.horizon,
                20,
                branch.horizon,
                0.1,
                curve,
                {"test_loss": readout},
            )
            keep(Outcome(branch.name, found, seconds=0.1))
    record.finish([Stop(Rate(8.0).name, 320, 2, "worse", GoOn().name, ABOUT)])
