"""Words about the shape of the gradient noise."""

from collections.abc import Mapping

from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Words

SHARE_OF_A_TENTH = (
    "A tenth of a batch has {top_tenth_share.value:.0%} [{top_tenth_share.low:.0%}, "
    "{top_tenth_share.high:.0%}] of its squared gradient norms "
    "({top_tenth_share.samples:measured step}; their variation is {norm_variation})."
)

FEW_LATE = (
    "Late in training most examples are learnt, so a few make most of the noise in a healthy run "
    "too."
)

DIRECTIONS = (
    "The gradient noise has about {effective_dimension.value:3} [{effective_dimension.low:3}, "
    "{effective_dimension.high:3}] directions ({effective_dimension.samples:measured step})."
)


def split(finding: Finding) -> Mapping[str, str]:
    """The error of a batch along and across the gradient, as far as it is known."""
    along, across = (finding.numbers[f"{name}_test"] for name in ("inner_product", "orthogonality"))
    known = f"{along} along it, which makes a step too long or too short, and {across} across it"
    is_known = along.tells and across.tells
    return {"split": known if is_known else "its part along the gradient is not known yet"}


CLAIMS: Mapping[str, Words] = {
    "noise_of_many": Words(
        SHARE_OF_A_TENTH, "The noise comes from many examples.", caveat=FEW_LATE
    ),
    "noise_of_few": Words(
        SHARE_OF_A_TENTH,
        "A few examples make most of the noise: single steps vary wildly, and intervals need long "
        "windows.",
        " lists them: check their labels.",
        FEW_LATE,
        paste=("noisiest(objective, batch, 10)",),
    ),
    "noise_directions": Words(
        DIRECTIONS, "The error of a batch relative to the gradient is not known yet."
    ),
    "noise_shape": Words(
        DIRECTIONS,
        "The error of one batch is {norm_test} times as long as the gradient: {split}.",
        caveat="The moments are fourth powers of gradients: late in training a few large readings "
        "dominate them.",
        slots=split,
    ),
}
