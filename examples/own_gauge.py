"""A gauge of your own in a watched loop: `python examples/own_gauge.py` trains on digits and ends
in one sentence.

How often does clipping at norm 1 shorten the gradient? The gauge is the class below: what it reads
off a step, how it turns readings into an estimate with an interval, and what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from gradiometer import Estimate, Finding, Gauge, Issue, Series, State, TrainingStep, say, watch
from gradiometer.measurement import RunFacts
from gradiometer.measurement.uncertainty import proportion
from gradiometer.problems import load


@dataclass(frozen=True)
class ClippedShare(Gauge):
    """The share of steps whose gradient is longer than `norm`."""

    norm: float = 1.0

    name: ClassVar[str] = "clipped_share"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""
    labels: ClassVar[Mapping[str, str]] = {"clipped_share": "share of steps that clipping shortens"}
    question: ClassVar[str] = "Does clipping change most steps?"
    needs_loss: ClassVar[bool] = False

    def measure(self, step: TrainingStep) -> dict[str, float]:
        return {
            "clipped": float(
                torch.cat([part.flatten() for part in step.gradient]).norm() > self.norm
            )
        }

    def estimate(self, series: Series, level: float = 0.9) -> dict[str, Estimate]:
        clipped = series.moments["clipped"]
        return {"clipped_share": proportion(int(clipped.sum()), len(clipped), level)}

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts) -> Finding:
        share = estimates["clipped_share"]
        state = State.LOOK if share.low > 0.5 else State.OK
        facts = {
            "seen": (
                f"Clipping at {self.norm:g} shortens a share of {{clipped_share}} of the steps."
            ),
            "means": "A clipped step has a smaller rate than the schedule says.",
        }
        return Finding(self.name, self.issue, "own", state, {"clipped_share": share}, facts)


def main() -> None:
    torch.manual_seed(0)
    digits = load("digits")
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model, optimizer, loss=digits.loss, every=5, gauges=["noise", ClippedShare(norm=1.0)]
    ) as w:
        for index in torch.randperm(len(digits.train)).repeat(3).split(32):
            batch = digits.train.batch(index)
            optimizer.zero_grad()
            loss = digits.loss(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    print(next(say(finding).seen for finding in w.findings() if finding.gauge == "clipped_share"))


if __name__ == "__main__":
    main()
