"""Words about the sources of the gradient noise."""

from collections.abc import Mapping

from gradiometer.verdict.words.sentences import Words

SHARE_OF_DRAWS = (
    "{drawn_share.value:.0%} [{drawn_share.low:.0%}, {drawn_share.high:.0%}] of the gradient noise "
    "comes from random numbers in the model, such as Dropout ({drawn_share.samples:measured step})."
)

SEPARATE_NUMBERS = (
    "Assumes separate random numbers for every example; augmentation outside the model counts as "
    "data."
)

CLAIMS: Mapping[str, Words] = {
    "noise_of_examples": Words(
        SHARE_OF_DRAWS, "The rest comes from the choice of examples.", caveat=SEPARATE_NUMBERS
    ),
    "noise_of_draws": Words(
        SHARE_OF_DRAWS,
        "Most of the noise is not in the data: new random numbers change a step more than new "
        "examples do.",
        "Less Dropout, or a larger batch, makes ĝ more accurate; more data does not.",
        SEPARATE_NUMBERS,
    ),
}
