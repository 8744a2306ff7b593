"""Made-up records just below and just above the thresholds of the claims about the rate."""

from typing import Any

import numpy as np

from gradiometer.verdict.claims import Claim
from made_up_signs import (
    GUESS,
    STEPS,
    constant,
    cosine_rates,
    falling,
    half_zero,
    jumping,
    nearest,
    reaching,
    striding,
    tensors,
)

ADAMW = {"optimizer": "AdamW", "family": "adaptive"}
OF_200_STEPS = {"losses": falling(steps=200), "rates": cosine_rates(steps=200)}
FLAT = np.full(STEPS, 0.4 * GUESS)
LEAP, NO_LEAP, DEADLY_LEAP, SMALL_LEAP = (
    np.vstack([striding(stride)[:1], striding(0.1)[1:]]) for stride in (4.6, 4.5, 3.8, 3.6)
)
UNKNOWN = constant(np.nan)
"""A sign that was not recorded."""

ONE_STRIDE, ONE_OVERSHOT = (
    np.vstack([striding(0.01)[:20], striding(stride)[20:23], striding(0.01)[23:]])
    for stride in (0.88, 0.92)
)
DIES_OF = {**ADAMW, "nonzero": half_zero(0.89), "movement": DEADLY_LEAP, "losses": falling(0.55)}

Signs = dict[str, Any]
RATES: dict[Claim, list[tuple[Signs, Signs]]] = {
    Claim.RATE_HIGH: [
        (
            {"family": "adaptive", "movement": LEAP},
            {"family": "adaptive", "movement": NO_LEAP},
        ),
        (
            {"nonzero": half_zero(0.89), "losses": falling(0.55)},
            {"nonzero": half_zero(0.87), "losses": falling(0.55)},
        ),
        (
            {**DIES_OF, "nonzero": half_zero(0.89)},
            {**DIES_OF, "nonzero": half_zero(0.87)},
        ),
        (  # units also die slowly: of labels at random, or inputs that are not scaled
            DIES_OF,
            {**DIES_OF, "movement": SMALL_LEAP},
        ),
        (  # a network often learns as well with the units that are left
            {**DIES_OF, "losses": falling(0.52)},
            {**DIES_OF, "losses": falling(0.48)},
        ),
        ({"movement": ONE_OVERSHOT}, {"movement": ONE_STRIDE}),
        # the loss of what a tuning chose: at 4 % of a guess steps this large have done no harm
        ({"movement": ONE_OVERSHOT}, {"movement": ONE_OVERSHOT, "losses": falling(0.04)}),
        (
            {"movement": ONE_OVERSHOT},
            {"movement": ONE_OVERSHOT, "facts": {"layers": ["Linear", "BatchNorm1d", "Linear"]}},
        ),
        # below the edge a large step is one along flat directions
        (
            {"movement": ONE_OVERSHOT, "edges": nearest(2.6)},
            {"movement": ONE_OVERSHOT, "edges": nearest(2.4)},
        ),
        # under Adam's kind far beyond the edge, unless the loss came down to nearly nothing
        ({**ADAMW, "edges": nearest(77)}, {**ADAMW, "edges": nearest(75)}),
        ({**ADAMW, "edges": nearest(77)}, {"edges": nearest(77)}),
        ({**ADAMW, "edges": nearest(77)}, {**ADAMW, "edges": nearest(77), "losses": falling(0.04)}),
        ({"losses": np.append(falling()[:-20], np.full(20, np.nan))}, {}),
    ],
    Claim.UNSTABLE: [
        (
            {"losses": jumping(0.6), "movement": striding(0.09)},
            {"losses": jumping(0.6), "movement": striding(0.12)},
        ),
        (
            {"losses": jumping(0.6), "movement": striding(0.09)},
            {"losses": jumping(0.4), "movement": striding(0.09)},
        ),
    ],
    Claim.MOMENTUM_RATE: [
        (
            {"momentum": 0.96, "movement": ONE_OVERSHOT},
            {"momentum": 0.94, "movement": ONE_OVERSHOT},
        ),
    ],
    Claim.RATE_LOW: [
        ({"movement": reaching(7.9)}, {"movement": reaching(8.1)}),
        (
            {**ADAMW, "movement": reaching(11.9)},
            {**ADAMW, "movement": reaching(12.1)},
        ),
        (  # without momentum noise makes the path √19 times longer
            {"movement": np.sqrt(19) * reaching(7.9), "momentum": 0.0},
            {"movement": np.sqrt(19) * reaching(8.1), "momentum": 0.0},
        ),
        (  # the way grows as the root of the steps
            {**OF_200_STEPS, "movement": 2 * reaching(0.7 * 8)},
            {**OF_200_STEPS, "movement": 2 * reaching(0.72 * 8)},
        ),
        (  # the layer that goes furthest counts
            {"movement": tensors(0.0, 0.01, 1.0) * reaching(7.9)},
            {"movement": tensors(0.0, 0.01, 1.0) * reaching(8.1)},
        ),
        (  # at a constant rate it may have been stopped early
            {"movement": reaching(2.7), "rates": np.full(STEPS, 0.1)},
            {"movement": reaching(2.9), "rates": np.full(STEPS, 0.1)},
        ),
        (
            {"movement": reaching(2), "losses": falling(0.06)},
            {"movement": reaching(2), "losses": falling(0.02)},
        ),
        # steps that are far below the edge of stability
        ({"edges": nearest(0.12)}, {"edges": nearest(0.13)}),
        (
            {"edges": nearest(0.12), "losses": falling(0.06)},
            {"edges": nearest(0.12), "losses": falling(0.04)},
        ),
        (  # a loss of a kind that is not known may not be curved in the outputs
            {"edges": nearest(0.1)},
            {"edges": nearest(0.1), "as_cross_entropy": constant(0.0), "label_entropy": UNKNOWN},
        ),
        ({"edges": nearest(0.1)}, {"edges": nearest(0.1)[:2]}),
        (  # a layer that went far in spite of it
            {"edges": nearest(0.1), "movement": reaching(17.5)},
            {"edges": nearest(0.1), "movement": reaching(17.7)},
        ),
        (  # where steps come to half of the edge, a short way is no sign; with momentum at twice
            {"movement": reaching(2), "momentum": 0.0, "edges": nearest(0.45)},
            {"movement": reaching(2), "momentum": 0.0, "edges": nearest(0.55)},
        ),
        (
            {"movement": reaching(2), "edges": nearest(1.9)},
            {"movement": reaching(2), "edges": nearest(2.1)},
        ),
    ],
}
"""For every claim pairs of records: the first has it, the second does not."""
