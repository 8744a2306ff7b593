"""The demo ends with a verdict, a forecast, a fork that tested it, and a page that is short until
it is opened."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradiometer.cli.demo import DEMO, REPLICATES
from gradiometer.problems import load
from gradiometer.run import Configuration, Run
from gradiometer.run.budget import Budget
from gradiometer.train.training import Training


def test_the_demo_keeps_the_checkpoint_that_its_fork_begins_at() -> None:
    configuration = Configuration.from_mapping(DEMO, "")
    training = Training(load("digits", model="cnn"), configuration, Budget(0.0), gauges=())
    assert configuration.lasting_checkpoints == {training.steps // 2}


def test_the_readme_quotes_the_demo_of_today() -> None:
    configuration = Configuration.from_mapping(DEMO, "")
    steps = Training(load("digits", model="cnn"), configuration, Budget(0.0), gauges=()).steps
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"now (step {steps - 1:,}" in readme and f"from step {steps // 2:,}, rate 4x" in readme


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `gradiometer demo --json` prints."""
    folder = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        "-m",
        "gradiometer",
        "demo",
        "--json",
        "--no-open",
        "--out",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_demo_tries_what_it_advises(answer: dict[str, Any]) -> None:
    assert "test accuracy" in answer["verdict"]
    (record,) = Path(answer["run"]).glob("forks/*/branches.jsonl")
    branches = [json.loads(line) for line in record.read_text().splitlines()]
    # going on, and the advice
    assert len(branches) == 2 * REPLICATES
    tried = [finding["tried"] for finding in answer["findings"] if finding["tried"]]
    advised = [finding for finding in answer["findings"] if finding["cure"]]
    middle = f"Tried: from step {answer['steps'] // 2:,}, "
    assert all(sentence.startswith(middle) for sentence in tried) and len(tried) == len(advised)


@pytest.mark.slow
def test_the_demo_answers_alike_on_a_busy_machine(answer: dict[str, Any]) -> None:
    # not a share of the time: products of all steps, and the sharpness at one in 32
    run = Run.open(Path(answer["run"]))
    noise, sharpness = run.series("noise"), run.series("batch_sharpness")
    assert noise is not None and noise.steps[-1] == answer["steps"] - 1 and len(noise) == 1073
    assert sharpness is not None and len(sharpness) == math.ceil(answer["steps"] / 32)
    states = {finding["gauge"]: finding["state"] for finding in answer["findings"]}
    assert states["triage"] == "act"
    assert states["noise"] == "ok" and states["batch_sharpness"] == "ok"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "longest"), [(1280, 3600), (390, 4 * 900)])
def test_the_page_of_the_demo_is_short_small_and_quick(
    answer: dict[str, Any], browser: Any, width: int, longest: int
) -> None:
    assert Path(answer["report"]).stat().st_size < 700_000
    page = browser.new_page(viewport={"width": width, "height": 900})
    session = page.context.new_cdp_session(page)
    # the clock would measure the machine's other work
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(Path(answer["report"]).as_uri())
    page.wait_for_selector("#span:not([hidden])")
    used = {
        each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]
    }
    assert 0 < used["TaskDuration"] < 1
    assert 50 < len(page.locator("#content").inner_text().split()) <= 350
    assert page.evaluate("document.documentElement.scrollHeight") <= longest
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("h1", "#chart-loss svg", ".next .line", ".next .gain"):
        box = page.locator(part).first.bounding_box()
        assert box is not None and (width < 1000 or box["y"] + box["height"] <= 900), part
    page.close()
