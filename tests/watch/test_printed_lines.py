"""The lines that findings print to paste run as they stand, for each way of watching."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import Run, watch
from gradiometer.loop.recorded.trials import with_trials
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.verdict import say

# Cures of each kind that a finding may name.
CURES = (
    ("rate 2x",),
    ("rate 0.25x",),
    ("cool now",),
    ("batch 2x, rate 1.29x",),
    ("batch 0.5x",),
    ("clip 1",),
    ("momentum 0.95",),
    ("batch 2x, rate 2x", "shorter 0.75x"),
)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def two_lines(w: Any, batch: Any, value: Tensor) -> None:
    w.step(value)


def with_batch(w: Any, batch: Any, value: Tensor) -> None:
    w.step(value, batch)


# What each way of watching gives, and how it calls `step`.
WAYS: dict[str, tuple[set[str], Callable[..., None]]] = {
    "two lines": (set(), two_lines),
    "the loss": ({"loss"}, with_batch),
    "loss and loader": ({"loss", "sampling"}, with_batch),
    "loss, loader and states": ({"loss", "sampling", "checkpoints"}, with_batch),
}

# The argument of `watch` by what a sentence says that a line needs.
ARGUMENTS = {"`loss=`": "loss", "`sampling=loader`": "sampling", "`checkpoints=3`": "checkpoints"}


def watched(
    out: Path,
    given: Iterable[str],
    step: Callable[..., None],
    *,
    inside: str = "",
    after: str = "",
) -> Run:
    """The run of a loop, with a line of Python at the end of the block and one after it."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), 8, shuffle=True)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    settings: dict[str, Any] = {"loss": loss, "sampling": loader, "checkpoints": 3}
    chosen = {name: settings[name] for name in given}
    with watch(model, optimizer, out=out, page=False, quiet=True, **chosen) as w:
        for _ in range(6):
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                step(w, batch, value)
                optimizer.step()
        exec(inside, {"w": w, "loader": loader})
    exec(after, {"w": w, "loader": loader})
    return Run.open(next(out.glob("loop-*")))


@pytest.mark.parametrize("has_ended", [False, True], ids=["running", "ended"])
@pytest.mark.parametrize("way", WAYS)
def test_a_line_to_paste_runs_with_what_it_says_it_needs(
    tmp_path: Path, way: str, *, has_ended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given, step = WAYS[way]
    run = watched(tmp_path / "first", given, step)
    if not has_ended:
        run.events.pop()
    cures = CURES if len(given) == len(ARGUMENTS) else CURES[1:4]
    for place, cure in enumerate(cures):
        facts = {"seen": "Something is seen."}
        found = Finding("noise", Issue.ESTIMATION, "own", State.ACT, facts=facts, cure=cure)
        (tried,) = with_trials(run, [found])
        said = say(tried).tried
        line = re.search(r"`(print\(w\..*?\)\))`", said)
        assert line, said
        needed = {argument for name, argument in ARGUMENTS.items() if name in said}
        assert not needed & given, said  # nothing is asked for that was given
        attends = with_batch if "loss" in given | needed else step
        where = "after" if "after the training" in said else "inside"
        capsys.readouterr()
        watched(tmp_path / str(place), given | needed, attends, **{where: line[1]})
        assert capsys.readouterr().out.strip(), said
