"""Does advice hold in a loop of one's own, if it is pasted from `w.findings()` as it is printed?

    .venv/bin/python benchmarks/advice_pasted.py                     # about three minutes of
    processor time .venv/bin/python benchmarks/advice_pasted.py --cases practice    # those on which
    this script was written .venv/bin/python benchmarks/advice_pasted.py --cooled            #
    constant rates fall to zero over each length

Each case is a loop with `watch`, which measures every fourth step. From step 300 on it prints the
findings at every hundredth step, and stops at the first that advises another batch. The batch size,
the learning rate and the forecast are taken from that text, and from nothing else. At a constant
rate training is resumed there, once as it was and once with what was pasted. Under a schedule it
starts again, over several lengths, each with the whole schedule. Under AdamW two rates are advised;
both are tried, and the better one counts. Its finding has no line "Forecast", but says by how much
twice the batch divides the number of updates.

What is measured is the number of updates to the same training loss, relative to going on as before,
over six data orders, with the 90 % interval of the jackknife. A forecast held if that is inside its
interval or within 25 % of it.
"""

import argparse
import copy
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from advice import LEVEL, ratio_at, verdict_on_number
from now_runs import (
    Characters,
    Data,
    Schedule,
    constant,
    convolutions,
    cosine,
    images,
    perceptron,
    text,
)
from scipy.stats import t
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import Estimate, supervised, watch

ORDERS = 6
EVERY = 4
"""Every so many steps are measured."""

FIRST, BETWEEN, LAST = 300, 100, 1000
"""Steps at which the findings are printed."""

SHARES = (0.3, 0.42, 0.6, 0.85, 1.0)
"""Lengths of going on as before, as shares of the whole."""

SAME = 0.6
"""The pasted settings are trained until, by the forecast, they reach the loss of going on for this
share."""

SMOOTHED = 0.05
"""At a constant rate a loss is the mean over this share of the length before it, at
`LOOKS` points."""
LOOKS = 3

SEEN = 1500
"""Training examples whose loss is looked at."""

LOSS = supervised(nn.CrossEntropyLoss())


@dataclass(frozen=True)
class Case:
    """A loop.

    Args:
        data, model: Make the examples and the network.
        optimizer: Class name in `torch.optim`.
        settings: Its settings.
        batch: Examples of a batch.
        updates: Length of the schedule, or updates from the advice on at a constant rate.
        schedule: Factor of the rate at a share of the length.
    """

    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    optimizer: str
    settings: dict[str, Any]
    batch: int
    updates: int
    schedule: Schedule = constant

    @property
    def is_constant(self) -> bool:
        """True if the rate does not change."""
        return self.schedule is constant

    @property
    def resumes(self) -> bool:
        """True if training is resumed at the advice, and not started again."""
        return self.schedule in (constant, falling)


def falling(share: float) -> float:
    """Linearly to zero."""
    return 1 - share


JUDGED = {
    "Fashion MLP, SGD with momentum": Case(
        lambda: images("fashion-mnist", 6000),
        lambda: perceptron(784, 64, 10),
        "SGD",
        {"lr": 0.01, "momentum": 0.9},
        batch=32,
        updates=1200,
    ),
    "Fashion CNN, SGD, cosine": Case(
        lambda: images("fashion-mnist", 6000),
        lambda: convolutions(8, 16, features=784),
        "SGD",
        {"lr": 0.1},
        batch=16,
        updates=1000,
        schedule=cosine,
    ),
    "text transformer, AdamW": Case(
        lambda: text(3000, 24),
        lambda: Characters(128, 32, 1, 24),
        "AdamW",
        {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1},
        batch=8,
        updates=800,
    ),
    "Fashion CNN, AdamW, cosine": Case(
        lambda: images("fashion-mnist", 6000),
        lambda: convolutions(8, 16, features=784),
        "AdamW",
        {"lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.1},
        batch=16,
        updates=1000,
        schedule=cosine,
    ),
}
PRACTICE = {
    "digits MLP, SGD": Case(
        lambda: images("digits", 1400),
        lambda: perceptron(64, 64, 10),
        "SGD",
        {"lr": 0.1},
        batch=16,
        updates=800,
    ),
    "digits MLP, AdamW, cosine": Case(
        lambda: images("digits", 1400),
        lambda: perceptron(64, 64, 10),
        "AdamW",
        {"lr": 2e-3, "betas": (0.9, 0.95)},
        batch=16,
        updates=900,
        schedule=cosine,
    ),
}


@dataclass(frozen=True)
class Pasted:
    """What is taken from the text of the findings: batch size, factors of the rate to try, and the
    forecast."""

    batch: int
    factors: tuple[float, ...]
    forecast: Estimate
    line: str


def pasted(words: str, peak: float) -> Pasted | None:
    """The advice in the text of findings, or None.

    >>> words = "Forecast: 0.6 [0.5, 0.7] times the updates and 1.2 times the examples."
    >>> pasted(f"{words} Try: `batch_size = 64` with `lr = 0.2`, if ...", peak=0.1).factors
    (2.0,)
    """
    if (size := re.search(r"`batch_size = (\d+)` with", words)) is None:
        return None
    line = words[size.start() :].split(". ", maxsplit=1)[0]
    if rate := re.search(r"`lr = ([\d.e-]+)`", line):
        factors: tuple[float, ...] = (float(rate[1]) / peak,)
    elif times := re.search(r"learning rate times ([\d.]+)", line):
        factors = (float(times[1]),)
    elif ends := re.search(r"rate between ([\d.e-]+) and ([\d.e-]+)", line):
        factors = (float(ends[1]) / peak, float(ends[2]) / peak)
    else:
        raise ValueError(f"no learning rate in {line!r}")
    if stated := re.search(r"Forecast: ([\d.]+) \[([\d.]+), ([\d.]+)\] times the updates", words):
        value, low, high = map(float, stated.groups())
    elif model := re.search(r"\(([\d.]+)x → ([\d.]+)x of the minimum\)", words):
        value = low = high = float(model[2]) / float(model[1])
    else:
        raise ValueError(f"no forecast in {words!r}")
    forecast = Estimate.interval(value, low, high, level=LEVEL, method="pasted", samples=1)
    return Pasted(int(size[1]), factors, forecast, line)


class Loop:
    """A network and its optimizer in training on one case."""

    def __init__(self, case: Case, seed: int) -> None:
        torch.manual_seed(seed)
        self.case, self.examples = case, TensorDataset(*case.data())
        self.model = case.model()
        self.optimizer = getattr(torch.optim, case.optimizer)(
            self.model.parameters(), **case.settings
        )

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled epochs without end."""
        loader = self.loader(size, seed)
        while True:
            yield from loader

    def loader(self, size: int, seed: int) -> DataLoader[Any]:
        """Shuffled batches of one epoch."""
        order = torch.Generator().manual_seed(seed)
        return DataLoader(
            self.examples, batch_size=size, shuffle=True, drop_last=True, generator=order
        )

    def step(self, batch: tuple[Tensor, Tensor], rate: float, w: Any = None) -> None:
        """One update."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = LOSS(self.model, batch)
        loss.backward()
        if w is not None:
            w.step(loss, batch)
        self.optimizer.step()

    @torch.no_grad()
    def loss(self) -> float:
        """The loss of the first training examples."""
        return float(LOSS(self.model, self.examples[:SEEN]))


def advised(case: Case) -> tuple[Pasted, Loop, int]:
    """The first advice on the batch that the findings print, the loop there, and the step."""
    loop, peak = Loop(case, seed=0), case.settings["lr"]
    sampling = loop.loader(case.batch, 0)
    with (
        tempfile.TemporaryDirectory() as out,
        watch(
            loop.model,
            loop.optimizer,
            loss=LOSS,
            sampling=sampling,
            every=EVERY,
            out=out,
            page=False,
        ) as w,
    ):
        for step, batch in enumerate(loop.batches(case.batch, seed=0)):
            if step >= FIRST and step % BETWEEN == 0:
                words = " ".join(str(w.findings()).split())
                if (found := pasted(words, peak)) is not None:
                    return found, loop, step
                if step >= LAST:
                    raise ValueError(f"no advice by step {step}: {words}")
            loop.step(batch, peak * case.schedule(step / case.updates), w)
    raise AssertionError


def losses_after(
    case: Case, start: Loop, size: int, factor: float, lengths: Sequence[int], order: int
) -> list[float]:
    """Training losses after so many updates with this batch and factor of the rate, in one data
    order."""
    found = []
    loop, peak = copy.deepcopy(start), factor * case.settings["lr"]
    if case.is_constant:
        wanted = {at: place for place, length in enumerate(lengths) for at in looks(length)}
        seen: list[list[float]] = [[] for _ in lengths]
        for step, batch in zip(range(1, max(lengths) + 1), loop.batches(size, order), strict=False):
            loop.step(batch, peak)
            if step in wanted:
                seen[wanted[step]].append(loop.loss())
        return [float(np.mean(each)) for each in seen]
    for length in lengths:
        loop = copy.deepcopy(start) if case.resumes else Loop(case, seed=order)
        for step, batch in zip(range(length), loop.batches(size, order), strict=False):
            loop.step(batch, peak * case.schedule(step / length))
        found.append(loop.loss())
    return found


def looks(length: int) -> list[int]:
    """The steps at which the loss is looked at for its mean before this length."""
    return [int(at) for at in np.linspace((1 - SMOOTHED) * length, length, LOOKS).round()]


def measured(case: Case, start: Loop, found: Pasted) -> dict[float, Estimate]:
    """By factor of the rate: updates to the same loss with what was pasted, relative to those of
    going on as before."""
    lengths = [int(share * case.updates) for share in SHARES]
    own = max(round(found.forecast.value * SAME * case.updates), 1)
    orders = range(100, 100 + ORDERS)
    going = np.array(
        [losses_after(case, start, case.batch, 1.0, lengths, order) for order in orders]
    ).T
    return {
        factor: relative(
            lengths,
            going,
            own,
            np.array(
                [
                    losses_after(case, start, found.batch, factor, [own], order)[0]
                    for order in orders
                ]
            ),
        )
        for factor in found.factors
    }


def relative(lengths: Sequence[int], going: np.ndarray, own: int, ends: np.ndarray) -> Estimate:
    """The own length over that at which going on reaches the same loss, with the jackknife over the
    data orders.

    Args:
        lengths: Lengths of going on.
        going: Their losses, shape [lengths, orders].
        own: The length of the other training.
        ends: Its losses, shape [orders].
    """

    def log_ratio(chosen: np.ndarray) -> float:
        return ratio_at(
            np.log(lengths),
            going[:, chosen].mean(axis=1),
            math.log(own),
            float(ends[chosen].mean()),
        )

    everyone = np.arange(len(ends))
    value, count = log_ratio(everyone), len(ends)
    pseudo = [count * value - (count - 1) * log_ratio(np.delete(everyone, one)) for one in everyone]
    reach = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(pseudo, ddof=1) / math.sqrt(count))
    if not math.isfinite(value):
        print(
            f"  {own} updates end at {ends.mean():.4f}, {lengths} of going on at "
            f"{going.mean(axis=1).round(4)}"
        )
    inside = (
        (value, value - reach, value + reach)
        if math.isfinite(reach)
        else (value, -math.inf, math.inf)
    )
    return Estimate.interval(*map(math.exp, inside), level=LEVEL, method="jackknife", samples=count)


def main() -> None:
    """Follow the advice of every case, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", choices=("judged", "practice"), default="judged")
    parser.add_argument(
        "--cooled",
        action="store_true",
        help="only loops at a constant rate, whose branches are cooled",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| loop | step | pasted | forecast of updates | measured | |\n| --- | --- | --- | --- | "
        "--- | --- |"
    )
    for name, case in (JUDGED if arguments.cases == "judged" else PRACTICE).items():
        if arguments.cooled and not case.is_constant:
            continue
        found, start, step = advised(case)
        case = replace(case, schedule=falling) if arguments.cooled else case  # noqa: PLW2901
        tried = measured(case, start, found)
        factor, best = min(
            tried.items(),
            key=lambda each: each[1].value if math.isfinite(each[1].value) else math.inf,
        )
        others = "".join(f"; × {one:.3g}: {each}" for one, each in tried.items() if one != factor)
        verdict = verdict_on_number(found.forecast, best)
        line = found.line.replace("|", "")
        print(
            f"| {name} | {step} | {line} | {found.forecast} | × {factor:.3g}: {best}{others} | "
            f"{verdict} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
