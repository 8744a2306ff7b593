"""Words about the shape and the sources of the gradient noise."""

from collections.abc import Callable, Mapping

from gradiometer.measurement.estimate import counted, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences, fixed


def noise_by_example(finding: Finding) -> Sentences:
    """If few examples make most of the noise."""
    share, variation = finding.numbers["top_tenth_share"], finding.numbers["norm_variation"]
    seen = (
        f"A tenth of a batch has {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of its "
        f"squared gradient norms ({counted(share.samples, 'measured step')}; their variation is "
        f"{variation})."
    )
    caveat = (
        "Late in training most examples are learnt, so a few make most of the noise in a healthy "
        "run too."
    )
    if finding.claim == "noise_of_many":
        return Sentences(seen, "The noise comes from many examples.", caveat=caveat)
    means = (
        "A few examples make most of the noise: single steps vary wildly, and intervals need long "
        "windows."
    )
    paste, then = ("noisiest(objective, batch, 10)",), " lists them: check their labels."
    return Sentences(seen, means, paste, then, caveat=caveat)


def noise_by_source(finding: Finding) -> Sentences:
    """How much of the noise comes from random numbers in the model."""
    share = finding.numbers["drawn_share"]
    steps = f"({counted(share.samples, 'measured step')})"
    percent = f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"
    seen = (
        f"{percent} of the gradient noise comes from random numbers in the model, such as Dropout "
        f"{steps}."
    )
    caveat = (
        "Assumes separate random numbers for every example; augmentation outside the model counts "
        "as data."
    )
    if finding.claim == "noise_of_examples":
        return Sentences(seen, "The rest comes from the choice of examples.", caveat=caveat)
    means = (
        "Most of the noise is not in the data: new random numbers change a step more than new "
        "examples do."
    )
    suggestion = "Less Dropout, or a larger batch, makes ĝ more accurate; more data does not."
    return Sentences(seen, means, suggestion=suggestion, caveat=caveat)


def shape(finding: Finding) -> Sentences:
    """The number of directions of the noise, and its parts along and across the gradient."""
    numbers = finding.numbers
    along, across = numbers["inner_product_test"], numbers["orthogonality_test"]
    split = f"{along} along it, which makes a step too long or too short, and {across} across it"
    if not (along.tells and across.tells):
        split = "its part along the gradient is not known yet"
    means = (
        f"The error of one batch is {numbers['norm_test']} times as long as the gradient: {split}."
    )
    caveat = (
        "The moments are fourth powers of gradients: late in training a few large readings "
        "dominate them."
    )
    return Sentences(_directions(finding), means, caveat=caveat)


def _directions(finding: Finding) -> str:
    dimension = finding.numbers["effective_dimension"]
    value, low, high = map(significant, (dimension.value, dimension.low, dimension.high))
    steps = counted(dimension.samples, "measured step")
    return f"The gradient noise has about {value} [{low}, {high}] directions ({steps})."


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "noise_of_many": noise_by_example,
    "noise_of_few": noise_by_example,
    "noise_of_examples": noise_by_source,
    "noise_of_draws": noise_by_source,
    "noise_directions": fixed(
        _directions, "The error of a batch relative to the gradient is not known yet."
    ),
    "noise_shape": shape,
}

DOUBTS: Mapping[str, Callable[[Doubt], str]] = {}
