"""The processes of one training wait for each other, however long the forks of rank 0 take."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from gradiometer import BadArgument
from gradiometer.run.ranks import Ranks, together
from gradiometer.train.training import device_of


def test_a_process_waits_for_days_while_rank_0_trains_forks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The default of gloo is half an hour, after which a process that waits ends the training."""
    given: list[timedelta] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda _, timeout: given.append(timeout))
    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with together():
        pass
    assert given[0] > timedelta(days=1)


def test_several_processes_on_gpus_are_refused_with_what_to_do() -> None:
    with pytest.raises(
        BadArgument,
        match=r"`device` is 'cuda:1', but several processes train on the CPU only: leave it",
    ):
        device_of("cuda:1", Ranks(rank=1, count=2))
