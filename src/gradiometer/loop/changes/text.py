"""Alternatives from text, such as "rate 2x", and from JSON."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.loop.changes.alternative import (
    Alternative,
    BatchSize,
    Clip,
    CoolNow,
    Following,
    GoOn,
    Hold,
    Momentum,
    Rate,
    RestartHot,
    Shorter,
    Skip,
    Together,
    WeightDecay,
)


def _following(stored: str | Mapping[str, Any]) -> Following:
    """The alternative that follows a schedule, from its text or from JSON."""
    from gradiometer.convergence.schedules.schedule import Schedule  # noqa: PLC0415 (no other needs it)

    made = Schedule.parse(stored) if isinstance(stored, str) else Schedule.from_dict(stored)
    return Following(made)


# The digits after a point are only looked for behind one: if both groups could take them, a text of
# 100,000 digits would be tried in 100,000 ways.
NUMBER = r"\+?(\d+(?:_\d+)*(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)"
TIMES = NUMBER + "[x×]"
FORMS: tuple[tuple[str, Callable[..., Alternative]], ...] = (
    ("go on", GoOn),
    (f"rate {TIMES}", lambda factor: Rate(float(factor))),
    (f"batch {TIMES}", lambda factor: BatchSize(float(factor), rate=None)),
    (
        f"batch {TIMES}, rate {TIMES}",
        lambda factor, rate: BatchSize(float(factor), rate=float(rate)),
    ),
    (
        f"batch {TIMES}, rate (sqrt|linear)",
        lambda factor, rate: BatchSize(float(factor), rate=rate),
    ),
    (f"momentum {NUMBER}", lambda value: Momentum(float(value))),
    (f"weight decay {NUMBER}", lambda value: WeightDecay(float(value))),
    ("cool now", CoolNow),
    (f"cool now {TIMES}", lambda factor: CoolNow(float(factor))),
    (f"hold {NUMBER}%", lambda percent: Hold(float(percent) / 100)),
    (f"shorter {TIMES}", lambda share: Shorter(float(share))),
    (f"restart hot {TIMES}", lambda factor: RestartHot(float(factor))),
    (f"clip {NUMBER}", lambda norm: Clip(float(norm))),
    (r"skip (\d{1,15}):(\d{1,15})", lambda start, stop: Skip(int(start), int(stop))),
    (r"follow (.+)", _following),
)
EXAMPLES = (
    "go on, rate 2x, batch 2x, 'batch 2x, rate 1.41x', momentum 0.9, weight decay 0.01, cool now, "
    "hold 80%, clip 1, shorter 0.5x, skip 1200:1205, restart hot 10x, follow Cosine(0.1, "
    "steps=500), AdamW(lr=0.001)"
)


def alternative_of(given: Any) -> Alternative:
    """The alternative in a text, such as "rate 2x & momentum 0.95", or in the result of `to_dict`.

    The text is parsed, never executed as code. An optimizer is found by its name in `torch.optim`.
    An `Alternative` is returned as it is.

    Raises:
        BadArgument: It names no alternative.

    >>> from gradiometer.loop import alternative_of
    >>> alternative_of("batch 2x, rate sqrt")
    BatchSize(factor=2.0, rate='sqrt')
    >>> alternative_of("AdamW(lr=0.001) & clip 1").name
    'AdamW(lr=0.001) & clip 1'
    """
    if isinstance(given, Alternative):
        return given
    if isinstance(given, Mapping):
        return _from_dict(given)
    if not isinstance(given, str):
        raise BadArgument(
            f"`alternatives` must be alternatives or texts, got a {type(given).__name__}."
        )
    first, *others = [_one(part) for part in given.split(" & ")]
    for other in others:
        first = first & other
    return first


def _one(text: str) -> Alternative:
    plain = " ".join(text.split())
    for form, make in FORMS:
        found = re.fullmatch(form, plain)
        if found:
            return make(*found.groups())
    if "(" in plain:
        from gradiometer.loop.changes.replacements import using_of  # noqa: PLC0415 (imports torch)

        return using_of(plain)
    raise BadArgument(
        f"`alternatives` names {text!r}, which is not one: write one such as {EXAMPLES}."
    )


def _from_dict(stored: Mapping[str, Any]) -> Alternative:
    settings = dict(stored)
    kind = settings.pop("kind", None)
    kinds = {one.__name__: one for one in Alternative.__subclasses__()}
    try:
        match kind:
            case "Together":
                return Together(_from_dict(settings["first"]), _from_dict(settings["second"]))
            case "Following":
                return _following(settings["schedule"])
            case "Using" | "Custom":
                from gradiometer.loop.changes.replacements import stored_replacement  # noqa: PLC0415 (torch)

                return stored_replacement(settings)
            case str() if kind in kinds:
                return kinds[kind](**settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadArgument(f"`alternatives` holds a damaged {kind}: {error}.") from error
    raise BadArgument(f"`alternatives` holds {dict(stored)}, which is not the result of `to_dict`.")
