"""Short trainings of networks and data from the bank of tasks, which judge the intervals of short
runs once."""

from collections.abc import Callable

import torch
from tasks.bank import (
    Cell,
    convolutional_autoencoder,
    diffusion,
    letters_gru,
    photograph,
    rows_lstm,
    vision_transformer,
)
from tasks.second import bags, mixed, pendulum, sums
from torch import Tensor

from noise.products import Training
from noise.runs import (
    Data,
    Optimizer,
    Schedule,
    adamw,
    constant,
    cosine,
    hyperbola,
    linear,
    one_cycle,
    sgd,
    staircase,
)
from noise.trainings import entropy, nesterov, squared


def of_task(
    task: Callable[[], Cell],
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    schedule: Schedule = constant,
    *,
    batch: int,
    steps: int,
    reshuffled: bool = False,
) -> Training:
    """A training on the data and the network of a task."""

    def data() -> Data:
        train = task().train
        inputs, targets = train.batch(torch.arange(len(train)))
        return inputs, targets

    return Training(
        data,
        lambda: task().model(0),
        loss,
        optimizer,
        schedule,
        batch=batch,
        steps=steps,
        reshuffled=reshuffled,
        passes=30,
    )


BRIEF = {
    "vision transformer, AdamW, cosine": of_task(
        vision_transformer, entropy, adamw(2e-3), cosine, batch=32, steps=600
    ),
    "rows of pictures, LSTM, momentum": of_task(
        rows_lstm, entropy, sgd(0.1, 0.9), batch=24, steps=600
    ),
    "program, GRU, AdamW, OneCycle": of_task(
        letters_gru, entropy, adamw(5e-3), one_cycle, batch=16, steps=600
    ),
    "autoencoder of squares, AdamW": of_task(
        convolutional_autoencoder, squared, adamw(3e-3), batch=16, steps=600
    ),
    "photograph, AdamW, one over time": of_task(
        photograph, squared, adamw(3e-3), hyperbola, batch=24, steps=800
    ),
    "diffusion, Nesterov": of_task(diffusion, squared, nesterov(0.05, 0.9), batch=32, steps=700),
    "sums of digits, sets, SGD, staircase": of_task(
        sums, entropy, sgd(0.1), staircase, batch=24, steps=800
    ),
    "digits, mixer, AdamW, linear, reshuffled": of_task(
        mixed, entropy, adamw(3e-3), linear, batch=24, steps=600, reshuffled=True
    ),
    "pendulum, momentum, cosine": of_task(
        pendulum, squared, sgd(0.02, 0.9), cosine, batch=16, steps=700
    ),
    "stretches of text, linear, SGD": of_task(bags, entropy, sgd(0.1), batch=16, steps=800),
}
"""Named before the intervals of these trainings were looked at, and looked at once."""
