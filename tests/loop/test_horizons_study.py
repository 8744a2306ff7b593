"""The study of horizons: which rate branches choose, and its regret."""

import math

import pytest
from cases.horizon_networks import NETWORKS
from horizons import FACTORS, SHARES, TAILS, Choices, losses_of, rows

from gradiometer.loop import Fork, alternative_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.readout import Readout


def test_the_regret_of_a_choice_is_that_of_the_whole_rest() -> None:
    chosen = {(tail, share): [0.25, 1.0] for tail in TAILS for share in SHARES}
    long = [
        {0.25: 1.1, 0.5: 1.05, 1.0: 1.0, 2.0: 1.2, 4.0: 1.3},
        {0.25: 1.2, 0.5: 1.1, 1.0: 1.0, 2.0: 1.2, 4.0: 1.3},
    ]
    choices = Choices(long, chosen)
    assert choices.best == 1.0 and choices.regrets("none", 0.05) == pytest.approx([0.1, 0.0])
    assert "| one | 25% | 1 (0.25 to 1): 5.0 % |" in "\n".join(rows([("one", choices)]))
    thrice = Choices([*long, long[0]], {place: [0.25, 1.0, 1.0] for place in chosen})
    assert "| one | 25% | 1 (0.25 to 1): 3.3 [-" in "\n".join(rows([("one", thrice)]))


def test_losses_are_read_by_the_factor_of_the_rate() -> None:
    names = ["go on", *(f"rate {factor:g}x" for factor in FACTORS if factor != 1)]
    results = tuple(
        BranchResult(
            name,
            replicate,
            64,
            2,
            64,
            1.0,
            (),
            {}
            if (name, replicate) == ("rate 4x", 1)
            else {"test_loss": Readout(float(len(name) + replicate))},
        )
        for name in names
        for replicate in range(2)
    )
    losses = losses_of(Fork(0, tuple(map(alternative_of, names[1:])), 2, 64, results))
    assert losses == {1.0: 5.5, 0.25: 10.5, 0.5: 9.5, 2.0: 7.5, 4.0: math.inf}


@pytest.mark.slow
def test_the_networks_train_as_they_are_forked() -> None:
    network = NETWORKS[2]
    model, optimizer, (inputs, _), _ = network.started(0, updates=2)
    assert len(inputs) == 20_000 and len(optimizer.state) == len(list(model.parameters()))
