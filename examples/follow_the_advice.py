"""Does the advice on the batch size hold when it is followed?

    python examples/follow_the_advice.py                    digits: MLP and CNN, about a minute
    python examples/follow_the_advice.py --fashion-mnist    Fashion-MNIST as well, half an hour or
    more

At a batch of B a few learning rates a factor of two apart are tried: the fastest brings the
training loss down in the fewest updates. The steady one is the lowest that needs at most half as
many again; there a rate can be raised without leaving the range in which training is stable. Runs
at B are measured on their way. The noise scale in each sixth of the way says by what factor the
rate may be raised at 2B and at 4B, and in what share of the updates the same loss is then reached.
Both are followed, from the same starts, and predicted is printed beside seen, with intervals at 90
%. Beside them stands what the best of the rates tried at 2B and 4B needs, against the best at B,
which nobody knows beforehand; and what the linear rule gives, a rate raised in proportion to the
batch.

The loss is that of the training set (of Fashion-MNIST 1,000 fixed examples of it), each value the
mean of three successive looks. Looks are taken at equal sums of learning rates, so that the lag of
that mean is the same share of a run at every rate, and cancels from the ratios.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import torch

from gradiometer import Draw, Estimate, GradientNoise, Objective, Sampling, Series, TrainingStep
from gradiometer.estimation import relative_updates
from gradiometer.measurement import Order, Reading
from gradiometer.measurement.uncertainty import mean, transform
from gradiometer.problems import load
from gradiometer.report.charts import layered, save_png

SIXTHS = 6
"""Parts of the way, each with a noise scale of its own."""

SMOOTHED = 3
"""Successive looks at the loss that are averaged."""

PROMISED = 0.25
"""How far seen may lie from predicted."""

STEADY = 1.5
"""Updates, against those of the fastest rate, that the steady one may need. Of one step, half the
best rate has three quarters of the gain."""


@dataclass(frozen=True)
class Setting:
    """What is trained, from which batch on, to which training loss, at which rates at B.

    Args:
        look_every: Sum of learning rates from one look at the loss to the next.
        give_up: Sum of learning rates after which a run counts as one that does not get there.
        examples: How many training examples are looked at; None for all.
    """

    problem: str
    model: str
    batch_size: int
    loss: float
    rates: tuple[float, ...]
    look_every: float
    give_up: float
    examples: int | None = None


DIGITS = (
    Setting("digits", "mlp", 16, 0.1, (0.2, 0.4, 0.8), look_every=2.0, give_up=400),
    Setting("digits", "cnn", 16, 0.1, (0.1, 0.2, 0.4), look_every=2.0, give_up=300),
)
FASHION_MNIST = (
    Setting(
        "fashion-mnist",
        "mlp",
        32,
        0.45,
        (0.1, 0.2, 0.4),
        look_every=4.0,
        give_up=600,
        examples=1000,
    ),
    Setting(
        "fashion-mnist",
        "cnn",
        32,
        0.45,
        (0.1, 0.2, 0.4),
        look_every=2.0,
        give_up=300,
        examples=1000,
    ),
)


@dataclass(frozen=True)
class Outcome:
    """A larger batch: updates to the loss, relative to the tuned runs at B.

    Args:
        name: Problem and model.
        from_rate: "steady" or "fastest": the rate at B that was raised.
        batch_size: The larger batch.
        rate: The advised rate.
        predicted, seen: At the advised rate.
        best: At the best of the rates tried at the larger batch, against the best at B.
        linear: At the rate raised in proportion to the batch; inf where it does not get there.
    """

    name: str
    from_rate: str
    batch_size: int
    rate: float
    predicted: Estimate
    seen: Estimate
    best: float
    linear: float

    @property
    def holds(self) -> bool:
        """Whether seen lies within 25 % of predicted."""
        return abs(self.seen.value / self.predicted.value - 1) <= PROMISED

    def __str__(self) -> str:
        ratio = f"{self.seen.value / self.predicted.value:.2f}" if self.seen.tells else "-"
        cells = (
            *(
                self.name,
                self.from_rate,
                str(self.batch_size),
                f"{self.rate:.3f}",
                in_words(self.predicted),
            ),
            *(
                in_words(self.seen),
                ratio,
                "yes" if self.holds else "NO",
                f"{self.best:.2f}",
                f"{self.linear:.2f}",
            ),
        )
        return row(cells)


COLUMNS = dict.fromkeys(
    ["", "from", "B", "rate", "predicted", "seen", "ratio", "25 %", "best", "linear"], 5
)
COLUMNS |= {"": 17, "from": 7, "predicted": 17, "seen": 17}
"""Headings, and how wide their columns are."""


def row(cells: Sequence[str]) -> str:
    """Cells in columns: two of words, to the left, and then numbers, to the right."""
    aligned = zip(cells, COLUMNS.values(), "<<" + ">" * 8, strict=True)
    return " ".join(f"{cell:{side}{width}}" for cell, width, side in aligned)


class Runs:
    """Runs of one setting, each from a start of its own to the loss; a rate that was tried is not
    tried again."""

    def __init__(self, setting: Setting, seeds: int) -> None:
        self.setting, self.seeds = setting, seeds
        self.problem = load(setting.problem, model=setting.model)
        examples = len(self.problem.train)
        chosen = torch.randperm(examples, generator=torch.Generator().manual_seed(0))[
            : setting.examples
        ]
        self.looked_at = self.problem.train.batch(chosen)
        self.sampling = Sampling(Draw.RESHUFFLED, examples)
        self.known: dict[tuple[int, float], np.ndarray] = {}

    def updates(self, batch_size: int, rate: float) -> np.ndarray:
        """Updates to the loss, one number a start; inf where a run does not get there."""
        key = batch_size, rate
        if key not in self.known:
            self.known[key] = np.array(
                [self.run(batch_size, rate, seed) for seed in range(self.seeds)]
            )
        return self.known[key]

    def tried(self, batch_size: int) -> dict[float, float]:
        """Updates by rate, for the rates and as many more above as the linear rule would take."""
        doublings = (batch_size // self.setting.batch_size).bit_length() - 1
        more = [self.setting.rates[-1] * 2.0**power for power in range(1, doublings + 1)]
        return {
            rate: float(self.updates(batch_size, rate).mean())
            for rate in [*self.setting.rates, *more]
        }

    def steady_and_fastest(self) -> tuple[float, float]:
        """Two rates at B; they may be the same."""
        tried = self.tried(self.setting.batch_size)
        fewest = min(tried.values())
        steady = min(rate for rate, updates in tried.items() if updates <= STEADY * fewest)
        return steady, min(tried, key=lambda rate: tried[rate])

    def noise_scales(self, rate: float) -> list[Estimate]:
        """In each sixth of the way at B, from the runs of all starts together."""
        parts: list[list[Reading]] = [[] for _ in range(SIXTHS)]
        for seed in range(self.seeds):
            readings: list[Reading] = []
            self.run(self.setting.batch_size, rate, seed, readings)
            for place, reading in enumerate(readings):
                parts[SIXTHS * place // len(readings)].append(reading)
        names = Objective(self.problem.model(), self.problem.loss).layers
        in_order = [sorted(part, key=lambda reading: reading.step) for part in parts]
        return [
            GradientNoise().estimate(Series.of(part, self.sampling, names))["noise_scale"]
            for part in in_order
        ]

    def run(
        self, batch_size: int, rate: float, seed: int, readings: list[Reading] | None = None
    ) -> float:
        """Updates of one run to the loss. Where `readings` are asked for, every step's noise is
        added to them."""
        torch.manual_seed(seed)
        model, loss, train = self.problem.model(), self.problem.loss, self.problem.train
        optimizer, objective = torch.optim.SGD(model.parameters(), lr=rate), Objective(model, loss)
        order = Order(Draw.RESHUFFLED, len(train), batch_size, seed=seed)
        every, looks = max(round(self.setting.look_every / rate), 1), list[float]()
        for step in range(int(self.setting.give_up / rate)):
            if step % every == 0:
                with torch.no_grad():
                    looks.append(float(loss(model, self.looked_at).mean()))
                if (there := self.reached(looks)) is not None:
                    return there * every
            batch = train.batch(order.batch(step))
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            if readings is not None:
                gradient = [parameter.grad for parameter in objective.parameters]
                caught = TrainingStep(
                    objective,
                    batch,
                    index=step,
                    learning_rate=rate,
                    sampling=self.sampling,
                    gradient=gradient,
                    seed=seed,
                )
                readings.append(
                    Reading("noise", step, batch_size, rate, GradientNoise().measure(caught))
                )
            optimizer.step()
        return math.inf

    def reached(self, looks: list[float]) -> float | None:
        """Between which looks the smoothed loss came down to the target, on a line through its
        logarithms."""
        if not math.isfinite(looks[-1]):
            return math.inf
        if len(looks) <= SMOOTHED:
            return None
        before, after = (
            float(np.mean(looks[-SMOOTHED - back : len(looks) - back])) for back in (1, 0)
        )
        if after > self.setting.loss:
            return None
        share = math.log(before / self.setting.loss) / math.log(before / after)
        return len(looks) - 2 + min(max(share, 0.0), 1.0) - (SMOOTHED - 1) / 2


def followed(setting: Setting, seeds: int) -> list[Outcome]:
    """Measure at B, at the steady and at the fastest rate, and follow the advice to 2B and 4B."""
    runs = Runs(setting, seeds)
    steady, fastest = runs.steady_and_fastest()
    return [
        *advised(runs, steady, "steady"),
        *(advised(runs, fastest, "fastest") if fastest != steady else []),
    ]


def advised(runs: Runs, rate: float, from_rate: str) -> list[Outcome]:
    """The advice from this rate at B, followed."""
    setting, batch_size = runs.setting, runs.setting.batch_size
    name, present = f"{setting.problem} {setting.model}", runs.updates(batch_size, rate)
    scales = runs.noise_scales(rate)
    way = ", ".join(f"{scale.value:,.0f}" for scale in scales)
    print(
        f"\n{name}: loss {setting.loss} in {present.mean():,.0f} updates of B = {batch_size} at "
        f"the {from_rate} rate {rate:g}; noise scale on the way {way}\n{row(tuple(COLUMNS))}",
        flush=True,
    )
    outcomes: list[Outcome] = []
    for larger in (2 * batch_size, 4 * batch_size):
        predicted = relative_updates(scales, batch_size, larger)
        followed_rate, linear = (
            rate / predicted.value,
            runs.updates(larger, rate * larger / batch_size),
        )
        outcomes.append(
            Outcome(
                name=name,
                from_rate=from_rate,
                batch_size=larger,
                rate=followed_rate,
                predicted=predicted,
                seen=ratio(runs.updates(larger, followed_rate), present),
                best=min(runs.tried(larger).values()) / min(runs.tried(batch_size).values()),
                linear=float(linear.mean() / present.mean()),
            )
        )
        print(outcomes[-1], flush=True)
    return outcomes


def ratio(updates: np.ndarray, present: np.ndarray) -> Estimate:
    """The geometric mean of the ratios, paired by start, with Student's interval on their
    logarithms."""
    if not np.isfinite(updates).all():
        lost = f"{np.isinf(updates).sum()} of {len(updates)} failed"
        return Estimate.unknown(level=0.9, method=lost, samples=len(updates))
    return transform(mean(np.log(updates / present), batches=len(updates)), math.exp)


def in_words(estimate: Estimate) -> str:
    """Value and interval in two digits after the point; or why there is none."""
    if not estimate.tells:
        return estimate.method
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def picture(outcomes: Sequence[Outcome]) -> alt.LayerChart:
    """Seen against predicted, with the bars of both; between the thin lines they differ by less
    than 25 %."""
    rows = [
        {
            "predicted": outcome.predicted.value,
            "seen": outcome.seen.value,
            "low": outcome.seen.low,
            "high": outcome.seen.high,
            "left": outcome.predicted.low,
            "right": outcome.predicted.high,
            "series": outcome.name,
            "from": f"from the {outcome.from_rate} rate",
        }
        for outcome in outcomes
        if outcome.seen.tells
    ]
    ends = (0.3, 1.0)
    lines = [
        {"x": x, "y": x * factor, "factor": factor}
        for factor in (1 - PROMISED, 1, 1 + PROMISED)
        for x in ends
    ]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    x = alt.X("predicted:Q", scale=scale, title="updates predicted, relative to the smaller batch")
    y = alt.Y("seen:Q", scale=scale, title="updates seen, relative to the smaller batch")
    shapes = alt.Scale(range=["circle", "square", "triangle-up", "cross"])
    shape = alt.Shape("series:N", scale=shapes, legend=alt.Legend(title=None, columns=2))
    base = alt.Chart(alt.Data(values=rows)).encode(
        color=alt.Color("from:N", legend=alt.Legend(title=None, columns=1))
    )
    line = alt.Chart(alt.Data(values=lines)).mark_line(
        strokeWidth=1, opacity=0.5, clip=True, color="gray"
    )
    return layered(
        base.mark_point(size=70).encode(x=x, y=y, shape=shape),
        base.mark_rule(clip=True).encode(x=x, y="low:Q", y2="high:Q"),
        base.mark_rule(clip=True).encode(x="left:Q", x2="right:Q", y=y),
        line.encode(x="x:Q", y="y:Q", detail="factor:N"),
    ).properties(width=420, height=420)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--fashion-mnist", action="store_true", help="Fashion-MNIST as well, which takes longer."
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="starts of each kind of run, at least 4"
    )
    parser.add_argument("--png", type=Path, help="draw seen against predicted into this file")
    arguments = parser.parse_args()
    if not arguments.seeds >= 4:
        parser.error(f"--seeds must be at least 4 for an interval, got {arguments.seeds}")
    torch.set_num_threads(1)
    settings = [*DIGITS, *(FASHION_MNIST if arguments.fashion_mnist else ())]
    print(f"Updates to the same loss, relative to B ({arguments.seeds} starts, 90 % intervals)")
    outcomes = [outcome for setting in settings for outcome in followed(setting, arguments.seeds)]
    for rate in ("steady", "fastest"):
        held = [outcome.holds for outcome in outcomes if outcome.from_rate == rate]
        print(
            f"\nFrom the {rate} rate, the advice kept its word within 25 % in {sum(held)} of "
            f"{len(held)} cases."
        )
    if arguments.png:
        print(
            "Drawn in "
            f"{save_png(picture(outcomes), arguments.png, 'The advice on the batch size, followed')}."
        )


if __name__ == "__main__":
    main()
