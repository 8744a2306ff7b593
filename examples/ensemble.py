"""Five models from one run: `python examples/ensemble.py [--export digits.pt2]`

A small network learns 700 digits, a tenth of them with a wrong label, in five cycles of heating
and cooling, in a loop of its own; the model at the end of each cycle is kept. What do the five
together give over the last of them, and over a run of the same length that cools once? A quarter
of the test images fits the temperatures, the rest is scored, each difference paired by image. Ten
seconds.
"""

import argparse
from pathlib import Path

import torch

from gradiometer import Draw, Ensemble, Examples, Problem, Schedule, SnapshotCollector
from gradiometer.convergence.schedules import Cosine, SnapshotCycle
from gradiometer.exploration.ensembles import (
    LogProbabilities,
    Predictions,
    Snapshot,
    averaged,
    differences,
    disagreement,
    export,
    validation_mask,
)
from gradiometer.measurement import Order
from gradiometer.problems import held_out_labels, load, log_probabilities

EPOCHS, MEMBERS, LEARNING_RATE = 40, 5, 0.2
IMAGES = 700


def noisy_digits() -> Problem:
    """The digits with few training images, a tenth of them with a wrong label."""
    torch.manual_seed(0)
    known = load("digits", model="mlp")
    inputs, labels = map(torch.cat, zip(known.train.data, known.test.data, strict=True))
    order = torch.randperm(len(inputs))
    inputs, labels = inputs[order], labels[order]
    wrong = IMAGES // 10
    labels[:wrong] = (labels[:wrong] + torch.randint(1, 10, (wrong,))) % 10
    return Problem(
        name="wrong-labels",
        model=known.model,
        loss=known.loss,
        train=Examples((inputs[:IMAGES], labels[:IMAGES])),
        test=Examples((inputs[IMAGES:], labels[IMAGES:])),
    )


def trained(problem: Problem, schedule: Schedule, collector: SnapshotCollector) -> None:
    """Plain torch; the collector is asked after every step."""
    torch.manual_seed(0)
    model, order = problem.model(), Order(Draw.RESHUFFLED, len(problem.train), 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    scheduler = schedule.scheduler(optimizer)
    for step in range(collector.cycle.steps):
        optimizer.zero_grad()
        problem.loss(model, problem.train.batch(order.batch(step))).mean().backward()
        optimizer.step()
        scheduler.step()
        collector.after(step, model)


def said(problem: Problem, snapshot: Snapshot) -> LogProbabilities:
    """What a model says of the test images."""
    model = problem.model()
    snapshot.load_into(model)
    return log_probabilities(problem, model, torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Five models from one run.")
    parser.add_argument(
        "--export", type=Path, default=None, help="write the ensemble as a .pt2 or .onnx file"
    )
    file = parser.parse_args().export
    torch.set_num_threads(1)
    problem = noisy_digits()
    steps = EPOCHS * Order(Draw.RESHUFFLED, len(problem.train), 32).steps_per_epoch
    cycle = SnapshotCycle(LEARNING_RATE, steps, MEMBERS)
    cycles, single = SnapshotCollector(cycle), SnapshotCollector(cycle)
    trained(problem, cycle, cycles)
    trained(problem, Cosine(LEARNING_RATE, steps), single)

    labels = held_out_labels(problem)
    validation = validation_mask(len(labels))
    members = [said(problem, snapshot) for snapshot in cycles.snapshots]
    together = Predictions.split(averaged(members), labels, validation)
    for name, other in (
        ("the last of them", members[-1]),
        ("one cooling", said(problem, single.snapshots[-1])),
    ):
        difference = differences(together, Predictions.split(other, labels, validation))
        print(
            f"Five snapshots less {name}: error {difference['error']}, log-loss "
            f"{difference['calibrated_nll']}."
        )
    unlike = disagreement([member[~validation] for member in members], labels[~validation])
    print(
        f"Two of them disagree {unlike} times as often as one is wrong: a cheap ensemble, not a "
        "posterior."
    )
    if file is not None:
        ensemble = Ensemble.of_snapshots(
            cycles.snapshots, problem.model(), temperature=together.temperature
        )
        print(f"Exported: {export(ensemble, problem.train.batch(torch.arange(3))[0], file)}")


if __name__ == "__main__":
    main()
