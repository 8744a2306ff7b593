"""Are forks of other people's loops right? Twenty loops of twenty kinds are forked in their middle,
and each branch is compared with a continuation by hand.

    python benchmarks/forks_of_loops.py             # 3 minutes
    python benchmarks/forks_of_loops.py Clipping

A continuation by hand runs the script itself: from its start, then on the batches of the branch, at
the rates of the branch. Where it ends at the same number as the branch to six digits, the fork is
that loop. `FORKED` was written before any of them was tried.
"""

import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import own_loops.more as own_loops_more
import own_loops.plain as own_loops
import torch
from own_loops.plain import Script
from own_loops.trainers import REPLICATES, START, TRAINERS, UPDATES
from torch import Tensor

from gradiometer import GradiometerError, watch
from gradiometer.loop import Fork

FACTORS = {"go on": 1.0, "rate 2x": 2.0}

SAME = 1e-5
"""Largest relative difference of two numbers that are the same but for rounding."""

KINDS: tuple[type[Script], ...] = (
    own_loops.Clipping,
    own_loops.TwoSteps,
    own_loops.MovingAverage,
    own_loops.TwoOptimizers,
    own_loops.MixedPrecision,
    own_loops.Checkpointing,
    own_loops.Compiled,
    own_loops.GradientPenalty,
    own_loops.PhysicsInformed,
    own_loops.Contrastive,
    own_loops_more.Adversarial,
    own_loops_more.PolicyGradient,
    own_loops_more.CarriedState,
    own_loops_more.Quasinewton,
    own_loops_more.Lambdas,
    own_loops_more.ByHand,
    own_loops_more.HandMadeLoader,
    own_loops_more.TwoBackwards,
)
"""Those that need no trainer and one process."""

FORKED = {
    "Clipping",
    "TwoSteps",
    "MovingAverage",
    "TwoOptimizers",
    "MixedPrecision",
    "Checkpointing",
    "Compiled",
    "GradientPenalty",
    "PhysicsInformed",
    "Contrastive",
    "Quasinewton",
    "Lambdas",
    "ByHand",
    "HandMadeLoader",
    "HuggingFace",
    "Lightning",
}
"""Those that must be forked, named before the first of them was tried."""


def trained(
    kind: type[Script],
    out: Path,
    *,
    at: Callable[[Any, Script], Any] = lambda *_: None,
    watched: bool = True,
    after: int = 0,
    **settings: Any,
) -> tuple[Script, Any]:
    """A training to the step of the fork and further, and what `at` has returned there."""
    script = kind()
    order = script.updates(0)
    if not watched:
        for _ in range(START + after):
            script.update(next(order), lambda *_: None)
        return script, None
    optimizers = script.optimizers
    with watch(
        script.model,
        optimizers if len(optimizers) > 1 else optimizers[0],
        out=out,
        page=False,
        quiet=True,
        **script.told,
        **settings,
    ) as w:
        for _ in range(START):
            script.update(next(order), w.step)
        found = at(w, script)
        for _ in range(after):
            script.update(next(order), w.step)
    return script, found


def forked(w: Any, script: Script) -> Fork:
    """The fork that the person of the script asks for."""
    found: Fork = w.fork(
        batches=script.batches,
        alternatives=["rate 2x"],
        horizon=f"{UPDATES} updates",
        replicates=REPLICATES,
        evaluate=lambda model: {"score": script.score(model)},
        **script.asked,
    )
    return found


def by_hand(kind: type[Script], factor: float, replicate: int) -> float:
    """Where the script itself ends on the batches of a replicate, at this factor on its rates."""
    script, _ = trained(kind, Path(), watched=False)
    order = script.updates(zlib.crc32(f"0/data/{replicate}".encode()))
    torch.manual_seed(zlib.crc32(f"0/{replicate}/draws".encode()))
    for update in range(UPDATES):
        script.multiply(factor * (1 - (update + 0.5) / UPDATES))
        script.update(next(order), lambda *_: None)
    script.model.eval()
    torch.manual_seed(zlib.crc32(b"0/readouts"))
    return script.score(script.model)


def said_of(found: Fork, own: Mapping[str, Sequence[float]]) -> str:
    """What the branches and the continuations by hand have in common.

    Args:
        found: The fork.
        own: Where the continuations by hand end, by alternative and replicate.
    """
    far = max(
        abs(result.readouts["score"].mean / own[name][result.replicate] - 1)
        for name in FACTORS
        for result in found.of(name)
    )
    truth = float(np.mean(np.subtract(own["rate 2x"], own["go on"])))
    (effect,) = found.effects("score")
    covers = effect.estimate.low <= truth <= effect.estimate.high
    return (
        f"{'same' if far < SAME else f'differs by {far:.1g}':<18} {effect.estimate}, by hand "
        f"{truth:+.4g}: {'inside' if covers else 'OUTSIDE'}"
    )


def bits(script: Script) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in script.model.state_dict().values()]


def keeps_bits(kind: type[Script], out: Path) -> bool:
    """True if a fork in the middle and trials on the way leave the training what it is."""
    data = torch.utils.data.TensorDataset(*kind.data)
    loader = torch.utils.data.DataLoader(data, batch_size=own_loops.BATCH, shuffle=True)

    def at(w: Any, script: Script) -> None:
        with suppress(GradiometerError):
            forked(w, script)

    plain, _ = trained(kind, out, watched=False, after=UPDATES)
    has_loss = "loss" in kind().told
    tries = {"trials": 0.9, "sampling": loader} if has_loss else {}
    script, _ = trained(kind, out, at=at, after=UPDATES, **tries)
    return all(map(torch.equal, bits(plain), bits(script)))


def judged(
    fork: Callable[[], Fork], ends: Callable[[float, int], float]
) -> tuple[str, tuple[str, ...]]:
    """A sentence on a fork, and its notes.

    Args:
        fork: Forks a training.
        ends: Where a continuation by hand ends, at a factor on its rates, on a replicate's batches.
    """
    try:
        found = fork()
    except GradiometerError as error:
        return f"refused: {error}", ()
    own = {
        name: [ends(factor, number) for number in range(REPLICATES)]
        for name, factor in FACTORS.items()
    }
    return said_of(found, own), found.notes


def main() -> None:
    """Fork the kinds that are named, or all."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    asked = set(sys.argv[1:]) or {kind.__name__ for kind in KINDS} | {*TRAINERS, "TwoProcesses"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for kind in KINDS:
            if kind.__name__ in asked:
                said = judged(
                    lambda kind=kind: trained(kind, out, at=forked)[1], partial(by_hand, kind)
                )
                kept = "bits kept   " if keeps_bits(kind, out) else "BITS CHANGED"
                show(kind.__name__, kept, *said)
        for name, trainer in TRAINERS.items():
            if name in asked:
                said = judged(partial(trainer, out), partial(trainer, out))
                show(name, "", *said)
    if "TwoProcesses" in asked:
        ranks = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [sys.executable, "-m", *ranks, "-m", "own_loops.trainers"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        said, *notes = done.stdout.splitlines()
        show("TwoProcesses", "", said, tuple(notes))


def show(name: str, kept: str, said: str, notes: tuple[str, ...]) -> None:
    """Print what was found of one loop."""
    mark = "named" if name in FORKED else ""
    sys.stdout.write(f"{name:<16} {mark:<6} {kept:<13} {said}\n")
    for note in notes:
        sys.stdout.write(f"    {note}\n")


if __name__ == "__main__":
    main()
