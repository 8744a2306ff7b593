"""Made-up records just below and just above every threshold of triage, by claim."""

from typing import Any

import numpy as np

from gradiometer.verdict.claims import Claim
from made_up_signs import (
    GUESS,
    LOOKS,
    STEPS,
    constant,
    cosine_rates,
    evaluations,
    falling,
    half_zero,
    in_turn,
    moved,
    reaching,
    slow_start,
    striding,
    tensors,
)
from rate_cases import ADAMW, FLAT, RATES

FEW_EVALUATIONS: dict[str, Any] = {
    "evaluated": np.array([100, 200, 300, 400]),
    "test": np.array([1.0, 0.4, 0.45, 0.47]),
    "train": np.full(4, 0.3),
}
RISEN = [1.0, 0.5, 0.4, 0.4, 0.42, 0.43, 0.44, 0.45, 0.46]
LATE_BEST = [1.0, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.41, 0.45, 0.5]
CONSTANT = np.full(STEPS, 0.1)
BAD = falling()
BAD[200:204] += 2.5 * GUESS
NOT_SO_BAD = falling()
NOT_SO_BAD[200:204] += 1.7 * GUESS
ONCE = falling()
ONCE[200] += 2.5 * GUESS
BEFORE_LEARNING = np.where(np.arange(STEPS) < 200, falling(0.7), falling())
BEFORE_LEARNING[200:204] += 2.5 * GUESS
UNSURE = np.random.default_rng(1).normal(0, 0.1, STEPS)
UP_AND_DOWN = 0.5 + np.where(np.arange(STEPS) % 2, 0.2, -0.2)
EVALUATED: dict[str, Any] = {
    "facts": {"dropout": 0.0},
    "evaluated_rows": np.array([[400.0, 400.0]]),
}
ALIKE: dict[str, Any] = {
    "evaluated_rows": np.array([[100.0, 100.0]]),
    "shared_rows": np.array([[50.0, 50.0]]),
}
BY_A_QUARTER = GUESS * np.linspace(0.8, 0.4, STEPS)
NO_SIGNAL = tensors(0.005, 0.1, 0.6)
DIES = np.vstack([tensors(0.6, 0.1, 0.6)[:3], NO_SIGNAL[3:]])
SHORT = {
    "losses": falling(steps=200),
    "rates": cosine_rates(steps=200),
    "batch_size": 64,
    "examples": 1600,
    "product": constant(0.1),
}
# The whole training set at every update.
ONE_BATCH = {**SHORT, "examples": 64, "same_rows": constant(1)}
BURST = cosine_rates()
BURST[200:206] *= 8
SLIGHT = cosine_rates()
SLIGHT[200:206] *= 4
DROPPED_AT = [np.where(np.arange(STEPS) < step, 0.1, 0.001) for step in (270, 290)]
FAST, SLOW = 0.9883 ** np.arange(STEPS), 0.9885 ** np.arange(STEPS)
STAIRS = 0.5 ** (np.arange(STEPS) // 20)

FALLING: dict[str, Any] = {
    "rates": CONSTANT,
    "examples": 7000,
    "losses": GUESS * np.linspace(1, 0.5, STEPS),
    "movement": striding(0.06),
}


def in_steps(steps: int) -> dict[str, Any]:
    """The losses and rates of a training of this length."""
    return {"losses": falling(steps=steps), "rates": cosine_rates(steps=steps)}


CASES: dict[Claim, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    Claim.NAN_EXAMPLE: [
        ({"inputs_not_finite": constant(1)}, {"inputs_not_finite": constant(0)}),
        ({"not_finite": "inputs"}, {"not_finite": "layers"}),
    ],
    Claim.NO_GRADIENT: [
        (
            {"without_gradient": constant(1), "gradient": tensors(0.0, 0.6, 0.6245)},
            {"without_gradient": constant(1), "gradient": in_turn()},
        ),
        (  # a part behind others is one that the model does not use
            {"without_gradient": constant(2), "gradient": tensors(0.0, 0.6, 0.0)},
            {"without_gradient": constant(1), "gradient": tensors(0.6, 0.6245, 0.0)},
        ),
        ({"facts": {"untrained": ["2.weight"]}}, {"facts": {"untrained": []}}),
        (  # a small part
            {
                "without_gradient": constant(1),
                "gradient": tensors(0.0, 0.6, 0.6245),
                "facts": {"sizes": [10, 400, 400]},
            },
            {
                "without_gradient": constant(1),
                "gradient": tensors(0.0, 0.6, 0.6245),
                "facts": {"sizes": [10, 600, 600]},
            },
        ),
    ],
    Claim.SOFTMAX_TWICE: [
        (
            {"row_sum_off": constant(1e-6), "output_min": constant(0.01)},
            {"row_sum_off": constant(1e-6)},
        ),
        (
            {"row_sum_off": constant(1e-6), "output_min": constant(0.0)},
            {"output_min": constant(0.0)},
        ),
    ],
    Claim.EVAL_MODE: [({"in_eval": constant(2)}, {"in_eval": constant(1)})],
    Claim.DROPOUT: [
        ({"facts": {"dropout": 0.7}}, {"facts": {"dropout": 0.65}, "test": np.full(10, np.nan)}),
        (
            {"facts": {"dropout": 0.5}, **evaluations([0.38] * 10, 0.3)},
            {"facts": {"dropout": 0.5}, **evaluations([0.4] * 10, 0.3)},
        ),
        (
            {"facts": {"dropout": 0.5}, **evaluations([0.35] * 10, 0.3)},
            {"facts": {"dropout": 0.45}, **evaluations([0.35] * 10, 0.3)},
        ),
    ],
    Claim.ZERO_GRAD: [({"stale": constant(0.1)}, {"stale": constant(0.0005)})],
    Claim.ACCUMULATION: [
        (
            {"backwards": constant(4), "root": falling()[LOOKS]},
            {"backwards": constant(4), "root": falling()[LOOKS] / 4},
        )
    ],
    Claim.UNSCALED: [
        ({"input_std": constant(5.2)}, {"input_std": constant(4.8)}),
        ({"input_mean": constant(3.2)}, {"input_mean": constant(2.8)}),
        (
            {"input_std": constant(50)},
            {"input_std": constant(50), "facts": {"layers": ["BatchNorm1d", "Linear", "Linear"]}},
        ),
        (  # a convolution sums over channels of one scale, and a linear layer over columns of many
            {"input_std": constant(50), "facts": {"layers": ["Linear", "Linear", "BatchNorm1d"]}},
            {"input_std": constant(50), "facts": {"layers": ["Conv2d", "Conv2d", "BatchNorm2d"]}},
        ),
    ],
    Claim.UNSHUFFLED: [
        ({"classes": constant(6.3)}, {"classes": constant(6.6)}),
        (  # of two classes in turn each batch has one
            {"classes": constant(1), "classes_expected": constant(1.9)},
            {"classes": constant(1.5), "classes_expected": constant(1.9)},
        ),
        (
            {"classes": constant(4), "labels": constant(32)},
            {"classes": constant(4), "labels": constant(640)},
        ),
    ],
    Claim.CLIP_SMALL: [
        ({"clipped": constant(0.1)}, {"clipped": constant(0.1), "family": "adaptive"}),
        (
            {"clipped": constant(0.49), "movement": reaching(17.5)},
            {"clipped": constant(0.49), "movement": reaching(17.7)},
        ),
        (
            {"clipped": constant(0.49), "movement": reaching(10)},
            {"clipped": constant(0.51), "movement": reaching(10)},
        ),
    ],
    Claim.RATE_BURST: [({"rates": BURST}, {"rates": SLIGHT})],
    Claim.SCHEDULE_UNIT: [
        ({"rates": FAST}, {"rates": SLOW}),
        ({"rates": STAIRS}, {"rates": STAIRS, "examples": 640}),
        (
            {"rates": np.repeat(cosine_rates(steps=1000)[:20], 20), "facts": {"scheduled": 400}},
            {"rates": cosine_rates(), "facts": {"scheduled": 400}},
        ),
    ],
    Claim.DECAY_EARLY: [({"rates": DROPPED_AT[0]}, {"rates": DROPPED_AT[1]})],
    Claim.EXPLODING: [
        (
            {"losses": np.append(3.2 * GUESS, falling()[1:]), "output_std": constant(4.0)},
            {"losses": np.append(2.8 * GUESS, falling()[1:]), "output_std": constant(4.0)},
        )
    ],
    Claim.DEAD_RELU: [
        (
            {"nonzero": half_zero(0.97), "nonzero_at_start": half_zero(0.97)},
            {"nonzero": half_zero(0.93), "nonzero_at_start": half_zero(0.93)},
        )
    ],
    Claim.WEIGHT_DECAY: [
        (  # such a share is usual for AdamW
            {"weight_decay": 0.003, "losses": falling(0.2)},
            {**ADAMW, "weight_decay": 0.022, "losses": falling(0.2)},
        ),
        # the mean rate of the second half is 0.018, ten times with momentum, and a step moves
        # 0.0075
        (
            {"weight_decay": 0.0018, "losses": falling(0.2)},
            {"weight_decay": 0.0016, "losses": falling(0.2)},
        ),
        (  # with a decay that is usual, the rate is what is too high
            {"weight_decay": 0.0011, "losses": falling(0.2), "movement": moved(0.003)},
            {"weight_decay": 0.0009, "losses": falling(0.2), "movement": moved(0.003)},
        ),
        (  # a quarter of the movement
            {**ADAMW, "weight_decay": 0.107, "losses": falling(0.06)},
            {**ADAMW, "weight_decay": 0.096, "losses": falling(0.06)},
        ),
        (  # nothing is left to gain
            {**ADAMW, "weight_decay": 0.2, "losses": falling(0.06)},
            {**ADAMW, "weight_decay": 0.2, "losses": falling(0.005)},
        ),
    ],
    Claim.VANISHING: [
        (
            {"gradient": tensors(0.011, 0.1, 0.6), "losses": falling(0.95)},
            {"gradient": tensors(0.013, 0.1, 0.6), "losses": falling(0.95)},
        ),
        (
            {"gradient": NO_SIGNAL, "losses": falling(0.95)},
            {"gradient": DIES, "losses": falling(0.95)},
        ),
        (
            {"gradient": NO_SIGNAL, "losses": falling(0.95), "nonzero": half_zero(0.87)},
            {"gradient": NO_SIGNAL, "losses": falling(0.95), "nonzero": half_zero(0.89)},
        ),
        (  # a transformer whose small weights cost it 58 of 1,000 steps ended at 0.4 % of a guess
            {"gradient": NO_SIGNAL, "losses": slow_start(0.02)},
            {"gradient": NO_SIGNAL, "losses": slow_start(0.01)},
        ),
        (
            {"facts": {"rows": [64, 64, 10]}, "weights_at_start": tensors(0.088, 1, 0.58)},
            {"facts": {"rows": [64, 64, 10]}, "weights_at_start": tensors(0.097, 1, 0.58)},
        ),
    ],
    **RATES,
    Claim.BATCH_SMALL: [
        (
            {"batch_size": 4, "product": constant(0.29)},
            {"batch_size": 4, "product": constant(0.31)},
        ),
        ({"batch_size": 8, "product": constant(0.0)}, {"batch_size": 9, "product": constant(0.0)}),
        (
            {"batch_size": 4, "product": constant(0.0), "labels": constant(128)},
            {"batch_size": 4, "product": constant(0.0), "labels": constant(129)},
        ),
    ],
    Claim.BATCH_LARGE: [
        (
            {**ONE_BATCH, "losses": falling(steps=200) + np.linspace(0.1, 0, 200)},
            {**ONE_BATCH, "losses": falling(steps=200).clip(0.5)},
        ),
        (  # with many steps, and before the end, gradients that are alike are no reason
            {**SHORT, "product": constant(0.9)},
            {**SHORT, "product": constant(0.9), "has_ended": False},
        ),
        (  # of a long training it is none, as that of 500 updates on the 1,437 digits
            {**SHORT, **in_steps(399), "examples": 64 * 29},
            {**SHORT, **in_steps(401), "examples": 64 * 29},
        ),
        (
            {**SHORT, "movement": striding(0.1)},
            {**SHORT, "movement": striding(0.1), "examples": 1984},
        ),
        (
            {**SHORT, "movement": striding(0.1), **evaluations([0.4] * 9 + [0.41], 0.3)},
            {**SHORT, "movement": striding(0.1), **evaluations([0.4] * 9 + [0.43], 0.3)},
        ),
    ],
    Claim.STOPPED_EARLY: [
        (
            {**FALLING, "losses": GUESS * np.linspace(1, 0.85, STEPS) + UNSURE},
            {**FALLING, "losses": GUESS * np.linspace(1, 0.99, STEPS) + UNSURE},
        ),
        (FALLING, {**FALLING, "examples": 6000}),
        (  # of a training that came far, a decay may be what is missing
            {**FALLING, "movement": reaching(17.5)},
            {**FALLING, "movement": reaching(17.7)},
        ),
    ],
    Claim.NO_DECAY: [
        (
            {"rates": CONSTANT, "losses": FLAT, "movement": striding(0.158)},
            {"rates": CONSTANT, "losses": FLAT, "movement": striding(0.152)},
        ),
        (
            {"rates": CONSTANT, "losses": BY_A_QUARTER, "movement": striding(0.412)},
            {"rates": CONSTANT, "losses": BY_A_QUARTER, "movement": striding(0.398)},
        ),
        (
            {"rates": CONSTANT, "losses": FLAT, "movement": striding(0.2)},
            {"losses": FLAT, "movement": striding(0.2)},
        ),
        (  # text and classes that overlap leave much of a guess, at any rate
            {"rates": CONSTANT, "losses": falling(0.48), "movement": striding(0.4)},
            {"rates": CONSTANT, "losses": falling(0.52), "movement": striding(0.4)},
        ),
        (
            {"rates": CONSTANT, "losses": FLAT, "movement": striding(0.2)},
            {"rates": CONSTANT, "losses": FLAT, "movement": striding(0.2), "has_ended": False},
        ),
    ],
    Claim.OVERFIT: [
        (evaluations([*RISEN, 0.47], 0.3), evaluations([*RISEN, 0.455], 0.3)),
        (evaluations([*RISEN, 0.47], 0.3), evaluations([*RISEN, 0.47], 0.4)),
        (evaluations([*LATE_BEST[1:], 0.5], 0.3), evaluations(LATE_BEST, 0.3)),
        (
            {**evaluations([*RISEN, 0.47], 0.3), "examples": 6000},
            {**evaluations([*RISEN, 0.47], 0.3), "examples": 7000},
        ),
        (  # a rise within the noise of the evaluations
            evaluations([1.0, 0.5, 0.4, 0.42, 0.45, 0.44, 0.46, 0.45, 0.48, 0.47], 0.1),
            evaluations([1.0, 0.5, 0.4, 0.5, 0.42, 0.52, 0.41, 0.49, 0.42, 0.47], 0.1),
        ),
        (  # two evaluations after the best one are enough if the planned end was reached
            {**FEW_EVALUATIONS, "facts": {"steps": STEPS}},
            {**FEW_EVALUATIONS, "facts": {"steps": STEPS + 1}},
        ),
    ],
    Claim.LEAK: [
        (  # the nodes of one graph, of which others are tested
            {"evaluated_rows": np.array([[100.0]]), "shared_rows": np.array([[100.0]])},
            {
                "evaluated_rows": np.array([[100.0]]),
                "shared_rows": np.array([[100.0]]),
                "graph": constant(1),
            },
        ),
        (
            {
                "evaluated_rows": np.array([[100.0]]),
                "shared_rows": np.array([[100.0]]),
                "same_rows": constant(1),
                "rows": constant(100),
                "labels": constant(100),
            },
            {
                "evaluated_rows": np.array([[100.0]]),
                "shared_rows": np.array([[100.0]]),
                "same_rows": constant(1),
                "rows": constant(100),
                "labels": constant(20),
            },
        ),
        (
            {"evaluated_rows": np.array([[100.0, 100.0]]), "shared_rows": np.array([[50.0, 50.0]])},
            {"evaluated_rows": np.array([[100.0, 100.0]]), "shared_rows": np.array([[0.0, 50.0]])},
        ),
        (
            {
                "evaluated_rows": np.array([[100.0, 100.0]]),
                "shared_rows": np.array([[0.0, 11.0]]),
                "train": np.full(10, np.nan),
            },
            {
                "evaluated_rows": np.array([[100.0, 100.0]]),
                "shared_rows": np.array([[0.0, 9.0]]),
                "train": np.full(10, np.nan),
            },
        ),
        (  # rows of few categories are alike in the training set, too
            {**ALIKE, "repeated_rows": constant(7)},
            {**ALIKE, "repeated_rows": constant(9)},
        ),
    ],
    Claim.NOTHING_LEARNT: [
        ({"losses": np.full(STEPS, 0.92 * GUESS)}, {"losses": np.full(STEPS, 0.88 * GUESS)}),
    ],
    Claim.LABELS_RANDOM: [
        (
            evaluations([0.96 * GUESS] * 10, GUESS),
            evaluations([0.94 * GUESS] * 10, GUESS),
        ),
        (  # before the end the loss may be about to fall
            evaluations([GUESS] * 10, GUESS),
            {**evaluations([GUESS] * 10, GUESS), "has_ended": False},
        ),
        (  # what is learnt by heart is overfitted
            {**evaluations([GUESS] * 10, 0.91 * GUESS), "product": constant(0.02)},
            {**evaluations([GUESS] * 10, 0.89 * GUESS), "product": constant(0.02)},
        ),
    ],
    Claim.LABELS_NOISY: [
        (  # the batch losses vary by 0.2: the error is 0.08
            {**EVALUATED, **evaluations([0.25] * 10, 0.5), "losses": UP_AND_DOWN},
            {**EVALUATED, **evaluations([0.265] * 10, 0.5), "losses": UP_AND_DOWN},
        ),
        (  # the same ratio where both are small
            {**EVALUATED, **evaluations([0.3] * 10, 0.5)},
            {**EVALUATED, **evaluations([0.09] * 10, 0.15)},
        ),
        (  # nobody knows how many rows were evaluated
            {**EVALUATED, **evaluations([0.3] * 10, 0.5)},
            {**evaluations([0.3] * 10, 0.5), "facts": {"dropout": 0.0}},
        ),
    ],
    Claim.BAD_BATCH: [
        ({"losses": BAD}, {"losses": NOT_SO_BAD}),
        ({"losses": BAD}, {"losses": BEFORE_LEARNING}),
        ({"losses": BAD}, {"losses": ONCE}),
        (  # a normalisation keeps the moments of the batch, and only the test loss stays up
            {"losses": ONCE, "test": np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.9, 0.8, 0.7, 0.6, 0.5])},
            {"losses": ONCE, "test": np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3])},
        ),
        (  # the noise of a test
            {"losses": ONCE, "test": np.array([0.5, 0.4, 0.4, 0.4, 0.4, 0.47, 0.4, 0.4, 0.4, 0.4])},
            {"losses": ONCE, "test": np.array([0.5, 0.4, 0.4, 0.4, 0.4, 0.45, 0.4, 0.4, 0.4, 0.4])},
        ),
    ],
}
