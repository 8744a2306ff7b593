"""Claims about the data: overfitting, labels, and single batches."""

import numpy as np

from gradiometer.measurement.finding import Evidence
from gradiometer.verdict.claims import Claim, Claimed, InWords
from gradiometer.verdict.triage.course import rises_of, stays_up
from gradiometer.verdict.triage.level import Level
from gradiometer.verdict.triage.rate import is_near
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    ABOVE_TRAINING,
    AFTER_THE_BEST,
    AT_A_GUESS,
    BAD_RISE,
    BEST_BEFORE,
    COMES_BACK,
    FAR_ABOVE_TRAINING,
    HALF_A_GUESS,
    LEAKED,
    NEARLY_ALL,
    RANDOM,
    ROSE,
    SEEN_AGAIN,
    WRONG_SHARE,
)


def overfit(signs: Signs, _: Level) -> Claimed | None:
    """The test loss had its lowest value long ago, and is above the training loss."""
    steps, test = _tests(signs)
    if len(test) < 3 or signs.epochs < SEEN_AGAIN:
        return None
    best = int(test.argmin())
    training = training_loss(signs)
    planned = signs.facts.get("steps")
    is_over = planned is not None and signs.steps >= planned
    if not steps[best] < BEST_BEFORE * signs.steps:
        return None
    if not is_over and len(test) - 1 - best < AFTER_THE_BEST:
        return None
    rose = test[-1] > ROSE * test[best] and test[-1] > ABOVE_TRAINING * training
    if not (rose or (test[-1] > test[best] and test[-1] > FAR_ABOVE_TRAINING * training)):
        return None
    if test[-1] - test[best] <= 2 * noise_of(test[best + 1 :]):
        return None
    step = signs.step_of(int(steps[best]))
    numbers = {
        "best_step": float(step),
        "best": float(test[best]),
        "now": float(test[-1]),
        "train": training,
    }
    cure = (InWords(f"stop at step {step:,}"), "weight decay 0.1")
    return Claimed(Claim.OVERFIT, numbers, cure)


def noise_of(tests: np.ndarray) -> float:
    """How far successive test losses vary around a straight line; 0 for fewer than four."""
    if len(tests) < 4:
        return 0.0
    # second differences: a line has none, and independent errors have six times their variance
    return float(np.sqrt((np.diff(tests, 2) ** 2).mean() / 6))


def leak(signs: Signs, _: Level) -> Claimed | None:
    """Rows of the evaluation are also trained on."""
    rows, shared = signs.tensors.get("evaluated_rows"), signs.tensors.get("shared_rows")
    if rows is None or shared is None or not np.isfinite(signs.test).any():
        return None
    if counts_some_rows(signs):
        return None
    share = float(shared.sum() / rows.sum())
    if np.isfinite(signs.train).any() and not (shared > 0).mean() >= NEARLY_ALL:
        return None
    if not share >= max(LEAKED, 2 * alike_by_chance(signs)):
        return None
    cure = (InWords("evaluate on examples that are not trained on"),)
    return Claimed(Claim.LEAK, {"share": share}, cure, evidence=Evidence.EXACT)


def counts_some_rows(signs: Signs) -> bool:
    """True if the model always runs on the same rows and the loss counts some of them: the nodes of
    one graph, of which other ones are tested."""
    if "graph" in signs.single:
        return True
    labels, rows = signs.series("labels"), signs.series("rows")
    if not len(labels) or not len(rows):
        return False
    return signs.is_one_batch and bool(np.median(labels) < np.median(rows))


def alike_by_chance(signs: Signs) -> float:
    """Share of the rows of the first pass over the data that were seen before: rows of few
    categories are alike, in whatever set they are. 0 if it is unknown."""
    repeated, rows = signs.single.get("repeated_rows"), signs.single.get("rows")
    if repeated is None or rows is None or not signs.examples:
        return 0.0
    first = np.isfinite(repeated) & ((signs.looks + 1) * signs.batch_size <= signs.examples)
    latest = np.flatnonzero(first)[-5:]
    return float(repeated[latest].sum() / rows[latest].sum()) if len(latest) else 0.0


def labels_random(signs: Signs, level: Level) -> Claimed | None:
    """The weights travelled far, and neither loss came below a guess to the end."""
    test = _tests(signs)[1]
    if len(test) < 2 or signs.is_short or not level.value > 0:
        return None
    lowest = float(test.min() / level.value)
    if not lowest > RANDOM or is_near(signs) or not np.isfinite(signs.reach):
        return None
    # rows that were learnt by heart are overfitted, and before the end the loss may be about to
    # fall
    if training_loss(signs) < AT_A_GUESS * level.value or not signs.has_ended:
        return None
    return Claimed(
        Claim.LABELS_RANDOM,
        {"lowest": lowest, "travel": signs.travel},
        (InWords("check the labels"),),
    )


def labels_noisy(signs: Signs, level: Level) -> Claimed | None:
    """The test loss is far below the training loss."""
    test = _tests(signs)[1]
    if (
        not len(test)
        or signs.is_short
        or float(signs.facts.get("dropout", 1.0)) > 0
        or is_augmented(signs)
    ):
        return None
    training = training_loss(signs)
    below, learnt = training - test[-1], level.value - test[-1]
    if not (learnt > 0 and below - 2 * evaluation_error(signs) > WRONG_SHARE * learnt):
        return None
    numbers = {"ratio": float(test[-1] / training)}
    cure = (InWords("check the labels of the training set"),)
    return Claimed(Claim.LABELS_NOISY, numbers, cure)


def evaluation_error(signs: Signs) -> float:
    """The standard error of test loss less training loss, since both are means over some rows; NaN
    if their number is unknown.

    A batch loss varies as a mean over B rows does.
    """
    rows = signs.tensors.get("evaluated_rows")
    late = signs.finite[-max(20, signs.steps // 10) :]
    if rows is None or len(late) < 20:
        return float("nan")
    both = 4.0 if np.isfinite(signs.train).any() else 1.0  # half of the rows are of each
    return float(late.std(ddof=1) * np.sqrt(both * signs.batch_size / rows.sum()))


def bad_batch(signs: Signs, level: Level) -> Claimed | None:
    """After something was learnt, the loss of one step is far above its neighbours, and it or the
    test loss stays up."""
    losses = signs.losses
    if signs.is_short or not level.value > 0:
        return None
    rises = rises_of(losses / level.value)
    high = np.flatnonzero(rises > BAD_RISE)
    if not len(high):
        return None
    step = int(high[0])
    if not losses[step - 8 : step].max() < HALF_A_GUESS * level.value:
        return None
    if not (stays_up(losses, step) or test_rises_at(signs, step)):
        return None
    first, after = signs.step_of(step - 1) + 1, signs.step_of(step) + 1
    return Claimed(
        Claim.BAD_BATCH,
        {"step": float(after - 1), "rise": float(rises[step])},
        (f"skip {first}:{after}",),
    )


def test_rises_at(signs: Signs, step: int) -> bool:
    """True if the first test loss after this step is far above the last one before it, as where a
    batch spoils the moments that a normalisation keeps for its tests. In two sick trainings it was
    1.27 and 42 times as high."""
    steps, test = _tests(signs)
    after = int(np.searchsorted(steps, signs.step_of(step), side="right"))
    return 0 < after < len(test) and bool(test[after] > ROSE * test[after - 1])


def is_augmented(signs: Signs) -> bool:
    """True if training rows do not come back: they are changed at random, and harder than those of
    the evaluation."""
    if np.isfinite(signs.train).any() or not signs.epochs > SEEN_AGAIN:
        return False
    return bool(signs.epochs_by_rows < 1 + COMES_BACK * (signs.epochs - 1))


def training_loss(signs: Signs) -> float:
    """The training loss at the end: of the last evaluation if it has one, else of the
    last steps."""
    known = signs.train[np.isfinite(signs.train)]
    return float(known[-1]) if len(known) else signs.end()


def _tests(signs: Signs) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(signs.test)
    return signs.evaluated[known], signs.test[known]
