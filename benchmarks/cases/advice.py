"""The trainings whose advice `advice.py` follows: on problems that come with the package, and
others to choose on."""

from dataclasses import dataclass
from typing import Any

from cases.horizon_networks import NETWORKS
from gradiometer.problems import Examples, Problem
from gradiometer.run import Configuration

ALWAYS: dict[str, Any] = {"every": 2, "check_edge": False, "check_endpoint": False}


@dataclass(frozen=True)
class Case:
    """A training, and the step at which its advice is taken.

    Args:
        name: Its name in the table.
        at: The step.
        settings: What is not the default of a configuration.
    """

    name: str
    at: int
    settings: dict[str, Any]

    def configuration(self, seed: int) -> Configuration:
        """The configuration with this seed."""
        return Configuration(**{**ALWAYS, **self.settings}, seed=seed)


def _digits(model: str, batch: int, rate: float, steps: int = 600, **others: Any) -> dict[str, Any]:
    return {
        "problem": "digits",
        "model": model,
        "batch_size": batch,
        "learning_rate": rate,
        "steps": steps,
        **others,
    }


def _other(problem: str, batch: int, rate: float, steps: int, **others: Any) -> dict[str, Any]:
    return {
        "problem": problem,
        "batch_size": batch,
        "learning_rate": rate,
        "steps": steps,
        **others,
    }


ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}

JUDGED = (
    Case("digits MLP, SGD, B = 4", 300, _digits("mlp", 4, 0.05)),
    Case("digits MLP, SGD, B = 8, rate high", 300, _digits("mlp", 8, 0.4)),
    Case("digits MLP, momentum, B = 16, rate low", 300, _digits("mlp", 16, 0.01, momentum=0.9)),
    Case("digits MLP, SGD, B = 256, early", 40, _digits("mlp", 256, 0.4, 200)),
    Case("digits CNN, SGD, B = 8", 300, _digits("cnn", 8, 0.1)),
    Case(
        "digits CNN, momentum, B = 512, early",
        40,
        _digits("cnn", 512, 0.05, 160, momentum=0.9, every=1, parts=2),
    ),
    Case("digits MLP, cosine, B = 8", 300, _digits("mlp", 8, 0.2, schedule="cosine")),
    Case("digits MLP, AdamW, B = 4", 300, _digits("mlp", 4, 1e-3, **ADAMW)),
    Case(
        "digits MLP, AdamW, B = 512, early",
        30,
        _digits("mlp", 512, 1e-3, 160, every=1, parts=2, **ADAMW),
    ),
    Case("digits CNN, AdamW, B = 8", 300, _digits("cnn", 8, 3e-3, **ADAMW)),
    Case(
        "digits CNN, AdamW, B = 512, early",
        24,
        _digits("cnn", 512, 5e-4, 120, every=1, parts=2, **ADAMW),
    ),
    Case(
        "linear regression, SGD, plateau",
        1500,
        _other("linear-regression", 4, 0.05, 3000, cool="watch"),
    ),
    Case(
        "logistic regression, SGD, plateau",
        1500,
        _other("logistic-regression", 4, 0.5, 3000, cool="watch"),
    ),
    Case("quadratic, SGD, plateau", 1500, _other("quadratic", 4, 0.1, 3000, cool="watch")),
    Case(
        "logistic regression, SGD, B = 64, early",
        40,
        _other("logistic-regression", 64, 0.05, 160, every=1, parts=2),
    ),
    Case("digits MLP, SGD, B = 32, rate too high", 300, _digits("mlp", 32, 1.0)),
    Case("digits CNN, SGD, B = 32, rate too high", 300, _digits("cnn", 32, 0.8)),
    Case(
        "linear regression, momentum, B = 2",
        300,
        _other("linear-regression", 2, 0.01, 600, momentum=0.9),
    ),
)
"""The cases that the published scores are of."""

CHOOSING = (
    Case("MLP with wrong labels, SGD, B = 8", 300, _other("advice_cases:mlp", 8, 0.1, 600)),
    Case(
        "MLP with wrong labels, momentum, B = 256",
        60,
        _other("advice_cases:mlp", 256, 0.1, 240, momentum=0.9),
    ),
    Case("CNN with wrong labels, SGD, B = 4", 300, _other("advice_cases:cnn", 4, 0.05, 600)),
    Case(
        "CNN with wrong labels, AdamW, B = 256",
        60,
        _other("advice_cases:cnn", 256, 3e-3, 240, **ADAMW),
    ),
    Case(
        "MLP with LayerNorm, AdamW, B = 8",
        300,
        _other("advice_cases:taught", 8, 4e-3, 600, **ADAMW),
    ),
    Case("MLP with LayerNorm, SGD, B = 256", 60, _other("advice_cases:taught", 256, 0.1, 240)),
    Case(
        "MLP with wrong labels, SGD, plateau",
        1500,
        _other("advice_cases:mlp", 16, 0.4, 3000, cool="watch"),
    ),
    Case(
        "MLP with LayerNorm, SGD, plateau",
        1500,
        _other("advice_cases:taught", 16, 0.05, 3000, cool="watch"),
    ),
)
"""Other cases, on which the advice itself may be changed."""


def mlp() -> Problem:
    """The digits with wrong labels, for the MLP."""
    return _problem(0)


def cnn() -> Problem:
    """The same for the CNN."""
    return _problem(1)


def taught() -> Problem:
    """Numbers from a random network, for an MLP with LayerNorm."""
    return _problem(2)


def _problem(place: int) -> Problem:
    network = NETWORKS[place]
    train, test = network.data()
    return Problem(network.name, network.model, network.loss, Examples(train), Examples(test))
