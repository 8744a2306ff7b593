"""Small trainings of the catalogue's cases, a stop on the way, and a hash of what is left."""

import hashlib

import torch

from conftest import CASES
from gradiometer.problems import Examples, Problem
from gradiometer.run import Configuration, Run
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder


def problem(name: str = "mlp", examples: int = 100) -> Problem:
    """A case of the catalogue with more examples: the batch of 12 repeated with noise."""
    torch.manual_seed(0)
    case = CASES[name]()
    index = torch.arange(examples) % 12
    generator = torch.Generator().manual_seed(1)

    def grown(tensor: torch.Tensor) -> torch.Tensor:
        taken = tensor[index]
        if not taken.is_floating_point():
            return taken
        return taken + 0.3 * torch.randn(taken.shape, generator=generator)

    data = (
        {"tokens": grown(case.batch["tokens"])}
        if isinstance(case.batch, dict)
        else tuple(map(grown, case.batch))
    )
    make = CASES[name]
    return Problem(
        name=name.replace("_", "-"),
        model=lambda: make().model,
        loss=case.loss,
        train=Examples(data),
        test=Examples(data),
    )


def weights(run: Run) -> str:
    """A hash of the final weights, bit for bit."""
    checkpoint, _ = load_latest(RunFolder.open(run.path))
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.tensors.items()):
        if name.startswith(("model.", "optimizer.")):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings(**changes) -> Configuration:
    return Configuration(
        **({"batch_size": 10, "epochs": 20, "learning_rate": 0.05, "momentum": 0.9} | changes)
    )


class StopAt:
    """A watcher that asks for a stop, as Ctrl-C does, after a number of steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def begin(self, training, recorder, folder) -> None:
        pass

    def warn(self, text) -> None:
        pass

    def update(self, training, recorder, loss) -> None:
        import signal

        if training.step == self.step:
            signal.raise_signal(signal.SIGINT)
