"""The theorem's conditions: sequences with proofs, none decided wrongly, everything of our own decided."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gradiometer.cli.schedule import schedule as verb
from gradiometer.convergence.formulas.expression import Expression
from gradiometer.convergence.formulas.functions import exponential, logarithm
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.theorem.evidence import evidence
from gradiometer.convergence.theorem.theorem import theorem
from gradiometer.errors import BadArgument, UserCodeFailed

Truth = tuple[bool, bool, bool]
ALL: Truth = (True, True, True)
FINITE: Truth = (True, False, True)
"""To zero, and summable."""
SLOW: Truth = (True, True, False)
"""To zero, but with an infinite sum of squares."""
STAYS: Truth = (False, True, False)
"""Does not go to zero, and so has infinite sums."""

PROVEN: list[tuple[str, Truth, str]] = [
    ("1/t", ALL, "harmonic; Σ 1/t² = π²/6"),
    ("1e-12/t", ALL, "a multiple of 1/t"),
    ("1e12/(t+1e9)", ALL, "1/t after a shift"),
    ("1/sqrt(t)", SLOW, "p-series: ½ < 1, and its square is 1/t"),
    ("t**-0.6", ALL, "p-series: 0.6 ≤ 1 < 1.2"),
    ("t**-0.5000001", ALL, "p-series: its square has p just above 1"),
    ("t**-1.0000000001", FINITE, "p-series: p just above 1"),
    ("t**-(1/3+2/3)", ALL, "p is exactly 1"),
    ("t**-(0.1+0.2+0.7)", ALL, "p is exactly 1 in decimals"),
    ("1/t**2", FINITE, "p-series: 2 > 1"),
    ("t**-(sqrt(2)/2)", ALL, "p-series: p ≈ 0.707"),
    ("1/log(t+1)", SLOW, "above 1/√t"),
    ("1/log(log(t+15))", SLOW, "above 1/√t"),
    ("1/(t*log(t+1))", ALL, "Bertrand: q = 1; the integral is log log t"),
    ("1/(t*log(t+1)**2)", FINITE, "Bertrand: q = 2 > 1"),
    ("1/(t*log(t+1)**0.5)", ALL, "Bertrand: q = ½ ≤ 1"),
    ("1/(t*log(t+1)**1.01)", FINITE, "Bertrand: q = 1.01 > 1"),
    ("1/(t*log(t+2)*log(log(t+2)))", ALL, "Bertrand: r = 1; the integral is log log log t"),
    ("1/(t*log(t+2)*log(log(t+2))**2)", FINITE, "Bertrand: r = 2 > 1"),
    ("1/(t*log(t+20)*log(log(t+20))*log(log(log(t+20))))", ALL, "Bertrand: the integral is log log log log t"),
    ("1/sqrt(t*log(t+1))", SLOW, "its square is 1/(t log t)"),
    ("1/(sqrt(t)*log(t+1))", ALL, "its square is 1/(t log² t)"),
    ("log(t+1)/t", ALL, "above 1/t; its square below t^-1.5"),
    ("log(t+1)**5/t**2", FINITE, "below t^-1.5"),
    ("0.1*0.99**t", FINITE, "geometric"),
    ("2**-t", FINITE, "geometric"),
    ("t**3*exp(-0.01*t)", FINITE, "ratio test: e^-0.01"),
    ("exp(-sqrt(t))", FINITE, "below t^-2: √t outgrows 2 log t"),
    ("exp(-log(t)**2)", FINITE, "below t^-2 once log t > 2"),
    ("exp(-sqrt(log(t)))", SLOW, "above t^-½: √log t falls behind ½ log t"),
    ("exp(-sqrt(log(t)))/t", FINITE, "with u = log t the integral of exp(−√u)"),
    ("exp(-t**2)", FINITE, "below a geometric series"),
    ("exp(-exp(t))", FINITE, "below a geometric series"),
    ("1/t**t", FINITE, "below 2^-t"),
    ("1/t**(1+1/t)", ALL, "t^(1/t) → 1, so a multiple of 1/t"),
    ("1/t**(1+1/log(t+1))", ALL, "t^(1/log t) = e, so a multiple of 1/t"),
    ("1/t**(1+1/log(log(t+15)))", FINITE, "1/t · exp(−u/log u) with u = log t"),
    ("t**(1/t)-1", ALL, "log t/t to leading order"),
    ("sqrt(t+1)-sqrt(t)", SLOW, "1/(2√t) to leading order"),
    ("1/t-1/(t+1)", FINITE, "telescopes"),
    ("log(t+1)-log(t)", ALL, "1/t to leading order; the sum is log t"),
    ("sin(1/t)", ALL, "1/t to leading order"),
    ("1-cos(1/t)", FINITE, "1/(2t²) to leading order"),
    ("exp(1/t)-1", ALL, "1/t to leading order"),
    ("(1+1/t)**t/t", ALL, "e/t to leading order"),
    ("(2+sin(t))/t", ALL, "between 1/t and 3/t"),
    ("(1+sin(t))/t", ALL, "sin t is spread evenly: mean 1"),
    ("abs(sin(t))/t", ALL, "above ½ at a third of the steps at least"),
    ("sin(t)**2/t", ALL, "mean ½"),
    ("sin(t)**2/sqrt(t)", SLOW, "mean square 3/8"),
    ("(1+sin(sqrt(t)))/t**2", FINITE, "below 2/t²"),
    ("1/(t+sin(t))", ALL, "between 1/(t+1) and 1/(t−1)"),
    ("1/(t*(2+sin(t)))", ALL, "between 1/(3t) and 1/t"),
    ("(1+(-1)**t)/t", ALL, "2/t at even steps"),
    ("1/t if t % 2 == 0 else 1/t**2", ALL, "1/t at even steps"),
    ("1/t**2 if t % 2 == 0 else 0", FINITE, "below 1/t²"),
    ("0 if t % 7 else 1/sqrt(t)", SLOW, "1/√t at every seventh step"),
    ("(1+cos(pi*t))/t", ALL, "2/t at even steps"),
    ("abs(cos(pi*t/3))/t", ALL, "at least 1/(2t)"),
    ("abs(sin(pi*t))/t", FINITE, "zero at every step"),
    ("0.05*(1+cos(pi*((t-1)%50)/50))", STAYS, "periodic and not zero"),
    ("0.05*(1+cos(pi*((t-1)%50)/50))/t", ALL, "periodic, mean above 0, over t"),
    ("0.1*0.5**(t//30)", FINITE, "geometric by epochs"),
    ("0.1/(1+t//100)", ALL, "1/t by epochs"),
    ("1/2**floor(log2(t))", ALL, "between 1/t and 2/t"),
    ("1/floor(sqrt(t))", SLOW, "between 1/√t and 2/√t"),
    ("1/int(sqrt(t))**2", ALL, "between 1/t and 4/t"),
    ("floor(10/t)", FINITE, "zero from t = 11 on"),
    ("0.1", STAYS, "constant"),
    ("0", FINITE, "zero"),
    ("t", STAYS, "grows"),
    ("max(1/t, 0.001)", STAYS, "0.001 in the end"),
    ("min(1/t, 1/sqrt(t))", ALL, "1/t at every step"),
    ("max(1/t, 1/t**2)", ALL, "1/t at every step"),
    ("min(0.1, 100/t**2)", FINITE, "100/t² in the end"),
    ("0.1 if t < 100 else 0.01", STAYS, "0.01 in the end"),
    ("0.1*(t < 100)", FINITE, "zero from t = 100 on"),
    ("1/t if t < 10**6 else 1/t**2", FINITE, "1/t² in the end"),
    ("1/t**2 if t < 10**6 else 1/t", ALL, "1/t in the end"),
    ("0.01 + 1/t", STAYS, "0.01 in the limit"),
    ("1/(1 + 0.001*t)", ALL, "1000/t in the end"),
    ("(1 + 0.001*t)**-0.75", ALL, "p-series: ½ < 0.75 ≤ 1"),
    ("(3*t+1)/(t**2+5)", ALL, "3/t to leading order"),
    ("t*(t-1)/(t**4+1)", FINITE, "1/t² to leading order"),
    ("3**t*(1/9)**(t/2)/t", ALL, "the exponentials cancel exactly"),
    ("1/(t*log10(t+1))", ALL, "a multiple of 1/(t log t)"),
]

FROM_THE_ALGEBRA: list[tuple[str, Truth, str]] = [
    ("Constant(0.1)", STAYS, "constant"),
    ("InverseTime(0.1, time_constant=30.0)", ALL, "1/t"),
    ("InversePower(0.1, power=0.5)", SLOW, "p = ½"),
    ("InversePower(0.1, power=0.51)", ALL, "p = 0.51"),
    ("InverseSquareRoot(0.1)", SLOW, "p = ½"),
    ("Noam(512, warmup=4000)", SLOW, "p = ½ after the rise"),
    ("Cosine(0.1, steps=1000)", FINITE, "zero at the end"),
    ("Cosine(0.1, steps=1000, final=0.01)", STAYS, "0.01 at the end"),
    ("OneCycle(0.1, steps=100)", STAYS, "stays at its last rate"),
    ("WarmupStableDecay(0.1, warmup=10, stable=10, decay=10)", FINITE, "zero at the end"),
    ("Exponential(0.1, factor=0.99)", FINITE, "geometric"),
    ("StepDecay(0.1, every=5000)", FINITE, "geometric by epochs"),
    ("Triangular(0.0, 0.1, up=2000)", STAYS, "periodic"),
    ("Triangular(0.0, 0.1, up=2000, shrink=0.5)", FINITE, "geometric by cycles"),
    ("SnapshotCycle(0.1, steps=100000, snapshots=10)", STAYS, "periodic"),
    ("CosineRestarts(0.1, steps=10)", STAYS, "periodic"),
    ("CosineRestarts(0.1, steps=10, lengthen=2)", STAYS, "always back at 0.1"),
    ("CosineRestarts(0.1, steps=10, lengthen=2, shrink=0.5)", ALL, "blocks: ρα = 1, ρα² = ½"),
    ("CosineRestarts(0.1, steps=10, lengthen=4, shrink=0.5)", SLOW, "blocks: ρα² = 1"),
    ("CosineRestarts(0.1, steps=10, lengthen=3, shrink=0.5)", ALL, "blocks: ρα = 1.5, ρα² = 0.75"),
    ("CosineRestarts(0.1, steps=10, lengthen=1.5, shrink=0.5)", FINITE, "blocks: ρα = 0.75"),
    ("CosineRestarts(0.1, steps=10, lengthen=2, shrink=0.5, final=0.001)", STAYS, "0.001 at the bottom"),
    ("Linear(0.1, steps=100).repeated(100, lengthen=2, shrink=0.5)", ALL, "blocks: ρα = 1, ρα² = ½"),
    ("Linear(1.0, steps=100).repeated(100) * InversePower(0.1, power=0.6)", ALL, "periodic times t^-0.6"),
    ("Linear(1.0, steps=5000).repeated(5000) * Linear(0.1, steps=4999).repeated(4999)", STAYS, "above 0.025 at times"),
    (
        "CosineRestarts(1.0, steps=7) * CosineRestarts(0.1, steps=10, lengthen=2, shrink=0.5)",
        ALL,
        "mean ½ times blocks",
    ),
    ("Triangular(0.0, 1.0, up=7).at_most(Triangular(0.0, 1.0, up=8))", STAYS, "zero at a few steps only"),
    ("InverseTime(0.1) + InversePower(0.1, power=2.0)", ALL, "the slower one"),
    ("InverseTime(0.1) * InversePower(1.0, power=2.0)", FINITE, "t^-3"),
    ("InversePower(1.0, power=0.4) * InversePower(1.0, power=0.6)", ALL, "p = 1 exactly"),
    ("3.0 * InverseTime(0.1)", ALL, "a multiple"),
    ("InverseTime(0.1).at_least(0.0001)", STAYS, "0.0001 in the end"),
    ("Constant(0.1).at_most(InverseTime(100.0))", ALL, "1/t in the end"),
    ("InverseTime(0.1).shifted(1000)", ALL, "a shift"),
    ("InverseTime(0.1).warmed_up(100)", ALL, "a finite prefix"),
    ("Constant(0.1).then(1000, InverseTime(0.1))", ALL, "a finite prefix"),
    ("InverseTime(0.1).then(1000, 0.0)", FINITE, "the last tail counts"),
    ("InverseTime(0.1).held(5000)", ALL, "1/t by epochs"),
    ("Exponential(0.1, factor=0.9).held(100).warmed_up(5)", FINITE, "geometric by epochs"),
    ("InverseTime(0.1) * Piecewise((1,), (1.0, 0.0)).repeated(2)", ALL, "zeros at a fixed rate"),
    ("Formula('1/(t*log(t+1)**2)').shifted(3)", FINITE, "Bertrand: q = 2 > 1"),
]

BEYOND: list[tuple[str, Truth]] = [
    ("sin(t)/t+1/t**0.7", ALL),
    ("1/t if sin(t) > 0 else 1/t**2", ALL),
    ("1/t**(1.5+sin(t))", SLOW),
    ("abs(sin(t**2))/t", ALL),
    ("(2+sin(sqrt(t)))/t", ALL),
    ("1/t/(1+log(t)*(sin(log(t))+1))", ALL),
    ("0.5**(2**(t%3))/t", ALL),
    ("(t**2)**-0.25*(1+cos(t))", SLOW),
    ("log(log(log(t+20)+3)+3)/t", ALL),
    ("t**-exp(0)", ALL),
]


def conditions(verdict: Any) -> tuple[bool | None, ...]:
    return (verdict.limit_zero, verdict.sum_diverges, verdict.sum_of_squares_converges)


@pytest.mark.parametrize(("text", "truth", "proof"), PROVEN)
def test_a_formula_is_decided_as_proven(text: str, truth: Truth, proof: str) -> None:
    verdict = theorem(text)
    for answer, right in zip(conditions(verdict), truth, strict=True):
        assert answer == right, f"{proof}: {verdict.why}"
    assert verdict.theorem is all(truth)


@pytest.mark.parametrize(("text", "truth", "proof"), FROM_THE_ALGEBRA)
def test_every_schedule_of_the_algebra_is_decided_as_proven(text: str, truth: Truth, proof: str) -> None:
    verdict = theorem(text)
    assert conditions(verdict) == truth, f"{proof}: {verdict.why}"
    assert verdict.theorem is all(truth)


@pytest.mark.parametrize(("text", "truth"), BEYOND)
def test_what_is_hard_is_decided_rightly_or_not_at_all(text: str, truth: Truth) -> None:
    for answer, right in zip(conditions(theorem(text)), truth, strict=True):
        assert answer in (right, None)


def test_the_catalogue_is_large() -> None:
    assert len(PROVEN) >= 60


OPAQUE: list[tuple[Callable[[int], float], Truth]] = [
    (lambda t: 1 / t, ALL),
    (lambda t: 1e-12 / t, ALL),
    (lambda t: 1 / (t + 10**9), ALL),
    (lambda t: 0.1 / (1 + t / 300), ALL),
    (lambda t: t**-0.6, ALL),
    (lambda t: t**-0.5, SLOW),
    (lambda t: t**-0.9, ALL),
    (lambda t: t**-1.1, FINITE),
    (lambda t: t**-2.0, FINITE),
    (lambda t: t**-0.25, SLOW),
    (lambda t: 1 / math.log(t + 1), SLOW),
    (lambda t: 1 / (t * math.log(t + 1)), ALL),
    (lambda t: 1 / (t * math.log(t + 1) ** 2), FINITE),
    (lambda t: 1 / (t * math.log(t + 1) ** 0.5), ALL),
    (lambda t: math.log(t + 1) / t, ALL),
    (lambda t: math.log(t + 1) / t**2, FINITE),
    (lambda t: 1 / math.sqrt(t * math.log(t + 1)), SLOW),
    (lambda t: 1 / (math.sqrt(t) * math.log(t + 1)), ALL),
    (lambda t: 0.1 * 0.99**t, FINITE),
    (lambda t: 0.1 * 0.5 ** (t // 30), FINITE),
    (lambda t: math.exp(-math.sqrt(t)), FINITE),
    (lambda t: math.exp(-(math.log(t) ** 2)), FINITE),
    (lambda t: 0.1, STAYS),
    (lambda t: 0.01 + 1 / t, STAYS),
    (lambda t: max(1 / t, 1e-3), STAYS),
    (lambda t: 0.05 * (1 + math.cos(math.pi * (t % 50) / 50)), STAYS),
    (lambda t: (1 + math.sin(t % 1000)) / t, ALL),
    (lambda t: 1 / t if t % 2 else 0.0, ALL),
    (lambda t: 1 / t if t % 2 else 1 / t**1.5, ALL),
    (lambda t: 1 / t if t < 10**6 else 1 / t**2, FINITE),
    (lambda t: 1 / t**2 if t < 10**6 else 1 / t, ALL),
    (lambda t: 0.1 if t < 10**9 else 0.0, FINITE),
    (lambda t: 0.0, FINITE),
    (lambda t: 0.5 ** math.floor(math.log2(t)), ALL),
    (lambda t: 1 / math.floor(math.log(t + 2)), SLOW),
    (lambda t: 1 / t.bit_length() ** 2, SLOW),
    (lambda t: 2.0 ** (-t.bit_length()), ALL),
    (lambda t: 1 / (t * t.bit_length() ** 2), FINITE),
    (lambda t: 1 / (t * math.log(t + 2) * math.log(math.log(t + 2))), ALL),
    (lambda t: 1 / (t * math.log(t + 2) * math.log(math.log(t + 2)) ** 2), FINITE),
]


def test_evidence_about_opaque_functions_is_mostly_right_and_seldom_wrong() -> None:
    right = wrong = 0
    for function, truth in OPAQUE:
        seen = evidence(function)
        for answer, known in zip(conditions(seen), truth, strict=True):
            right += answer == known
            wrong += answer is not None and answer != known
    assert right >= 0.85 * 3 * len(OPAQUE)
    assert wrong <= 0.03 * 3 * len(OPAQUE)


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: x * math.log(x + 2)], ids=["log log", "log log, log log log"])
def test_evidence_does_not_take_a_sum_on_the_edge_for_finite(scale) -> None:
    """1/(t log t log log t …) sums to infinity, too slowly for a thousand dyadic blocks to show it."""
    seen = evidence(lambda t: 1 / (t * math.log(t + 2) * scale(math.log(math.log(t + 20)))))
    assert seen.sum_diverges is not False


def test_an_opaque_function_gets_evidence_and_no_verdict() -> None:
    verdict = theorem(lambda t: 1 / t)
    assert conditions(verdict) == (None, None, None)
    assert verdict.theorem is None
    assert "undecided" in verdict.why and "Evidence only" in verdict.why and "looks infinite" in verdict.why
    assert verdict.evidence is not None and conditions(verdict.evidence) == ALL


def test_a_function_that_does_not_return_is_given_up_in_time() -> None:
    start = time.monotonic()
    assert theorem(lambda t: 1 / t if t < 100 else sum(1 / k for k in range(t))).theorem is None
    assert time.monotonic() - start < 5


def test_a_schedule_of_ones_own_is_decided_through_its_formula() -> None:
    class Mine(Schedule):
        def formula(self, step: Any) -> Any:
            return 0.1 if step < 10 else 1 / (step + 3) ** 0.75 + exponential(-step) / logarithm(step + 3)

    class Opaque(Schedule):
        def formula(self, step: Any) -> Any:
            return 1 / math.sqrt(step + 1)

    try:
        assert theorem(Mine()).theorem is True
        assert theorem(Opaque()).theorem is None
    finally:
        del Schedule.kinds["Mine"], Schedule.kinds["Opaque"]


@pytest.mark.parametrize(
    ("text", "first"), [("-1/t", 1), ("(t-5)/t**2", 1), ("sin(t)/t", 4), ("1/t - 0.01", 101), ("0.1*cos(pi*t)", 1)]
)
def test_a_negative_rate_is_named_and_the_theorem_does_not_apply(text: str, first: int) -> None:
    verdict = theorem(text)
    assert verdict.theorem is False
    assert f"negative at t = {first}," in verdict.why


def test_rounding_below_zero_is_not_called_negative() -> None:
    assert theorem("1/t - 1/(t+1) - 1/(2*t*(t+1))").theorem is False
    assert "negative" not in theorem("(1+1e-9/t)**3 - 1").why


def test_a_failed_condition_is_never_said_to_diverge() -> None:
    for text, truth, _ in PROVEN:
        if not all(truth):
            why = theorem(text).why if "exp(-exp" not in text else ""
            assert "diverge" not in why
            assert not why or "sufficient, not necessary" in why


def test_a_start_that_is_undefined_is_named_and_the_tail_judged() -> None:
    verdict = theorem("1/(t*log(t)**2)")
    assert conditions(verdict) == FINITE
    assert "undefined at t = 1 (division by zero): the verdict is about later steps" in verdict.why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/x", "unknown name x"),
        ("sine(t)", "did you mean sin?"),
        ("sqrt(t", "is not a formula"),
        ("", "is not a formula"),
        ("t.real", "t.real is not part of a formula"),
        ("__import__('os').system('true')", "is not part of a formula"),
        ("(lambda: 1)()", "is not part of a formula"),
        ("t[0]", "is not part of a formula"),
        ("[t for t in (1,)]", "is not part of a formula"),
        ("'t'", "is not a number"),
        ("True", "is not a number"),
        ("1j*t", "is not a number"),
        ("1/t^2", "a power is written **"),
        ("log(t, 2)", "log takes one number"),
        ("max(t)", "max takes two numbers or more"),
        ("9**9**9", "9 ** 9 ** 9 is too large for a double"),
        ("9**9**9/t", "9 ** 9 ** 9 is too large for a double"),
        ("1e999/t", "too large for a double"),
        ("1/0", "has no value"),
        ("1/(t%2)", "undefined at t = 2 (division by zero)"),
        ("sqrt(-t)", "undefined at t = 1"),
        ("(-2)**(t/2)", "undefined at t = 1"),
        ("-" * 100 + "t", "nested more than"),
        ("1/t+" * 400 + "1/t", "at most 1000 characters"),
    ],
)
def test_what_is_no_formula_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(BadArgument) as refusal:
        theorem(text)
    assert message in str(refusal.value)


def test_a_function_that_gives_no_number_is_refused() -> None:
    with pytest.raises(UserCodeFailed, match="must return a number at t = 1"):
        theorem(lambda t: None)  # type: ignore[arg-type,return-value]


def test_a_formula_is_evaluated_in_doubles_with_whole_steps() -> None:
    assert Expression("1/t**2")(2**1000) == 0.0
    assert Expression("t % 7")(2**1000) == (2**1000) % 7
    assert Expression("3 if t > 2 else log2(t)")(2) == 1.0


def test_many_verdicts_come_as_one_object_quickly_and_without_torch() -> None:
    texts = ["1/t", "1/sqrt(t)", "1/(t*log(t+1)**2)", "1e-12/t", "0.1*0.99**t", "Cosine(0.1, steps=1000)"]
    program = (
        "import sys; from gradiometer.cli.schedule import schedule; schedule.main(sys.argv[1:], standalone_mode=False);"
        "assert not {'torch', 'sympy', 'altair'} & set(sys.modules)"
    )
    start = time.monotonic()
    finished = subprocess.run([sys.executable, "-c", program, *texts, "--json"], capture_output=True, check=True)
    assert time.monotonic() - start < 3
    entries = json.loads(finished.stdout)["schedules"]
    assert [entry["expression"] for entry in entries] == texts
    assert [entry["theorem"] for entry in entries] == [True, False, False, True, False, False]
    expected = {"expression", "limit_zero", "sum_diverges", "sum_of_squares_converges", "theorem", "why"}
    assert all(set(entry) == expected for entry in entries)


def test_the_verb_speaks_of_the_run_and_draws_it(tmp_path: Path) -> None:
    drawing = tmp_path / "rates.png"
    arguments = ["1/t", "Linear(1.0, steps=1000)", "--steps", "1000", "--tuned", "0.5"]
    printed = CliRunner().invoke(verb, arguments, env={"COLUMNS": "200"})
    assert printed.exit_code == 0
    assert "6.222 D G/√T" in printed.output and "2.006 D G/√T" in printed.output
    entries = json.loads(CliRunner().invoke(verb, [*arguments, "--json", "--png", str(drawing)]).stdout)["schedules"]
    assert entries[1]["horizon"]["reaches_zero"] and not entries[0]["horizon"]["reaches_zero"]
    assert entries[0]["horizon"]["transferred_peak"] == 0.5
    assert drawing.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments", [["1/x"], ["Cosin(0.1)"], ["1/t", "--tuned", "0.1"], ["1/t", "--png", "/no/such/folder/x.png"]]
)
def test_the_verb_refuses_bad_input(arguments: list[str]) -> None:
    assert isinstance(CliRunner().invoke(verb, arguments).exception, BadArgument)
