"""Has this learning rate stopped paying? Every detector on streams of least squares whose floor is known.

    .venv/bin/python benchmarks/stationarity.py              # eight settings the test was not chosen on
    .venv/bin/python benchmarks/stationarity.py --chosen-on  # the sixteen it was chosen on
    .venv/bin/python benchmarks/stationarity.py --setting f1 --out part.jsonl

A setting is run 100 times from each of five random starts. An alarm is early where the expected excess loss at that
step, known exactly, is above twice its floor; the true time is where it first is not. The first alarm of a run counts,
over all looks; a run ends at eight times the true time of its slowest start.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from detectors import Detector, Ours
from stationarity_rivals import (
    ConfidentFluctuation,
    Distance,
    Fluctuation,
    Pflug,
    Plateau,
    Slope,
)
from streaming import Stream, StreamProbe

from gradiometer.convergence.plateau import Extrapolation
from gradiometer.jobs import Job, Ledger, pool_of
from gradiometer.measurement.uncertainty import proportion

STARTS, RUNS, LENGTH = 5, 100, 8
PROBE = 4096
"""Examples the test compares points on."""


@dataclass(frozen=True)
class Setting:
    """One stream and where its runs start.

    Args:
        noise: "regression", or the constant noise in proportion to the curvature ("curved") or equal ("flat").
        dimension: d.
        spectrum: Curvatures from 1 to 1/condition, geometric, or half of them at each end ("two").
        start: N(0, I), or N(0, H⁻¹), which gives every mode the same share of the loss ("level").
        height: Mean excess loss at the start, in floors.
    """

    noise: str
    dimension: int
    spectrum: str
    condition: float
    learning_rate: float
    momentum: float
    batch_size: int
    start: str
    height: float

    def stream(self) -> Stream:
        """What is trained."""
        d = self.dimension
        geometric = self.spectrum == "geometric"
        h = (
            np.geomspace(1, 1 / self.condition, d)
            if geometric
            else np.where(2 * np.arange(d) < d, 1, 1 / self.condition)
        )
        noise = {"regression": None, "curved": tuple(h.tolist()), "flat": (1.0,) * d}[self.noise]
        return Stream(tuple(h.tolist()), noise, self.learning_rate, self.batch_size, self.momentum)

    def starts(self, stream: Stream, seed: int) -> np.ndarray:
        """Random starts, [starts, params]."""
        h = np.array(stream.curvatures)
        scale = np.ones_like(h) if self.start == "round" else h**-0.5
        drawn = np.random.default_rng(seed).standard_normal((STARTS, len(h))) * scale
        return drawn * np.sqrt(self.height * stream.floor / (h @ scale**2 / 2))


CHOSEN_ON = {
    "c1": Setting("regression", 20, "geometric", 100, 0.1, 0.0, 4, "round", 300),
    "c2": Setting("regression", 5, "geometric", 400, 0.1, 0.0, 2, "level", 100),
    "c3": Setting("curved", 100, "geometric", 50, 0.05, 0.0, 8, "round", 1000),
    "c4": Setting("flat", 10, "geometric", 20, 0.02, 0.9, 8, "level", 100),
    "c5": Setting("flat", 50, "geometric", 200, 0.3, 0.0, 8, "round", 300),
    "c6": Setting("regression", 10, "two", 20, 0.01, 0.9, 4, "round", 100),
    "c7": Setting("curved", 5, "geometric", 400, 0.2, 0.0, 8, "round", 1000),
    "c8": Setting("flat", 20, "two", 50, 0.05, 0.0, 8, "round", 100),
    "c9": Setting("regression", 50, "geometric", 50, 0.05, 0.0, 2, "level", 100),
    "c10": Setting("regression", 10, "geometric", 200, 0.1, 0.0, 8, "round", 1000),
    "c11": Setting("curved", 30, "geometric", 400, 0.4, 0.0, 8, "level", 300),
    "c12": Setting("flat", 5, "geometric", 50, 0.05, 0.0, 8, "round", 100),
    "c13": Setting("regression", 8, "geometric", 100, 0.01, 0.9, 4, "level", 300),
    "c14": Setting("curved", 100, "two", 30, 0.1, 0.0, 8, "round", 200),
    "c15": Setting("flat", 12, "geometric", 300, 0.02, 0.9, 8, "round", 500),
    "c16": Setting("regression", 6, "two", 40, 0.1, 0.0, 4, "level", 50),
}
FRESH = {
    "f1": Setting("regression", 30, "geometric", 80, 0.08, 0.0, 4, "round", 500),
    "f2": Setting("regression", 6, "geometric", 300, 0.15, 0.0, 4, "level", 60),
    "f3": Setting("curved", 60, "geometric", 150, 0.2, 0.0, 16, "level", 200),
    "f4": Setting("flat", 8, "geometric", 40, 0.1, 0.0, 16, "round", 200),
    "f5": Setting("regression", 15, "two", 25, 0.01, 0.9, 8, "level", 150),
    "f6": Setting("curved", 12, "two", 60, 0.15, 0.0, 4, "round", 400),
    "f7": Setting("flat", 25, "geometric", 100, 0.01, 0.9, 16, "round", 400),
    "f8": Setting("curved", 5, "geometric", 250, 0.02, 0.9, 8, "level", 80),
}

DETECTORS: Mapping[str, Callable[[StreamProbe], Detector]] = {
    "extrapolation": lambda probe: Ours(Extrapolation(probe)),
    "slope": lambda _: Slope(),
    "plateau": lambda _: Plateau(),
    "pflug": lambda _: Pflug(),
    "distance": lambda _: Distance(),
    "fluctuation": lambda _: Fluctuation(),
    "sasa+": lambda _: ConfidentFluctuation(),
}


def study(setting: Setting, names: list[str], seed: int = 0) -> dict[str, dict[str, object]]:
    """Early alarms, by start and in all, and median delay of every detector in one setting."""
    stream = setting.stream()
    starts = setting.starts(stream, seed)
    excess = stream.expected_excess(starts, 80_000) / stream.floor
    true = (excess <= 2).argmax(axis=0)
    steps = LENGTH * int(true.max())
    everyone = torch.from_numpy(np.repeat(starts, RUNS, axis=0))
    probe = stream.probe(len(everyone), PROBE, seed + 2)
    detectors = {name: DETECTORS[name](probe) for name in names}
    alarms = {name: torch.full((len(everyone),), -1) for name in names}
    origin = torch.randn(setting.dimension, generator=torch.Generator().manual_seed(seed + 3))
    for step, seen in enumerate(stream.walk(everyone, steps, seed + 1)):
        away = replace(seen, position=seen.position + origin)  # a run does not know where its minimum is
        for name, detector in detectors.items():
            fired = detector.observe(seen if name == "extrapolation" else away)
            alarms[name] = torch.where((alarms[name] < 0) & fired, step, alarms[name])
    return {name: _summary(alarms[name].numpy().reshape(STARTS, RUNS), excess, true) for name in names}


def _summary(alarms: np.ndarray, excess: np.ndarray, true: np.ndarray) -> dict[str, object]:
    acted = alarms >= 0
    early = acted & (excess[np.maximum(alarms, 0), np.arange(STARTS)[:, None]] > 2)
    delays = np.where(acted, alarms, np.inf) / true[:, None]
    return {
        "early": int(early.sum()),
        "runs": alarms.size,
        "early_worst_start": float(early.mean(axis=1).max()),
        "power": float((acted & ~early).mean()),
        "delay": float(np.median(delays)),
        "true": true.tolist(),
    }


def printed(found: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    """One line a setting, one column a detector: early alarms in per cent, rightly stopped, median delay."""
    names = list(next(iter(found.values())))
    lines = [
        "early alarms, % [90 % interval] · worst start, % · rightly stopped by the end, % · median delay / true time"
    ]
    for name in names:
        lines.append(f"\n{name}")
        for setting, row in found.items():
            seen = row[name]
            share = proportion(int(str(seen["early"])), int(str(seen["runs"])))
            lines.append(
                f"  {setting}  {100 * share.value:5.1f} [{100 * share.low:4.1f}, {100 * share.high:5.1f}]"
                f"  {100 * float(str(seen['early_worst_start'])):4.0f}  {100 * float(str(seen['power'])):4.0f}"
                f"  {float(str(seen['delay'])):5.1f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chosen-on", action="store_true", help="the settings the test was chosen on")
    parser.add_argument("--setting", action="append", help="only this one; may be given more than once")
    parser.add_argument("--detector", action="append", choices=list(DETECTORS), help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="of starts, noise and probe")
    parser.add_argument("--out", type=Path, help="add what was found to this ledger; what it has is not run again")
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    given = parser.parse_args()
    settings = CHOSEN_ON | FRESH
    chosen = given.setting or list(CHOSEN_ON if given.chosen_on else FRESH)
    jobs = [Job(name, study, (settings[name], given.detector or list(DETECTORS), given.seed)) for name in chosen]
    found = {}
    with pool_of(given.pool) as pool:
        for outcome in pool.run(jobs, ledger=Ledger(given.out) if given.out else None):
            found[outcome.name] = outcome.value()
            print(outcome.name, asdict(settings[outcome.name]), flush=True)
    print(printed({name: found[name] for name in chosen}))


if __name__ == "__main__":
    main()
