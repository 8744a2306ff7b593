"""How much faster are independent runs as one? `python benchmarks/chains.py [--rounds 7] [--json]`

Steps: a step of all chains by each way there is, in turns with a loop over the chains as anyone writes it (torch's
SGD), batches taken included, on one thread.

Runs: whole calls of `run_chains`, which has to find out by itself which way is the fastest, over a grid of models,
batches and numbers of chains, against the loop: it must never lose by more than 5 %.

Peer: torchensemble's VotingClassifier on the same job, where it is installed (pip install torchensemble --no-deps).
"""

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import cycle, pairwise
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from rounds import Step, median, ratio, take_turns
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import Draw, Estimate, run_chains
from gradiometer.exploration.chains import ENGINES
from gradiometer.exploration.chains.state import SGDChains
from gradiometer.measurement import Traits, take
from gradiometer.problems.images import cross_entropy

Make = Callable[[], nn.Module]

EXAMPLES, RATE = 2048, 0.05


@dataclass(frozen=True)
class Line:
    """One number of the benchmark: how many times faster than the loop."""

    what: str
    how: str
    faster: Estimate


@dataclass(frozen=True)
class Job:
    """What is trained: a network, its inputs, its batch and how many of it."""

    name: str
    make: Make
    shape: tuple[int, ...]
    batch_size: int
    chains: int

    def data(self) -> tuple[Tensor, Tensor]:
        """Made-up examples of ten classes."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(EXAMPLES, *self.shape, generator=generator)
        return inputs, torch.randint(10, (EXAMPLES,), generator=generator)

    def __str__(self) -> str:
        return f"{self.name}, B = {self.batch_size}, M = {self.chains}"


class Recurrent(nn.Module):
    """An LSTM over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """The logits of the last row."""
        logits: Tensor = self.head(self.lstm(rows)[0][:, -1])
        return logits


def mlp(*widths: int) -> Make:
    """Linear layers with ReLU between them."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return make


def cnn() -> nn.Module:
    """Two small convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


def jobs(batch_sizes: tuple[int, ...], numbers: tuple[int, ...]) -> Iterator[Job]:
    """The grid."""
    for chains in numbers:
        for size in batch_sizes:
            yield Job("MLP 100-32-10", mlp(100, 32, 10), (100,), size, chains)
            yield Job("MLP 784-32-10", mlp(784, 32, 10), (784,), size, chains)
            yield Job("MLP 784-128-10", mlp(784, 128, 10), (784,), size, chains)
        yield Job("CNN 8-16", cnn, (1, 8, 8), 32, chains)
        yield Job("LSTM 16", Recurrent, (8, 8), 32, chains)


def by_hand(job: Job) -> Step:
    """A loop over the chains, in plain torch."""
    models = [job.make() for _ in range(job.chains)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=RATE) for model in models]
    inputs, targets = job.data()
    indices = cycle(_indices(job))

    def step() -> None:
        index = next(indices)
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            chosen = index[place]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()

    return step


def by_engine(job: Job, name: str) -> Step:
    """One of our engines."""
    chains = range(job.chains)
    models = [job.make() for _ in chains]
    state = SGDChains(models, chains, [RATE] * job.chains)
    data, indices = job.data(), cycle(_indices(job))
    example = data[0][: job.batch_size], data[1][: job.batch_size]
    if (reason := ENGINES[name].why_not(state, cross_entropy, example, Traits())) is not None:
        raise NotImplementedError(reason)
    engine = ENGINES[name](state, cross_entropy, partial(take, data), Traits())
    return lambda: engine.step(next(indices))


def _indices(job: Job) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(EXAMPLES, (job.chains, job.batch_size), generator=generator) for _ in range(8)]


def steps(rounds: int, reasons: dict[str, str]) -> list[Line]:
    """Each engine against the loop."""
    lines = []
    for chains in (8, 32):
        job = Job("MLP 100-32-10", mlp(100, 32, 10), (100,), 32, chains)
        ways = {"by hand": by_hand(job)}
        for name in ENGINES:
            try:
                ways[name] = by_engine(job, name)
            except NotImplementedError as error:
                reasons[f"{job}, {name}"] = str(error)
        seconds = take_turns(ways, rounds)
        lines += [Line(str(job), name, ratio(seconds["by hand"], seconds[name])) for name in ways if name != "by hand"]
    return lines


def whole_runs(rounds: int, length: int) -> list[Line]:
    """`run_chains` as it is called, against the loop, over the grid."""
    lines = []
    _run_seconds(Job("MLP 100-32-10", mlp(100, 32, 10), (100,), 32, 2), length)  # imports what a process does once
    for job in jobs((8, 32, 128), (2, 8)):
        faster, engines = [], set[str]()
        for turn in range(rounds):
            # Who goes first changes every round.
            order = (_loop_seconds, _run_seconds) if turn % 2 else (_run_seconds, _loop_seconds)
            found = {function.__name__: function(job, length) for function in order}
            seconds, engine = found["_run_seconds"]
            faster.append(found["_loop_seconds"][0] / seconds)
            engines.add(engine)
        lines.append(Line(str(job), f"run_chains: {' or '.join(sorted(engines))}", median(faster)))
    return lines


def _loop_seconds(job: Job, length: int) -> tuple[float, str]:
    step = by_hand(job)
    began = time.process_time()
    for _ in range(length):
        step()
    return time.process_time() - began, "by hand"


def _run_seconds(job: Job, length: int) -> tuple[float, str]:
    data = job.data()
    given: dict[str, Any] = {"chains": job.chains, "steps": length, "batch_size": job.batch_size}
    began = time.process_time()
    found = run_chains(job.make, cross_entropy, data, learning_rate=RATE, every=length, **given)
    return time.process_time() - began, found.engine


def peer(rounds: int) -> list[Line]:
    """Two epochs of torchensemble's VotingClassifier, one job at a time, against ours."""
    ensembles = import_module("torchensemble")
    logging.disable(logging.CRITICAL)
    job = Job("MLP 100-32-10", mlp(100, 32, 10), (100,), 32, 8)
    inputs, targets = job.data()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=job.batch_size, shuffle=True)
    faster, epochs = [], 2
    for _ in range(rounds):
        voting = ensembles.VotingClassifier(estimator=_Net, n_estimators=job.chains, cuda=False, n_jobs=1)
        voting.set_optimizer("SGD", lr=RATE)
        began = time.process_time()
        with redirect_stdout(io.StringIO()):
            voting.fit(loader, epochs=epochs, save_model=False, log_interval=10**9)
        theirs = time.process_time() - began
        began = time.process_time()
        length = epochs * len(loader)
        given: dict[str, Any] = {"chains": job.chains, "steps": length, "batch_size": job.batch_size}
        run_chains(job.make, cross_entropy, (inputs, targets), learning_rate=RATE, draw=Draw.RESHUFFLED, **given)
        faster.append(theirs / (time.process_time() - began))
    return [Line(f"{job}, {epochs} epochs", "run_chains against torchensemble", median(faster))]


class _Net(nn.Sequential):
    """The network as torchensemble makes it."""

    def __init__(self) -> None:
        super().__init__(*mlp(100, 32, 10)())


@click.command()
@click.option("--rounds", type=click.IntRange(min=5), default=7, show_default=True, help="Rounds of timing.")
@click.option("--length", type=click.IntRange(min=100), default=400, show_default=True, help="Steps of a whole run.")
@click.option("--part", type=click.Choice(["steps", "runs", "peer", "all"]), default="all", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(rounds: int, length: int, part: str, as_json: bool) -> None:
    """How many times faster than a loop over the chains."""
    torch.set_num_threads(1)
    reasons = dict[str, str]()
    lines = steps(rounds, reasons) if part in ("steps", "all") else []
    lines += whole_runs(rounds, length) if part in ("runs", "all") else []
    if part in ("peer", "all"):
        try:
            lines += peer(rounds)
        except Exception as error:  # another's code, of any age: whatever it does is its answer
            reasons["torchensemble"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if as_json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "missing": reasons}))
        return
    table = Table(box=None)
    for title in ("what", "how", "times faster"):
        table.add_column(title)
    for line in lines:
        table.add_row(line.what, line.how, str(line.faster))
    console = Console(width=140)
    console.print(table)
    for who, why in reasons.items():
        console.print(f"{who}: {why}")


if __name__ == "__main__":
    main()
