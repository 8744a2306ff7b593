"""Which source a training has."""

from torch import nn

from gradiometer.integrations.sharding import is_sharded
from gradiometer.integrations.watch.sources.one_backward import OneBackward
from gradiometer.integrations.watch.sources.source import GradientSource
from gradiometer.run.ranks import Ranks


def source_of(model: nn.Module, backwards: int) -> GradientSource:
    """The source of a person's training on the processes of this program.

    Args:
        model: The bare model.
        backwards: Number of backwards per update on each process.
    """
    ranks = Ranks.here()
    if is_sharded(model):
        from gradiometer.integrations.watch.sources.shards import Shards  # noqa: PLC0415 (few need it)

        return Shards(ranks, backwards)
    if backwards > 1 or not ranks.alone:
        from gradiometer.integrations.watch.sources.micro_batches import MicroBatches  # noqa: PLC0415 (as above)

        return MicroBatches(ranks, backwards)
    return OneBackward()
