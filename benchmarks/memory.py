"""How much memory a watched training needs above the same training unwatched, and who holds it.

    .venv/bin/python benchmarks/memory.py              # 5 and 20 million parameters, 2 minutes
    .venv/bin/python benchmarks/memory.py --sizes 124  # a GPT of 124 million, 10 minutes
    .venv/bin/python benchmarks/memory.py --check      # exits with 1 if a target is missed

Every storage that an operation of torch makes is counted until it is freed (`costs/memory.py`), so
the numbers are the same on every machine. *peak* is the peak of the watched training less that of
the plain one. It is in copies of the parameters, and in MB. *slope* and *constant* are fitted to
the sizes: a peak is the constant and the slope times the parameters. *holders* are the lines of the
watch that made what is large, with the most that each has held at once.

Every step is measured, so that each observer and each gauge has had its turn in twenty steps.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from costs.memory import GPT, LENGTH, Allocated, next_symbol
from torch import nn

import gradiometer
from gradiometer import watch

MILLION = 10**6
HOME = str(Path(gradiometer.__file__).parent)

# Width and blocks of the GPT by its millions of parameters.
SHAPES = {5: (256, 6), 20: (512, 6), 124: (768, 17)}

# All gauges are read in the first steps, and triage has looked at two of them.
STEPS = 20

# The part of a copy from which on a storage is large enough to be named.
LARGE = 0.005

# Most that two lines, and those with `loss=`, may hold above training: MB, and copies.
TARGETS = {"two lines": (32.0, 0.02), "loss=": (32.0, 1.2)}


class Held(Allocated):
    """Counts by the line of the watch that made a storage, too.

    Args:
        least: Bytes from which on a storage is named.
    """

    def __init__(self, least: float) -> None:
        super().__init__()
        self._least = least
        self._makers: dict[int, str] = {}
        self._held: Counter[str] = Counter()
        # The most bytes that each line has held at once.
        self.most: Counter[str] = Counter()

    def _made(self, key: int, size: int) -> None:
        super()._made(key, size)
        maker = maker_of_line() if size >= self._least else None
        if maker is not None:
            self._makers[key] = maker
            self._held[maker] += size
            self.most[maker] = max(self.most[maker], self._held[maker])

    def _freed(self, key: int) -> None:
        maker = self._makers.pop(key, None)
        if maker is not None:
            self._held[maker] -= self._alive[key]
        super()._freed(key)


def maker_of_line() -> str | None:
    """The innermost line of the package that is being run; None if it is training's own."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(HOME):
            if frame.f_code.co_name == "_heard":
                return None  # training's own backward, listened to
            return f"{name.removeprefix(HOME + '/')}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


@dataclass(frozen=True)
class Row:
    """One measured training.

    Args:
        optimizer: Its name.
        kind: "two lines", or "loss=".
        parameters: Their number.
        peak: Bytes above the plain training.
        most: The most bytes that each line of the watch has held.
    """

    optimizer: str
    kind: str
    parameters: int
    peak: int
    most: Counter[str]

    @property
    def copies(self) -> float:
        """The peak in copies of the parameters."""
        return self.peak / (4 * self.parameters)


def peak_of(size: int, optimizer: str, kind: str, work: Callable[[float], Allocated]) -> Allocated:
    """Train the GPT for some steps, and count what is allocated."""
    torch.manual_seed(0)
    width, blocks = SHAPES[size]
    model = GPT(width, blocks)
    trains: torch.optim.Optimizer = getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3)
    batches = [torch.randint(256, (4, LENGTH + 1)) for _ in range(STEPS)]
    copy = 4.0 * sum(parameter.numel() for parameter in model.parameters())
    with ExitStack() as stack:
        counted = stack.enter_context(work(copy))
        watched: Any = None
        if kind:
            settings: dict[str, Any] = {"loss": next_symbol} if kind == "loss=" else {}
            out = stack.enter_context(TemporaryDirectory())
            watched = stack.enter_context(
                watch(model, trains, out=out, every=1, page=False, quiet=True, **settings)
            )
        _train(model, trains, batches, watched, gives_batch=kind == "loss=")
    return counted


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[torch.Tensor],
    watched: Any,
    *,
    gives_batch: bool,
) -> None:
    for batch in batches:
        optimizer.zero_grad()
        loss = next_symbol(model, batch).mean()
        loss.backward()
        if watched is not None:
            watched.step(loss, *([batch] if gives_batch else []))
        optimizer.step()


def row_of(size: int, optimizer: str, kind: str) -> Row:
    """Measure one training, plain and watched."""
    plain = peak_of(size, optimizer, "", lambda _: Allocated())
    counted = peak_of(size, optimizer, kind, lambda copy: Held(LARGE * copy))
    assert isinstance(counted, Held)
    width, blocks = SHAPES[size]
    parameters = sum(parameter.numel() for parameter in GPT(width, blocks).parameters())
    return Row(optimizer, kind, parameters, counted.peak - plain.peak, counted.most)


def fit(rows: list[Row]) -> tuple[float, float]:
    """Copies a copy, and bytes beside them, of trainings of several sizes."""
    copies = np.array([4.0 * row.parameters for row in rows])
    slope, constant = np.polyfit(copies, np.array([row.peak for row in rows], dtype=float), 1)
    return float(slope), float(constant)


def main() -> int:
    """Print a row for each training, and the fit of each kind."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[5, 20], choices=SHAPES)
    arguments.add_argument("--optimizers", nargs="+", default=["SGD", "AdamW"])
    arguments.add_argument("--kinds", nargs="+", default=[*TARGETS], choices=[*TARGETS])
    arguments.add_argument("--check", action="store_true", help="exit with 1 if one is missed")
    asked = arguments.parse_args()
    missed = 0
    for optimizer in asked.optimizers:
        for kind in asked.kinds:
            most_megabytes, most_copies = TARGETS[kind]
            rows = []
            for size in asked.sizes:
                row = row_of(size, optimizer, kind)
                rows.append(row)
                allowed = most_megabytes * MILLION + most_copies * 4 * row.parameters
                missed += row.peak > allowed
                print(
                    f"{optimizer:6} {kind:10} {row.parameters / MILLION:6.1f} million: peak "
                    f"{row.copies:5.2f} copies, {row.peak / MILLION:7.1f} MB, target "
                    f"{allowed / MILLION:.1f} MB"
                )
                for maker, held in row.most.most_common(8):
                    print(f"    {held / (4 * row.parameters):5.2f}  {maker}")
                sys.stdout.flush()
            if len(rows) > 1:
                slope, constant = fit(rows)
                print(f"    slope {slope:.3f} copies, constant {constant / MILLION:.1f} MB")
    return int(asked.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
