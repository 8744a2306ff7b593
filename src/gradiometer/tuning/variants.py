"""The optimizers that a tuning races: every combination of the settings that are given as several
values."""

from collections.abc import Sequence
from typing import Any

from gradiometer.arguments import check_number
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.tuning.optimizers import Made, MakeOptimizer

# One optimizer or several: names, also in one text with commas, or functions of (parameters,
# learning_rate).
Optimizers = str | MakeOptimizer | Sequence[str | MakeOptimizer]

# One number or several.
Amounts = Amount | Sequence[Amount]


def variants(
    optimizer: Optimizers, momentum: Amounts, nesterov: bool, weight_decay: Amounts
) -> tuple[Made, ...]:
    """The combinations. Momentum belongs to SGD, so that another optimizer is not repeated for its
    values.

    Args:
        optimizer: One optimizer or several.
        momentum: One momentum of SGD or several.
        nesterov: True for Nesterov momentum.
        weight_decay: One weight decay or several.

    Raises:
        BadArgument: A value cannot be used, or is given twice.

    >>> [made.words for made in variants("sgd,adamw", (0, 0.9), True, 0)]
    ['SGD', 'SGD with Nesterov momentum 0.9', 'AdamW']
    """
    names = several_of(
        "optimizer", optimizer.split(",") if isinstance(optimizer, str) else optimizer
    )
    names = [name.strip() if isinstance(name, str) else name for name in names]
    momenta, decays = several_of("momentum", momentum), several_of("weight_decay", weight_decay)
    for name, numbers in (("momentum", momenta), ("weight_decay", decays)):
        for number in numbers:
            check_number(name, number)
    if len(momenta) > 1 and "sgd" not in names:
        raise BadArgument(
            "`momentum` has several values, but it is a setting of SGD, which is not among "
            "`optimizer`."
        )
    if len(decays) > 1 and any(callable(name) for name in names):
        raise BadArgument(
            "`weight_decay` has several values, but a function in `optimizer` sets its own: give "
            "one."
        )
    made = [
        Made(name, mu, nesterov, decay)
        for name in names
        for mu in (momenta if name == "sgd" else momenta[:1])
        for decay in decays
    ]
    words = [one.words for one in made]
    if twice := [one for place, one in enumerate(words) if one in words[:place]]:
        raise BadArgument(
            f"`optimizer` has two functions with the name {twice[0]!r}: give them different names "
            "with `def`."
        )
    return tuple(made)


def several_of(name: str, given: Any) -> list[Any]:
    """The values, each given once."""
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found:
        raise BadArgument(f"`{name}` must be one value or several, got none.")
    # tensors have no single truth value; what is no number is refused where it is used
    plain = [one for one in found if isinstance(one, int | float | str)]
    if twice := [one for place, one in enumerate(plain) if one in plain[:place]]:
        raise BadArgument(f"`{name}` has {twice[0]!r} twice: leave one of them out.")
    return found
