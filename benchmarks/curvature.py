"""What does the curvature cost? `python benchmarks/curvature.py [--rounds 5] [--count] [--json]`

The top eigenvalue, the top ten and the trace of the Hessian of a small CNN on 1,024 examples, to the same accuracy:
a residual of 1 % of the largest eigenvalue, and a standard error of 5 % of the trace. (PyHessian has no residual to
ask for: it is timed at its own tolerance, and the residual it reached is printed.) Against PyHessian 0.1, and
curvlinops 3 with scipy's eigsh or its own trace estimators, where they are installed.

Every peer is timed once, on the examples in one batch and in the parts we use; the fastest of them then takes turns
with us. All on one thread, in processor seconds, on the same weights and examples. With `--count` everything runs once
and its multiplications are counted, in those of a gradient: the same on every machine.
"""

import copy
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rounds import median, ratio, timed
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradiometer import BadArgument, Estimate, Objective
from gradiometer.drift import Curvature
from gradiometer.drift.curvature import AT_ONCE
from gradiometer.measurement import Batch
from gradiometer.problems.images.fashion_mnist import load

EXAMPLES, STEPS = 1024, 100
RESIDUAL = 0.01
ERROR = 0.05
PARTS, OUR_PROBES = 32, 6
HUTCHINSON, HUTCHPP, XTRACE = 92, 48, 26
"""What it takes for a relative error of 5 %: ours from the standard deviation 0.10 of a probe of every 32 examples,
plain Hutchinson from 0.48 of a probe of all, XTrace from an error of 4.5 % over sixteen trials of 30 products;
Hutch++, in its favour, from 8 % over six trials of 36."""

Task = Callable[[], Any]


@dataclass(frozen=True)
class Line:
    """What one thing costs.

    Args:
        task: What is asked for.
        by: Who answers it.
        cost: In gradients of the same examples, or how many times faster we are.
    """

    task: str
    by: str
    cost: Estimate


class Bench:
    """A CNN a hundred steps into Fashion-MNIST, and its first 1,024 examples."""

    def __init__(self) -> None:
        problem = load("cnn")
        torch.manual_seed(0)
        self.model, self.loss = problem.model(), problem.loss
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        draw = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            chosen = problem.train.batch(torch.randint(len(problem.train), (64,), generator=draw))
            optimizer.zero_grad()
            self.loss(self.model, chosen).mean().backward()
            optimizer.step()
        self.batch: Batch = problem.train.batch(torch.arange(EXAMPLES))
        self.parts = [tuple(leaf[at : at + AT_ONCE] for leaf in self.batch) for at in range(0, EXAMPLES, AT_ONCE)]
        self.objective = Objective(self.model, self.loss)
        self.judge = self.curvature()
        self.sharpness = self.judge.eigenvalues().sharpness.value

    def curvature(self) -> Curvature:
        """The Hessian, its graphs built anew."""
        return Curvature(self.objective, self.parts)

    def gradient(self) -> None:
        """The unit of all costs."""
        for part in self.parts:
            self.objective.gradient(part)

    def residual(self, vectors: Tensor) -> float:
        """The largest ‖Hv − λv‖ over the rows, relative to λ_max."""
        units = vectors / vectors.norm(dim=1, keepdim=True)
        images = self.judge.products(units)
        values = (units * images).sum(dim=1, keepdim=True)
        return float((images - values * units).norm(dim=1).max()) / self.sharpness


def ours(bench: Bench) -> dict[str, Task]:
    return {
        "top eigenvalue": lambda: bench.curvature().eigenvalues(1, tolerance=RESIDUAL).vectors,
        "top ten": lambda: bench.curvature().eigenvalues(10, tolerance=RESIDUAL).vectors,
        "trace": lambda: Curvature.of(bench.objective, bench.batch, at_once=PARTS).trace(OUR_PROBES),
    }


def curvlinops(bench: Bench) -> dict[str, dict[str, Task]]:
    """With scipy's eigsh, and with its own estimators of the trace."""
    library = import_module("curvlinops")

    def operator(parts: list[Batch]) -> Any:
        parameters = list(bench.model.parameters())
        return library.HessianLinearOperator(
            bench.model, nn.CrossEntropyLoss(), parameters, parts, check_deterministic=False
        )

    def top(parts: list[Batch], count: int) -> Tensor:
        start = np.random.default_rng(0).standard_normal(bench.judge.dimension).astype(np.float32)
        found = eigsh(operator(parts).to_scipy(), k=count, which="LA", tol=RESIDUAL, v0=start)
        return torch.from_numpy(found[1].T.copy()).float()

    tasks: dict[str, dict[str, Task]] = {"top eigenvalue": {}, "top ten": {}, "trace": {}}
    for how, parts in (("one batch", [bench.batch]), ("parts", bench.parts)):
        tasks["top eigenvalue"][f"curvlinops + eigsh, {how}"] = lambda parts=parts: top(parts, 1)
        tasks["top ten"][f"curvlinops + eigsh, {how}"] = lambda parts=parts: top(parts, 10)
    for name, products in (("hutchinson_trace", HUTCHINSON), ("hutchpp_trace", HUTCHPP), ("xtrace", XTRACE)):
        estimator = getattr(library, name)
        tasks["trace"][f"curvlinops {name}, parts"] = lambda estimator=estimator, products=products: estimator(
            operator(bench.parts), products
        )
    return tasks


def pyhessian(bench: Bench) -> dict[str, dict[str, Task]]:
    """Power iteration and Hutchinson; in one batch it keeps its graph, as we do."""
    library = import_module("pyhessian")

    def hessian(how: str) -> Any:
        model, criterion = copy.deepcopy(bench.model), nn.CrossEntropyLoss()
        data = {"data": bench.batch} if how == "one batch" else {"dataloader": bench.parts}
        return library.hessian(model, criterion, cuda=False, **data)

    def top(how: str, count: int) -> Tensor:
        torch.manual_seed(0)
        _, vectors = hessian(how).eigenvalues(top_n=count)  # its own tolerance, on the change of the eigenvalue
        return torch.stack([torch.cat([part.reshape(-1) for part in each]) for each in vectors])

    def trace(how: str) -> float:
        return float(np.mean(hessian(how).trace(maxIter=HUTCHINSON, tol=0.0)))

    hows = ("one batch", "parts")
    return {
        "top eigenvalue": {f"PyHessian, {how}": lambda how=how: top(how, 1) for how in hows},
        "top ten": {"PyHessian, one batch": lambda: top("one batch", 10)},
        "trace": {f"PyHessian, {how}": lambda how=how: trace(how) for how in hows},
    }


def peers(bench: Bench) -> tuple[dict[str, dict[str, Task]], dict[str, str]]:
    """What others do, by task and name, and why some cannot."""
    tasks: dict[str, dict[str, Task]] = {}
    reasons: dict[str, str] = {}
    for name, build in (("curvlinops", curvlinops), ("pyhessian", pyhessian)):
        try:
            found = build(bench)
        except ImportError as error:
            reasons[name] = str(error)
            continue
        for task, ways in found.items():
            tasks.setdefault(task, {}).update(ways)
    return tasks, reasons


def compared(bench: Bench, task: str, our: Task, theirs: dict[str, Task], rounds: int) -> list[Line]:
    """Every peer once, the fastest of them and us in turns."""
    timed(bench.gradient)
    gradient, lines, once = timed(bench.gradient), list[Line](), dict[str, float]()
    for name, way in theirs.items():
        found: list[Any] = []
        once[name] = timed(lambda way=way, found=found: found.append(way()))
        lines.append(Line(task, f"{name}, once{_reached(bench, found[0])}", Estimate.exact(once[name] / gradient)))
    fastest = min(once, key=lambda name: once[name]) if once else None
    turns: dict[str, Task] = {"gradient": bench.gradient, "gradiometer": our}
    if fastest is not None:
        turns[fastest] = theirs[fastest]
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    order, shuffled = list(turns), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            seconds[name].append(timed(turns[name]))
    for name, way in turns.items():
        if name != "gradient":
            cost = ratio(seconds[name], seconds["gradient"])
            lines.append(Line(task, f"{name}{_reached(bench, way())}", cost))
    if fastest is not None:
        lines.append(Line(task, f"times faster than {fastest}", ratio(seconds[fastest], seconds["gradiometer"])))
    return lines


def counted(bench: Bench, task: str, ways: dict[str, Task]) -> list[Line]:
    """The multiplications of everything, in those of a gradient."""
    unit, lines = _multiplications(bench.gradient)[0], list[Line]()
    for name, way in ways.items():
        made, answer = _multiplications(way)
        lines.append(Line(task, f"{name}{_reached(bench, answer)}", Estimate.exact(made / unit)))
    return lines


def _multiplications(work: Task) -> tuple[int, Any]:
    """Those of products of matrices and of convolutions, and the result."""
    with FlopCounterMode(display=False) as counter:
        answer = work()
    return counter.get_total_flops() // 2, answer


def product(bench: Bench, rounds: int) -> list[Line]:
    """One Hessian product on the kept graph."""
    curvature = bench.curvature()
    vector = torch.randn(1, curvature.dimension)
    bench.gradient(), curvature.products(vector)
    pairs = [(timed(lambda: curvature.products(vector)), timed(bench.gradient)) for _ in range(4 * rounds)]
    return [Line("one product", "gradiometer", median([one / other for one, other in pairs]))]


def _reached(bench: Bench, answer: Any) -> str:
    """The residual of eigenvectors, in words; nothing for a trace."""
    return f" (residual {bench.residual(answer):.2%})" if isinstance(answer, Tensor) and answer.dim() == 2 else ""


@click.command()
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True)
@click.option("--task", "only", multiple=True, help="Only this one: one product, top eigenvalue, top ten, trace.")
@click.option("--count", is_flag=True, help="Multiplications instead of seconds; everything runs once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def main(rounds: int, only: tuple[str, ...], count: bool, as_json: bool) -> None:
    """What does the curvature cost, in gradients of the same examples?"""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # PyHessian's of its graph, SciPy's of its types
    try:
        bench = Bench()
    except BadArgument as error:
        raise click.ClickException(str(error)) from error
    theirs, reasons = peers(bench)
    lines, console = [] if count else product(bench, rounds), Console(stderr=True)
    if count:
        curvature = bench.curvature()
        vector = torch.randn(1, curvature.dimension)
        lines += counted(bench, "one product", {"gradiometer": lambda: curvature.products(vector)[0]})
    for task, our in ours(bench).items():
        if not only or task in only:
            with console.status(task):
                both = {"gradiometer": our, **theirs.get(task, {})}
                lines += (
                    counted(bench, task, both) if count else compared(bench, task, our, theirs.get(task, {}), rounds)
                )
    if as_json:
        click.echo(json.dumps({"costs": [asdict(line) for line in lines], "not_run": reasons}, ensure_ascii=False))
        return
    table = Table(title=f"Curvature of a CNN on {EXAMPLES:,} examples, in gradients of them", title_justify="left")
    for heading in ("task", "by", "gradients, or times"):
        table.add_column(heading)
    for line in lines:
        table.add_row(line.task, line.by, str(line.cost))
    output = Console(width=None if console.is_terminal else 130)
    output.print(table)
    for name, reason in reasons.items():
        output.print(f"{name}: not run; {reason}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
