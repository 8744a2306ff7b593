"""The first screen of the page: the verdict with its effect, one figure, how sure it is and why, and
the lines to paste."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape

from gradiometer.loop.branches import label_of, signed
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Evidence, Finding, State
from gradiometer.report.page.cards import Shown, top_figure
from gradiometer.report.sections.section import Figure, Section
from gradiometer.report.sections.tested import figures_of_trial
from gradiometer.run.reader import Run
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.diagnosis import Diagnosis

# What a claim rests on, for a reader of the page.
GROUNDS = {
    Evidence.EXACT: "Seen directly in the run, not estimated.",
    Evidence.READING: "Inferred from what was measured during training.",
    Evidence.FORECAST: "A forecast from what was measured.",
    Evidence.FORK: "Tested on copies of this run.",
    Evidence.REPLAY: "Seen when the steps were repeated.",
}


@dataclass(frozen=True)
class First:
    """The first screen.

    Attributes:
        state: Class of the verdict's state in the stylesheet.
        word, symbol: The verdict as a word and as a sign.
        title: What is wrong, or that nothing is.
        effect: What the change does in percent, with both levels; empty if it was not tested.
        figures: The figure, or both parts of it.
        grounds: What the verdict rests on, and what came of a test.
        why: The evidence: what was measured, with its interval.
        lines: Lines to paste; empty if nothing is advised.
        action: The finding that the lines are of; None without.
        other: What the advice is about, if that is not the verdict.
        description: Two sentences for links to the page.
    """

    state: str
    word: str
    symbol: str
    title: str
    effect: str
    figures: tuple[Figure, ...]
    grounds: tuple[str, ...]
    why: str
    lines: tuple[str, ...]
    action: Shown | None
    other: str
    description: str


def verdict_word(finding: Finding | None) -> tuple[str, str, str]:
    """The verdict as a word, a sign and a class of the stylesheet.

    >>> from gradiometer import Finding, Issue, State
    >>> verdict_word(Finding("triage", Issue.DRIFT, "rate_low", State.ACT))
    ('Problem', '▲', 'act')
    >>> verdict_word(None)
    ('Undecided', '?', 'cannot_tell')
    """
    if finding is None:
        return "Undecided", State.CANNOT_TELL.symbol, "cannot_tell"
    words = {
        State.ACT: "Problem",
        State.LOOK: "Look",
        State.CANNOT_TELL: "Undecided",
        State.OK: "Healthy" if finding.claim == Claim.HEALTHY else "No problem seen",
    }
    return words[finding.state], finding.state.symbol, finding.state.name.lower()


def effect_in_words(finding: Finding | None) -> str:
    """What the newest test of a finding's change has shown, in percent and in levels; empty without
    a test."""
    results = () if finding is None or finding.trial is None else finding.trial.results
    if not results:
        return ""
    decided = [one for one in results if one["effect"].verdict in ("better", "worse")]
    result = (decided or list(results))[0]
    effect, level = result["effect"], result.get("level", 0.0)
    label, change = label_of(effect.readout), effect.estimate.value
    if effect.verdict not in ("better", "worse"):
        if not effect.estimate.tells:
            return ""
        return f"Tested with {effect.alternative}: no difference in {label} shown ({signed(effect.estimate)})"
    side = "lower" if change < 0 else "higher"
    levels = f"{significant(level + change)} for {significant(level)}"
    if not (level > 0 and effect.lower_is_better):
        return f"Tested with {effect.alternative}: {label} {signed(effect.estimate)}"
    share = f"{significant(100 * abs(change) / level, 2)} %"
    return f"{share} {side} {label} with {effect.alternative}: {levels}"


def first_screen(
    run: Run,
    diagnosis: Diagnosis,
    sections: Iterable[Section],
    action: Shown | None,
    headline: Shown | None,
    title: str,
) -> First:
    """The first screen of a run.

    Args:
        run: The run.
        diagnosis: Its diagnosis.
        sections: The sections of the page.
        action: The finding whose advice is shown; None if nothing is advised.
        headline: The finding that leads, with its sentences; None without findings.
        title: The verdict as a sentence.
    """
    leading = None if headline is None else headline.finding
    word, symbol, state = verdict_word(leading)
    is_other = action is not None and (leading is None or action.finding is not leading)
    asked = leading if leading is not None and leading.trial is not None else None
    if asked is None and action is not None:
        asked = action.finding
    effect = effect_in_words(asked)
    top = top_figure(sections)
    figures = () if asked is None else figures_of_trial(run, asked)
    figures = figures or (() if top is None else (top,))
    lines = () if action is None else (action.said.paste or _call(action.finding))
    tried = "" if action is None else action.said.tried
    if headline is not None and headline.said.tried:
        tried = headline.said.tried
    why = "" if headline is None else _without(headline.said.seen, title)
    evidence = effect or why
    return First(
        state=state,
        word=word,
        symbol=symbol,
        title=title,
        effect=effect,
        figures=figures,
        grounds=grounds_of(headline, tried),
        why=why,
        lines=lines,
        action=action,
        other=action.said.beginning if action is not None and is_other else "",
        description=f"{word}: {_plain(title)} {_plain(evidence).rstrip('.')}.".strip(),
    )


def grounds_of(headline: Shown | None, tried: str) -> tuple[str, ...]:
    """How sure a claim is, in sentences: what it rests on, how often it was right where that was
    counted, and what came of a test.

    Args:
        headline: The finding with its sentences; None without.
        tried: What came of the test of its change; empty without.
    """
    basis = ""
    if headline is not None and headline.finding.state is not State.CANNOT_TELL:
        evidence = headline.finding.evidence
        # the result of the test says that there was one
        basis = "" if tried and evidence is Evidence.FORK else GROUNDS[evidence]
    counted = "" if headline is None else getattr(headline.said, "record", "")
    return tuple(each for each in (basis, counted, tried) if each)


def _without(evidence: str, title: str) -> str:
    """The evidence without the title that it begins with: that stands above.

    >>> _without("The rate is too low: over 900 steps it was.", "The rate is too low.")
    'Over 900 steps it was.'
    """
    title = title.rstrip(".")
    if not evidence.startswith(title):
        return evidence
    rest = evidence[len(title) :].lstrip(".:; ")
    return rest[:1].upper() + rest[1:]


def _call(finding: Finding) -> tuple[str, ...]:
    """The command that tests the advice, without its backticks; empty if it has none."""
    facts: Mapping[str, Any] = {} if finding.trial is None else finding.trial.facts
    call = str(facts.get("call", ""))
    return (call.strip("`"),) if call.startswith("`gradiometer ") else ()


def _plain(text: str) -> str:
    return text.replace("`", "")


def place_of(path: Path) -> str:
    """A run's folder as a reader elsewhere can know it: below the folder in which we work, or its
    last two parts.

    >>> place_of(Path("/home/somebody/runs/digits-1"))
    'runs/digits-1'
    """
    whole, here = path.absolute(), Path.cwd()
    if whole.is_relative_to(here) and whole != here:
        return str(whole.relative_to(here))
    return "/".join(whole.parts[-2:])


def without_home(text: str, path: Path) -> str:
    """A page in which the run's folder is as `place_of` has it: who gets the page by mail has no
    such folder."""
    whole = str(path.absolute())
    return text.replace(str(escape(whole)), str(escape(place_of(path)))) if path.name else text
