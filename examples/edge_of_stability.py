"""The edge of stability: `python examples/edge_of_stability.py [--out pictures]`

A ReLU network of 27,562 parameters on Fashion-MNIST (or the digits, where it is not on this
machine) with the squared error. Trained on 1,000 images at once, its sharpness λ_max rises to 2/η
and stays. Trained on batches of 16 of 8,000, λ_max stays below half of that, and it is the batch
sharpness E ĝᵀH_Bĝ / E‖ĝ‖² that rises to 2/η and hovers there. Half a minute.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, Draw, Estimate, Objective, Sampling, Series, TrainingStep
from gradiometer.drift import BatchSharpness, Curvature
from gradiometer.measurement import Batch, Reading
from gradiometer.problems import load
from gradiometer.report.charts import save_png, sharpness_chart

WIDTH = 32
WINDOW = 60
"""Measured steps in an estimate of the batch sharpness."""


@dataclass(frozen=True)
class Setting:
    """How to train, and how often to look."""

    name: str
    learning_rate: float
    images: int
    batch_size: int
    steps: int
    survey_every: int
    measure_every: int


FULL = Setting("full batch", 0.2, 1_000, 1_000, 1_000, 25, 10)
SMALL = Setting("batches of 16", 0.1, 8_000, 16, 24_000, 4_000, 20)


def images(count: int) -> tuple[Tensor, Tensor]:
    """Images as rows, centred, and their labels as one-hot rows."""
    try:
        data = load("fashion-mnist").train
    except BadArgument:
        data = load("digits").train
    inputs, labels = data.batch(torch.arange(min(count, len(data))))
    rows = inputs.flatten(1)
    return (rows - rows.mean(0)) / rows.std(), nn.functional.one_hot(labels, 10).float()


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Half the squared error of each example."""
    inputs, targets = batch
    return (model(inputs) - targets).square().sum(dim=1) / 2


def network(inputs: int) -> nn.Module:
    """Three hidden layers."""
    layers: list[nn.Module] = []
    for size in (inputs, WIDTH, WIDTH):
        layers += [nn.Linear(size, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def followed(setting: Setting) -> tuple[list[tuple[int, Estimate]], list[tuple[int, Estimate]]]:
    """Train, and measure batch sharpness along the way and λ_max of all images now and then."""
    torch.manual_seed(0)
    data = images(setting.images)
    model = network(data[0].shape[1])
    objective, gauge = Objective(model, squared_error), BatchSharpness()
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.learning_rate)
    sampling = Sampling(Draw.REPLACEMENT, len(data[0]))
    readings: list[Reading] = []
    sharpness: list[tuple[int, Estimate]] = []
    vectors = None
    for index in range(setting.steps + 1):
        if index % setting.survey_every == 0:
            found = Curvature.of(
                objective, data, at_once=1000, kept=10_000, seed=index
            ).eigenvalues(start=vectors)
            vectors = found.vectors
            sharpness.append((index, found.sharpness))
        whole = setting.batch_size >= len(data[0])
        chosen = slice(None) if whole else torch.randint(len(data[0]), (setting.batch_size,))
        batch = (data[0][chosen], data[1][chosen])
        optimizer.zero_grad()
        squared_error(model, batch).mean().backward()
        if index % setting.measure_every == 0:
            step = TrainingStep(
                objective,
                batch,
                index=index,
                learning_rate=setting.learning_rate,
                sampling=sampling,
            )
            readings.append(
                Reading(
                    gauge.name,
                    index,
                    setting.batch_size,
                    setting.learning_rate,
                    gauge.measure(step),
                )
            )
        optimizer.step()
    series = Series.of(readings, sampling)
    windows = [series[at : at + WINDOW] for at in range(0, len(series) - WINDOW + 1, WINDOW)]
    batch_sharpness = [(int(w.steps[-1]), gauge.estimate(w)["batch_sharpness"]) for w in windows]
    return batch_sharpness, sharpness


def main() -> None:
    parser = argparse.ArgumentParser(description="Sharpness rises to the edge of stability.")
    parser.add_argument(
        "--out", type=Path, default=Path("pictures"), help="folder of the two pictures"
    )
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for setting in (FULL, SMALL):
        batch, full = followed(setting)
        limit = 2 / setting.learning_rate
        edge = [(step, Estimate.exact(limit)) for step in (0, setting.steps)]
        picture = out / f"edge_{setting.name.replace(' ', '_')}.png"
        chart = sharpness_chart([] if setting is FULL else batch, full, edge, "2/η")
        save_png(chart, picture, f"Sharpness, {setting.name}, η = {setting.learning_rate}")
        last = np.mean([estimate.value for _, estimate in full[len(full) // 2 :]])
        print(
            f"{setting.name}, 2/η = {limit:.0f}: λ_max goes from {full[0][1].value:.1f} to "
            f"{last:.1f}, the mean of the second "
            f"half{'' if setting is FULL else _second_half(batch)}. {picture}"
        )


def _second_half(batch: list[tuple[int, Estimate]]) -> str:
    values = [estimate.value for _, estimate in batch[len(batch) // 2 :]]
    return (
        f"; there the batch sharpness is {np.mean(values):.1f}, "
        f"from {min(values):.1f} to {max(values):.1f} in windows of {WINDOW} measured steps"
    )


if __name__ == "__main__":
    main()
