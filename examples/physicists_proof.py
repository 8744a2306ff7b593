"""The physicist's proof: `python examples/physicists_proof.py [--out pictures]`

From one point of a real run, go the same distance Δ at smaller and smaller learning rates. A move
then rests on more and more batch gradients, and their mean comes to the full gradient: its relative
squared error falls as tr Σ/(BK‖g‖²) until what is left is by how much the full gradient itself
changes over Δ, which goes with Δ². Both are predicted beforehand. Fashion-MNIST (or the digits,
where it is not on this machine), a hundred steps into training. Half a minute.
"""

import argparse
from pathlib import Path

import altair as alt
import torch

from gradiometer import BadArgument, Objective, Problem
from gradiometer.measurement import Batch
from gradiometer.problems import load
from gradiometer.report.charts import save_png
from gradiometer_lab.lecture import Ground, Move, moves

BATCH_SIZE = 32
EXAMPLES = 10_000
TRAINED = 100
STEPS = {1: (1, 3, 10, 30, 100, 300, 1000), 10: (1, 3, 10, 30, 100)}
"""K of the moves, for Δ and for ten times Δ."""
FIRST_RATE = 0.004
"""η at which one step goes the distance Δ."""


def problem() -> Problem:
    """What is trained here."""
    try:
        return load("fashion-mnist")
    except BadArgument:
        return load("digits")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="The mean of many batch gradients is the full gradient."
    )
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder of the picture")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trained = problem()
    model, count = trained.model(), min(EXAMPLES, len(trained.train))
    train(model, trained, count)

    def draw(generator: torch.Generator) -> Batch:
        return trained.train.batch(torch.randint(count, (BATCH_SIZE,), generator=generator))

    objective = Objective(model, trained.loss)
    everything = [trained.train.batch(part) for part in torch.arange(count).split(1000)]
    ground = Ground.of(objective, everything, draw)
    made: list[Move] = []
    for times, steps in STEPS.items():
        distance = times * FIRST_RATE * ground.norm
        rates = [times * FIRST_RATE / count for count in steps]
        made += moves(objective, ground, draw, distance=distance, learning_rates=rates, seed=times)
    picture = save_png(
        chart(made), out / "physicists_proof.png", "Error of the mean gradient over a move"
    )
    tell(made, picture)


def train(model: torch.nn.Module, trained: Problem, count: int) -> None:
    """A hundred steps of SGD, so that it is a run one looks at and not its start."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(TRAINED):
        optimizer.zero_grad()
        trained.loss(
            model, trained.train.batch(torch.randint(count, (BATCH_SIZE,)))
        ).mean().backward()
        optimizer.step()


def chart(made: list[Move]) -> alt.LayerChart:
    """The error against η: measured points with their intervals, predicted lines, one colour for
    each Δ."""
    rows = [
        {
            "rate": move.learning_rate,
            "distance": f"Δ = {move.distance:.2g}",
            "seen": move.seen.value,
            "low": move.seen.low,
            "high": move.seen.high,
            "predicted": move.predicted,
        }
        for move in made
    ]
    log = alt.Scale(type="log")
    error = alt.Axis(title="relative squared error of the mean gradient")
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("rate:Q", scale=log, title="learning rate η"),
        color=alt.Color("distance:N", title=None),
    )
    return alt.layer(
        base.mark_line().encode(y=alt.Y("predicted:Q", scale=log, axis=error)),
        base.mark_rule().encode(y="low:Q", y2="high:Q"),
        base.mark_point(filled=True).encode(y="seen:Q"),
    ).properties(width=680, height=280)


def tell(made: list[Move], picture: Path) -> None:
    print(f"{'Δ':>8} {'η':>9} {'K':>6}  {'seen':<28} {'predicted':>9} = noise + drift")
    for move in made:
        parts = f"{move.predicted:9.2g} = {move.noise.value:.2g} + {move.drift:.2g}"
        print(
            f"{move.distance:8.3g} {move.learning_rate:9.2g} {move.steps:6,}  {move.seen!s:<28} "
            f"{parts}"
        )
    first, last = made[0], made[len(STEPS[1]) - 1]
    print(
        f"From η = {first.learning_rate:.2g} to {last.learning_rate:.2g} the relative squared "
        f"error of the mean of the K gradients of one move falls from {first.seen} to {last.seen} "
        f"(predicted {first.predicted:.2g} and {last.predicted:.2g}). {picture}"
    )


if __name__ == "__main__":
    main()
