"""BatchNorm's statistics for averaged weights, measured again."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from gradiometer import BadArgument
from gradiometer.convergence import refresh_batch_norm


class Noisy(nn.Module):
    """Two BatchNorms with Dropout between them, and a part that is frozen in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.9)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.frozen(self.drop(self.first(inputs))))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = 3 + torch.randn(60, 3, generator=generator).cumsum(0)
    return [values[:32], values[32:58], values[58:]]


def run(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def test_refreshed_statistics_do_not_depend_on_the_division_into_batches() -> None:
    model, every = Noisy(), torch.cat(batches())
    refresh_batch_norm(model, batches(), run)
    torch.testing.assert_close(model.first.running_mean, every.mean(0))
    torch.testing.assert_close(model.first.running_var, every.var(0))
    assert model.first.num_batches_tracked == 3
    peer = Noisy()
    update_bn(batches(), peer)
    assert (peer.first.running_var / every.var(0)).max() < 0.8, (
        "torch's own misses what differs between batches"
    )


def test_convolutional_statistics_are_those_of_every_pixel() -> None:
    model, images = nn.Sequential(nn.BatchNorm2d(2)), torch.randn(10, 2, 5, 4) * 3 + 1
    refresh_batch_norm(model, [images[:7], images[7:]], run)
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)))


def test_refreshing_keeps_every_mode_and_random_state_and_runs_dropout_as_at_inference() -> None:
    model = Noisy()
    model.frozen.eval()
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    refresh_batch_norm(model, batches(), run)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.second.running_var <= 1.1).all(), "Dropout of one half would double the variance"
    assert model.first.momentum == 0.1 and model.first.track_running_stats


def test_a_refresh_that_fails_leaves_the_statistics_as_they_were() -> None:
    model = Noisy()
    for wrong, message in (
        ([*batches(), torch.ones(1, 3)], "at least two examples each"),
        ([], "`batches` must not be empty"),
    ):
        with pytest.raises(BadArgument, match=message):
            refresh_batch_norm(model, wrong, run)
        assert (
            torch.equal(model.first.running_mean, torch.zeros(3))
            and model.first.num_batches_tracked == 0
        )
        assert model.first.track_running_stats and model.training


def test_a_model_without_batch_norm_is_left_alone() -> None:
    refresh_batch_norm(nn.Linear(3, 3), [], run)
