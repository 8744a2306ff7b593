"""The configuration of a watched loop: what `watch` was told and has seen, and nothing else."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gradiometer.run.configuration import Configuration


class WatchedConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a watched run. `Run.hyperparameters` has its optimizer, learning rate and
    momentum.

    The fields have the meaning that they have in `Configuration`, and are checked in the same way.

    Args:
        problem: The name that was given to `watch`.
        batch_size: Examples per update: of all its backwards, on all processes.
        sampling: How batches are drawn: reshuffled, or replacement for independent draws.
        accumulation: Number of backwards per update, on all processes.
        parts: Number of parts of a batch whose gradients are compared if `accumulation` is 1; 0:
            one per example.
        budget: Share of the training time that measuring may use.
        gauges: Comma-separated gauge names.
        every: Measure at every n-th step and ignore the budget.
        level: Confidence level of every interval.
        seed: Seed of the random numbers that measuring draws.
        threads: Number of CPU threads of one process.
        device: Device of the model's parameters.

    Raises:
        BadArgument: A setting cannot be used.

    >>> from gradiometer.run.settings.watched import WatchedConfiguration
    >>> WatchedConfiguration(batch_size=64, every=10).to_dict()["batch_size"]
    64
    """

    problem: str = "loop"
    batch_size: int
    sampling: Literal["reshuffled", "replacement"] = "replacement"
    accumulation: int = 1
    parts: int = 2
    budget: float = 0.02
    gauges: str = "noise"
    every: int | None = None
    level: float = 0.9
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        Configuration(**_with_two_examples(self.to_dict()))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> "WatchedConfiguration":
        """Check names and values. Settings of a training that `watch` does not know are left out.

        Args:
            mapping: Values by name.
            where: Prefix of the error messages, such as the name of the file.
        """
        checked = Configuration.from_mapping(_with_two_examples(mapping), where)
        known = {name: getattr(checked, name) for name in cls.__struct_fields__}
        known["batch_size"] = mapping.get("batch_size", checked.batch_size)
        return cls(**{name: value for name, value in known.items() if value is not None})

    @property
    def measured(self) -> str:
        """Comma-separated names of the gauges."""
        return self.gauges

    def to_dict(self) -> dict[str, Any]:
        """The values by name, without None, which TOML cannot store."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }


def _with_two_examples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same without a batch of one example: a watched loop may have it, since successive steps
    are compared."""
    size = settings.get("batch_size")
    return {**settings, "batch_size": 2} if size == 1 else dict(settings)
