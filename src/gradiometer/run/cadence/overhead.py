"""Sentences about the time that the instrument used and about readings that the budget could not
pay for."""

from collections.abc import Mapping
from typing import Any

from gradiometer.measurement.estimate import counted
from gradiometer.run.budget import READINGS


def time_used(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """The share of the training time that the instrument used, with its budget if it had one.

    Args:
        overhead: `Recorder.overhead`.
        every: The interval between measured steps, in steps, if the user set one. Then there is no
            budget.
    """
    budget = overhead.get("budget") if every is None else None
    used = f"{_percent(overhead['used'])} of the training time"
    return used if budget is None else f"{used} (budget {100 * budget:.2g} %)"


def of_the_budget(overhead: Mapping[str, Any]) -> float:
    """The share of the training time used for what counts against the budget, without
    fixed costs."""
    spent = overhead.get("spent") or {}
    others = {*(overhead.get("outside") or ()), *(overhead.get("fixed") or ())}
    return float(overhead["used"] - sum(spent.get(name, 0.0) for name in others))


def paid_for(overhead: Mapping[str, Any]) -> str:
    """What the budget paid for and what intervals need, if it could not pay for enough readings."""
    measured = counted(overhead["measured_steps"], "reading")
    return (
        f"The budget of {100 * overhead['budget']:.2g} % paid for {measured}, and intervals need "
        f"about {overhead['short_of']}"
    )


MORE_READINGS = "set a larger `budget`, or `every` = 1 to measure every step, at any cost."


def too_few(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """A sentence if the budget could not pay for the readings that a run of 300 steps should have;
    else empty.

    Arguments as in `time_used`.
    """
    if every is not None or overhead.get("short_of") is None:
        return ""
    return f"{paid_for(overhead)}: {MORE_READINGS}"


def overhead_sentence(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """How much time the instrument used, on what, and how many steps it measured. Arguments as in
    `time_used`.

    >>> overhead_sentence({"mode": "apart", "budget": 0.02, "used": 0.019, "measured_steps": 100})
    'The instrument used 1.9 % of the training time (budget 2 %). It measured 100 steps, apart from training.'
    """
    if not overhead:
        return "The time used for measuring was not recorded."
    if overhead["mode"] == "off":
        return "Measuring was off."
    steps, spacing = overhead["measured_steps"], overhead.get("every")
    if overhead["mode"] == "given":
        return (
            f"The program gave the norms of {counted(steps, 'step')}. The time that it used for "
            "them is not known."
        )
    cadence = (
        "" if not spacing else ", every step" if spacing == 1 else f", about one in {spacing:.3g}"
    )
    if every is not None:
        cadence = f" (`every` = {every:,})"
    how = {
        "apart": "apart from training",
        "shared": "on gradients that training accumulates",
        "products": "most of them on the gradients that training makes",
    }[overhead["mode"]]
    measured = f"It measured {counted(steps, 'step')}{cadence}, {how}."
    few = too_few(overhead, every)
    more = (
        "So short a run cannot pay for the readings that intervals need; it has them nevertheless, "
        "and a smaller `budget` has fewer."
        if overhead.get("beyond_allowance") and not few
        else ""
    )
    used = (
        "The instrument used "
        f"{time_used(overhead, every)}{_by_name(overhead, has_budget=every is None)}."
    )
    return " ".join(filter(None, (used, measured, few, more)))


def overhead_in_brief(overhead: Mapping[str, Any], every: int | None = None) -> str:
    """One sentence on the time that the instrument used. Arguments as in `time_used`.

    >>> overhead_in_brief({"mode": "apart", "budget": 0.02, "used": 0.3, "measured_steps": 100})
    'Measuring took 30 % of the training time (budget 2 %), which a longer run keeps to its budget.'
    """
    if not overhead:
        return "The time used for measuring was not recorded."
    if overhead["mode"] in ("off", "given"):
        return overhead_sentence(overhead, every)
    # Above twice the budget, the sentence says that a longer run costs less.
    if every is None and overhead["budget"] and of_the_budget(overhead) > 2 * overhead["budget"]:
        later = ", which a longer run keeps to its budget"
    else:
        later = ""
    few = too_few(overhead, every)
    # forks that were asked for are no measuring
    forks = sum(
        (overhead.get("spent") or {}).get(name, 0.0) for name in overhead.get("outside", ())
    )
    used = time_used({**overhead, "used": overhead["used"] - forks}, every)
    return f"Measuring took {used}{later}." + (f" {few}" if few else "")


def _percent(share: float) -> str:
    """Two digits and no power of ten: `g` would write 100 as 1e+02."""
    return f"{100 * share:,.0f} %" if share >= 0.995 else f"{100 * share:.2g} %"


def _by_name(overhead: Mapping[str, Any], *, has_budget: bool) -> str:
    """What the time was spent on, if that was more than readings and what comes with them."""
    # What would be shown as 0.0 % is not named.
    spent = {
        name: share for name, share in (overhead.get("spent") or {}).items() if share >= 0.0005
    }
    if not set(spent) - {READINGS}:
        return ""
    parts = [
        f"{name} {_percent(share)}"
        for name, share in sorted(spent.items(), key=lambda item: -item[1])
    ]
    notes = {"outside": "outside the budget"} if has_budget else {}
    notes["fixed"] = "paid back in longer runs"
    for kind, note in notes.items():
        named = [name for name in overhead.get(kind) or () if name in spent]
        if named:
            parts[-1] += f"; {' and '.join(named)} {note}"
    return f": {', '.join(parts)}"
