"""Words about the temperature of SGD."""

from collections.abc import Mapping

from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Words, not_known, sentence

CLIPPED = (
    "Gradients were clipped, to {} of their length on average. The temperature belongs to a "
    "learning rate smaller by this factor. It is proportional to η; its dependence on B is limited "
    "by clipping. If the noise has few directions, the parameters are a little hotter."
)

RESHUFFLED = (
    " Epochs in random order undo their own noise: a direction of curvature {} runs at a quarter "
    "of this temperature, flatter directions are colder in proportion, and much steeper ones have "
    "all of it. With --set sampling=replacement all directions have all of it."
)


def heat(finding: Finding) -> Mapping[str, str]:
    """The source of the heat, the temperature of the posterior, and if the parameters still
    move."""
    facts = finding.facts
    posterior = ""
    if facts["posterior"] is not None:
        posterior = f", {facts['posterior']} in posterior units (N = {facts['examples']:,.0f})"
    share = facts["minibatch_share"]
    parts = [
        "It is proportional to η/(B(1 − μ)): half the learning rate or twice the batch halves it.",
        _against_the_posterior(facts["times_of_posterior"]),
        _motion(facts["motion"], facts["drift_share"]),
    ]
    if facts["clipping"] is not None:
        parts = [CLIPPED.format(facts["clipping"]), parts[1]]
    return {
        "posterior": posterior,
        "amount": "all" if share > 0.995 else f"{share:.0%}",
        "means": " ".join(part for part in parts if part),
    }


def _against_the_posterior(times: float | None) -> str:
    """How far SGD is from the posterior's temperature, and the learning rate for it."""
    if times is None:
        return ""
    hotter = times > 1
    side = "hotter" if hotter else "colder"
    factor = max(times, 1 / times)
    if factor > 10:  # too far for a learning rate to be suggested
        return f"The posterior has temperature 1: SGD is far {side}."
    rate = f"{significant(factor, 2)} times {'smaller' if hotter else 'larger'}"
    condition = "" if hotter else ", if training is stable there"
    return (
        f"The posterior has temperature 1: SGD is {side}, and would match it at a learning rate "
        f"about {rate}{condition}."
    )


def _motion(motion: str, share: float) -> str:
    """If the parameters still move."""
    if motion == "none":
        return ""
    if motion == "unknown":
        return "It is not known yet if the parameters still move or stay around one place."
    amount = "more than all" if abs(share) > 1 else f"{abs(share):.0%}"
    if motion == "away":
        way = f"away from their earlier place, which takes {amount}"
    else:
        way = f"back, which adds {amount}"
    return (
        f"The parameters still move {way} of the heat, so the heat put in is not yet their "
        "temperature."
    )


def temperatures(doubt: Doubt) -> Mapping[str, str]:
    """How far layers differ, and the effect of reshuffled epochs."""
    layers, reshuffled = "", ""
    if "coldest" in doubt.facts:
        low, high = (
            f"{significant(value, 2)} in {layer}"
            for layer, value in (doubt.facts["coldest"], doubt.facts["hottest"])
        )
        layers = f" (by layer from {low} to {high})"
    if doubt.facts["forgotten_curvature"] is not None:
        reshuffled = RESHUFFLED.format(significant(doubt.facts["forgotten_curvature"], 2))
    return {"layers": layers, "reshuffled": reshuffled}


CLAIMS: Mapping[str, Words] = {
    "temperature": Words(
        "The temperature SGD runs at is {temperature}{posterior}; {amount} of it is mini-batch "
        "noise ({temperature.samples:measured step}).",
        "{means}",
        slots=heat,
    ),
    "temperature_unknown": not_known(
        "temperature",
        "The temperature SGD runs at is not known yet",
        "How widely SGD explores is not known yet.",
        "an interval needs",
    ),
}

DOUBTS = {
    "one_temperature": sentence(
        "It is an effective temperature: one number, although each direction has a different "
        "one{layers}.{reshuffled}",
        temperatures,
    ),
}
