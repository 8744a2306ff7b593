"""Does the advice of findings hold when it is followed literally, to the end of the training?

    .venv/bin/python benchmarks/advice.py --keep FOLDER --write      # about half an hour of
    processor time .venv/bin/python benchmarks/advice.py --cases choosing --seeds 1

Each training is stopped at a step. What its findings advise there is tried from that step, with the
code of `gradiometer fork RUN --advice --horizon 100%`: going on and each alternative are trained
over all that is left, cooled to zero, with four data orders. `gradiometer` judges it as it does for
a user.

Where a finding forecasts a number, the number is measured. *Examples at another batch*: to the same
training loss, from branches that go on over several shares of what is left. *Gain of a cut*: the
training loss of going on at the present rate minus that at a tenth of it, after half as many steps
as the forecast looked back on. A number held if it is inside the interval of the forecast or within
25 % of it. It is open if its own 90 % interval is wider than a factor of 2 and reaches into that
range. Since 25 % is wide for examples, the table also has the median error of the forecast,
next to that of the simplest one: as many examples as before.

`--write` keeps the scores in the package, where findings cite them.
"""

import argparse
import json
import math
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases.advice import CHOOSING, JUDGED, Case
from scipy.stats import binomtest, t

from gradiometer import Estimate, Finding, Interrupted, Run, diagnose
from gradiometer.estimation.batch_table import relative_updates
from gradiometer.jobs.pool import Here
from gradiometer.loop import CoolNow, Effect, Fork, Loop, Shorter, alternative_of, fork
from gradiometer.loop.branch import Branch, Tail
from gradiometer.loop.changes.alternative import Alternative, BatchSize, GoOn
from gradiometer.loop.forking import train_branches
from gradiometer.loop.recorded import advice_scores as scores
from gradiometer.loop.recorded.trials import end_of, judged, kind_of_advice
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.differences import mean_of_few
from gradiometer.problems import Problem, load
from gradiometer.train import loop_at, train
from gradiometer.verdict.words.forks import record_of

REPLICATES, LEVEL = 4, 0.9
SHARES = (0.3, 0.42, 0.6, 0.85, 1.0)
"""Lengths of the branches that go on, as shares of what is left."""

LONGER, SHORTER = 0.85, 0.42
"""Lengths of the branches with a larger and with a smaller batch: going on reaches their losses in
these lengths."""

NEAR = 1.25
"""A number is right within this factor of the forecast."""


class Until:
    """Asks a training to stop at a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def begin(self, training: Any, recorder: Any, folder: Any) -> None:
        """Nothing to do yet."""

    def update(self, training: Any, recorder: Any, loss: float) -> None:
        """A step was made."""
        if training.step == self.step:
            signal.raise_signal(signal.SIGINT)


def stopped_run(case: Case, seed: int, keep: Path) -> tuple[Run, Problem]:
    """The run of a case, stopped at its step; trained once."""
    configuration = case.configuration(seed)
    problem = load(configuration.problem, model=configuration.model, seed=seed)
    folder = keep / f"{case.name} {seed}-1"
    if not folder.exists():
        with suppress(Interrupted):
            train(problem, configuration, keep, Until(case.at), name=f"{case.name} {seed}")
    return Run.open(folder), problem


def scores_of(case: Case, seed: int, keep: Path) -> Iterator[dict[str, Any]]:
    """Follow what the findings of a case advise, and score it."""
    run, problem = stopped_run(case, seed, keep)
    diagnosis = diagnose(run)
    findings = [finding for finding in diagnosis.findings if finding.cure]
    if not findings:
        return
    wanted = [text for finding in findings for text in finding.cure]
    loop = loop_at(run, problem=problem)
    made = fork(loop, wanted, horizon="100%", replicates=REPLICATES, out=run.path)
    family = run.hyperparameters.family if run.hyperparameters else "other"
    effects = {effect.alternative: effect for effect in made.effects(level=LEVEL)}
    for finding in findings:
        given = [alternative_of(text) for text in finding.cure]
        yardstick = next((one for one in given if isinstance(one, Shorter)), None)
        tried = [one for one in given if one != yardstick]
        verdicts = [judged(made, one, effects[one.name], yardstick)["verdict"] for one in tried]
        kind = kind_of_advice(finding.cure, family)
        row = {
            "case": case.name,
            "seed": seed,
            "kind": kind,
            "advised": ", or ".join(one.name for one in tried),
        }
        best = min((effects[one.name] for one in tried), key=_better)
        yield {
            **row,
            "what": "advice",
            "verdict": best_of(verdicts),
            "measured": shares(best, made),
        }
        for forecast, measured in numbers_of(run, problem, finding, diagnosis.estimates, tried[0]):
            yield {
                **row,
                "what": "number",
                "verdict": verdict_on_number(forecast, measured),
                "forecast": _three(forecast),
                "measured": _three(measured),
            }


def best_of(verdicts: Sequence[str]) -> str:
    """Of several things that an advice says to try, the best counts."""
    return next(verdict for verdict in ("held", "open", "did not hold") if verdict in verdicts)


def _better(effect: Effect) -> float:
    value = effect.estimate.value if effect.lower_is_better else -effect.estimate.value
    return value if math.isfinite(value) else math.inf


def shares(effect: Effect, fork: Fork) -> list[float]:
    """An effect with its interval, relative to where going on ends."""
    end = abs(end_of(fork, effect.readout)) or 1.0
    return [
        round(each / end, 4)
        for each in (effect.estimate.value, effect.estimate.low, effect.estimate.high)
    ]


def numbers_of(
    run: Run,
    problem: Problem,
    finding: Finding,
    estimates: Mapping[str, Estimate],
    wanted: Alternative,
) -> Iterator[tuple[Estimate, Estimate]]:
    """The forecast number of a finding, and what branches measure."""
    loop = loop_at(run, run.steps, problem=problem)
    loop.seed = 1
    steps, batch = int(run.manifest["steps"]) - run.steps, run.configuration.batch_size
    if isinstance(wanted, BatchSize) and finding.forecast:
        size = round(wanted.factor * batch)
        updates = relative_updates([estimates["noise_scale"]], batch, size)
        examples = transform(updates, lambda updates: wanted.factor * updates)
        yield examples, examples_to_the_same_loss(loop, wanted, steps * batch)
    looks = [event for event in run.events if event["event"] == "stationarity"]
    if isinstance(wanted, CoolNow) and looks:
        length = min(int(looks[-1]["steps"]) // 2, steps)
        ends = ends_of(loop, [GoOn(), wanted], [length * batch], "none")
        gains = ends[GoOn().name, length * batch] - ends[wanted.name, length * batch]
        yield Estimate(**looks[-1]["predicted"]), mean_of_few(gains.tolist(), LEVEL)


def ends_of(
    loop: Loop, tried: Sequence[Alternative], horizons: Sequence[int], tail: Tail
) -> dict[tuple[str, int], np.ndarray]:
    """Training loss of every replicate, by alternative and horizon; infinite if it diverged."""
    branches = [
        Branch(one, place, horizon, tail)
        for one in tried
        for horizon in horizons
        for place in range(REPLICATES)
    ]
    found: dict[tuple[str, int], np.ndarray] = {}
    for result in train_branches(Here(), loop, branches):
        losses = found.setdefault((result.alternative, result.horizon), np.full(REPLICATES, np.inf))
        if result.readouts:
            losses[result.replicate] = result.readouts["train_loss"].mean
    return found


def examples_to_the_same_loss(loop: Loop, wanted: BatchSize, left: int) -> Estimate:
    """Examples that the other batch needs, relative to going on, with the jackknife over
    replicates."""
    own = int((LONGER if wanted.factor > 1 else SHORTER) * left)
    lengths = [max(int(share * left), 1) for share in SHARES]
    ends = ends_of(loop, [GoOn()], lengths, "linear") | ends_of(loop, [wanted], [own], "linear")
    going = np.stack([ends[GoOn().name, length] for length in lengths])

    def log_ratio(chosen: np.ndarray) -> float:
        return ratio_at(
            np.log(lengths),
            going[:, chosen].mean(axis=1),
            math.log(own),
            ends[wanted.name, own][chosen].mean(),
        )

    everyone = np.arange(REPLICATES)
    value = log_ratio(everyone)
    pseudo = [
        REPLICATES * value - (REPLICATES - 1) * log_ratio(np.delete(everyone, one))
        for one in everyone
    ]
    reach = float(
        t.ppf((1 + LEVEL) / 2, REPLICATES - 1) * np.std(pseudo, ddof=1) / math.sqrt(REPLICATES)
    )
    ends_in_logs = (
        (value, value - reach, value + reach)
        if math.isfinite(reach)
        else (value, -math.inf, math.inf)
    )
    return Estimate.interval(
        *(math.exp(each) for each in ends_in_logs),
        level=LEVEL,
        method="branches, jackknife",
        samples=REPLICATES,
    )


def ratio_at(lengths: np.ndarray, losses: np.ndarray, own: float, loss: float) -> float:
    """log of the own length over that at which the falling losses reach this loss; NaN beyond the
    lengths."""
    falling = np.minimum.accumulate(losses)
    if not falling[-1] <= loss <= falling[0]:
        return math.nan
    return own - float(np.interp(-loss, -falling, lengths))


def verdict_on_number(forecast: Estimate, measured: Estimate) -> str:
    """Whether a forecast number held."""
    low, high = min(forecast.low, forecast.value / NEAR), max(forecast.high, forecast.value * NEAR)
    if not math.isfinite(measured.value):
        return "open"
    if measured.high > 2 * measured.low and not (measured.low > high or measured.high < low):
        inside = low <= measured.low and measured.high <= high
        return "held" if inside else "open"
    return "held" if low <= measured.value <= high else "did not hold"


def _three(estimate: Estimate) -> list[float | None]:
    ends = (estimate.value, estimate.low, estimate.high)
    return [float(f"{each:.4g}") if math.isfinite(each) else None for each in ends]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every score, and how many of every kind held."""
    lines = ["| case | seed | advised | what | forecast | measured | |", f"|{' --- |' * 7}"]
    for row in rows:
        cells = (
            row["case"],
            row["seed"],
            row["advised"],
            row["what"],
            _text(row.get("forecast")),
            _text(row["measured"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} | {row['verdict']} |")
    lines += [
        "",
        "| kind | what | held | did not hold | open | share that held of the decided |",
        f"|{' --- |' * 6}",
    ]
    for kind, what in dict.fromkeys((row["kind"], row["what"]) for row in rows):
        verdicts = [row["verdict"] for row in rows if (row["kind"], row["what"]) == (kind, what)]
        held, failed = verdicts.count("held"), verdicts.count("did not hold")
        share = "—"
        if held + failed:
            low, high = binomtest(held, held + failed).proportion_ci(method="wilson")
            share = f"{held / (held + failed):.2f} [{low:.2f}, {high:.2f}]"
        lines.append(
            f"| {kind} | {what} | {held} | {failed} | {verdicts.count('open')} | {share} |"
        )
    lines += [
        "",
        *errors(rows),
        "",
        *(
            f"{kind}: {record_of(kind, rows)}"
            for kind in dict.fromkeys(row["kind"] for row in rows)
        ),
    ]
    return lines


def errors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The median error of the forecasts of examples, and that of forecasting as many examples as
    before."""
    known = [
        row
        for row in rows
        if row["what"] == "number" and "batch" in row["kind"] and row["verdict"] != "open"
    ]
    if not known:
        return []
    measured = np.log([row["measured"][0] for row in known])
    forecast = np.log([row["forecast"][0] for row in known])
    ours, simple = (
        f"{math.expm1(float(np.median(np.abs(each)))):.1%}"
        for each in (measured - forecast, measured)
    )
    return [
        f"Median error of {len(known)} decided forecasts of examples: {ours}; of 'as many as before': {simple}."
    ]


def _text(three: Sequence[float | None] | None) -> str:
    if three is None:
        return ""
    value, low, high = ("?" if each is None else f"{each:.3g}" for each in three)
    return f"{value} [{low}, {high}]"


def written(rows: Sequence[Mapping[str, Any]]) -> str:
    """The file of scores, a line for each."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", choices=["judged", "choosing"], default="judged")
    parser.add_argument(
        "--keep", type=Path, help="a folder of finished cases, from which the command continues"
    )
    parser.add_argument("--write", action="store_true", help="keep the scores in the package")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # a shell that starts this in the background has SIGINT ignored, and no training would stop
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        keep = arguments.keep or Path(temporary)
        keep.mkdir(parents=True, exist_ok=True)
        for seed in range(arguments.seeds):
            for case in JUDGED if arguments.cases == "judged" else CHOOSING:
                finished = keep / f"{case.name} {seed}.json"
                if not finished.exists():
                    finished.write_text(
                        written(list(scores_of(case, seed, keep))), encoding="utf-8"
                    )
                rows += json.loads(finished.read_text(encoding="utf-8"))
    print("\n".join(table(rows)))
    if arguments.write:
        Path(scores.__file__).with_name(scores.SCORES).write_text(written(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
