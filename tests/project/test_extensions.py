"""What an installed package adds is found by name, loaded when it is asked for, and left out with a
warning if it cannot be used."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gradiometer import BadArgument, Finding, Issue, State, diagnose, extensions, say
from gradiometer.cli import gradiometer
from gradiometer.gauges import GAUGES, Asked
from gradiometer.jobs import pool_of
from gradiometer.jobs.pool import Here
from gradiometer.problems import load
from gradiometer.report.sections.catalogue import sections
from gradiometer.requests import REQUESTS, request_of
from report_run import run_in

MODULE = """
import sys
from typing import ClassVar

import click

from gradiometer import Gauge, Issue
from gradiometer.jobs.pool import Here
from gradiometer.problems.registry import Shipped
from gradiometer.report.sections import Section
from gradiometer.verdict import Words


class LongShare(Gauge):
    name: ClassVar[str] = "long_share"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""

    def measure(self, step): return {}
    def estimate(self, series, level=0.9): return {}


@click.command()
def greet():
    "Say hello."
    click.echo("hello")


def twice(watch, number):
    return watch, 2 * number


def here(setting):
    return Here()


def section(run, diagnosis):
    return Section("lengths", "Lengths", "How long?", (), issue=Issue.DRIFT)


CLAIMS = {"long_steps": Words("Steps are long.", "They overshoot.")}
digits = Shipped("gradiometer.problems.images.digits", ("mlp",))
"""

ENTRY_POINTS = """
[gradiometer.gauges]
long_share = added_to_gradiometer:LongShare
wrong_name = added_to_gradiometer:LongShare
gone = module_that_is_gone:Gauge
noise = added_to_gradiometer:LongShare
[gradiometer.commands]
greet = added_to_gradiometer:greet
broken = added_to_gradiometer:CLAIMS
[gradiometer.requests]
twice = added_to_gradiometer:twice
[gradiometer.sections]
lengths = added_to_gradiometer:section
[gradiometer.pools]
mine = added_to_gradiometer:here
[gradiometer.problems]
more-digits = added_to_gradiometer:digits
[gradiometer.words]
long = added_to_gradiometer
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution beside gradiometer, as pip would have installed it."""
    metadata = tmp_path / "added_to_gradiometer-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "added_to_gradiometer.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    extensions.forget()
    yield
    sys.modules.pop("added_to_gradiometer", None)
    monkeypatch.undo()
    extensions.forget()


@pytest.mark.usefixtures("installed")
def test_names_are_listed_without_importing_and_loaded_when_asked_for() -> None:
    assert "long_share" in list(GAUGES) and "added_to_gradiometer" not in sys.modules
    assert Asked.of("noise,long_share").kinds[1].__name__ == "LongShare"
    assert "added_to_gradiometer" in sys.modules


@pytest.mark.usefixtures("installed")
def test_one_that_cannot_be_used_is_named_once_and_left_out() -> None:
    gone = "The gauge gone of added is left out: module_that_is_gone:Gauge could not be imported"
    with pytest.warns(RuntimeWarning, match=gone):
        assert GAUGES.get("gone") is None
    assert GAUGES.get("gone") is None, "the second time without a warning"
    with pytest.warns(RuntimeWarning, match="is named 'long_share'"):
        assert {"long_share", "noise"} <= {kind.name for kind in GAUGES.values()}
    assert not {"gone", "wrong_name"} & set(GAUGES)
    assert GAUGES["noise"].__module__ == "gradiometer.estimation.noise", "built in comes first"
    assert GAUGES.is_ours("noise") and not GAUGES.is_ours("long_share")


@pytest.mark.usefixtures("installed")
def test_commands_pools_problems_words_and_requests_are_added() -> None:
    with pytest.warns(RuntimeWarning, match="command broken of added is left out"):
        listed = CliRunner().invoke(gradiometer, ["--help"]).output
    assert "greet" in listed and "Say hello." in listed and "broken" not in listed
    assert CliRunner().invoke(gradiometer, ["greet"]).output == "hello\n"
    assert isinstance(pool_of("mine:3"), Here)
    assert len(load("more-digits").train) == 1437
    finding = Finding("long_share", Issue.DRIFT, "long_steps", State.LOOK)
    assert say(finding).seen == "Steps are long."
    assert request_of("a watch", "twice")(4) == ("a watch", 8)
    with pytest.raises(AttributeError, match="'twise': did you mean twice"):
        request_of("a watch", "twise")
    with pytest.raises(AttributeError, match="__deepcopy__"):
        request_of("a watch", "__deepcopy__")


@pytest.mark.usefixtures("installed")
def test_a_section_stands_after_those_of_its_issue(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=200)
    names = [section.name for section in sections(run, diagnose(run))]
    assert names == [
        *("loss", "spikes", "forks", "estimation", "drift", "lengths"),
        *("convergence", "exploration", "ensemble"),
    ]


def test_without_the_package_nothing_of_it_is_left() -> None:
    assert "long_share" not in GAUGES and "twice" not in REQUESTS
    assert gradiometer.get_command(click.Context(gradiometer), "greet") is None
    with pytest.raises(BadArgument, match="must be here, processes, processes:COUNT, ray or"):
        pool_of("mine:3")
    with pytest.raises(BadArgument, match="`claim` must be in the table of words"):
        say(Finding("long_share", Issue.DRIFT, "long_steps", State.LOOK))


def test_importing_the_package_searches_for_nothing() -> None:
    code = (
        "import gradiometer, gradiometer.gauges, gradiometer.cli; "
        "from gradiometer.extensions import _added; assert _added.cache_info().misses == 0"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
