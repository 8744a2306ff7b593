"""A run of a million readings: how long its page takes to write and to open, how large it is, and what following costs.

    python benchmarks/long_run.py [--readings 1000000] [--layers 4] [--folder FOLDER]

The run is written in the recorder's own format, one line a reading. Opening is timed in chromium where playwright and
chromium are installed: from asking for the file to the last chart drawn. Following is timed as `gradiometer show` does
it: the same run, to which a few readings are added at a time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.reader import Run

AT_ONCE = 20_000
CHROMIUM = Path("/usr/bin/chromium")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--readings", type=int, default=1_000_000)
    asked.add_argument("--layers", type=int, default=4)
    asked.add_argument("--folder", type=Path, default=None)
    settings = asked.parse_args()
    with TemporaryDirectory() as temporary:
        run = long_run(settings.folder or Path(temporary), settings.readings, settings.layers)
        size = (run / "readings.jsonl").stat().st_size
        print(f"{settings.readings:,} readings of {settings.layers} layers, {size / 1e6:.0f} MB on disk")
        report(run)
        opening(run)
        following(run, settings.layers)


def long_run(folder: Path, readings: int, layers: int) -> Path:
    """A run of so many steps, each measured: the noise falls, its scale rises, the loss falls to a floor."""
    names = [f"layer{place}" for place in range(layers)]
    manifest = {
        "configuration": msgspec.structs.asdict(Configuration(every=1)),
        "sampling": {"draw": "reshuffled", "examples": 60_000},
        "layers": names,
    }
    made = RunFolder.create(folder, "long", manifest)
    with made.readings_path().open("wb") as file:
        for first in range(0, readings, AT_ONCE):
            file.writelines(lines(first, min(first + AT_ONCE, readings), readings, layers))
    events = [{"event": "started", "step": 0, "time": 0.0}, {"event": "finished", "step": readings, "time": 1.0}]
    made.events_path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return made.path


def lines(first: int, last: int, total: int, layers: int) -> Iterator[bytes]:
    """Readings of noise and, one in sixteen, of batch sharpness; losses a thousand a line."""
    random, steps = np.random.default_rng(first), np.arange(first, last)
    progress = steps[:, None] / total
    trace = random.gamma(2, 4.5, (len(steps), layers)) * np.exp(-2 * progress)
    signal = 0.02 * np.exp(-4 * progress) + random.normal(0, 0.2, (len(steps), layers)) * np.exp(-2 * progress)
    losses = (0.06 + 2.2 * np.exp(-20 * progress[:, 0])) * random.gamma(12, 1 / 12, len(steps))
    for place, step in enumerate(steps.tolist()):
        moments = {"trace": trace[place].tolist(), "signal": signal[place].tolist()}
        yield reading("noise", step, moments)
        if step % 16 == 0:
            yield reading("batch_sharpness", step, {"curvature": 3.0 * float(losses[place]), "norm_squared": 1.0})
    for start in range(0, len(steps), 1000):
        yield encode({"kind": "losses", "from": first + start, "values": losses[start : start + 1000].tolist()})


def reading(gauge: str, step: int, moments: dict[str, object]) -> bytes:
    """A line as the recorder writes it."""
    return encode(
        {"kind": "reading", "gauge": gauge, "step": step, "batch_size": 32, "learning_rate": 0.1, "moments": moments}
    )


def encode(record: dict[str, object]) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def report(run: Path) -> None:
    """The command as a person starts it, in a process of its own."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gradiometer", "report", str(run)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    page = (run / "report.html").stat().st_size
    print(
        f"gradiometer report: {time.perf_counter() - began:.2f} s ({processor:.2f} s of a core), "
        f"{after.ru_maxrss / 1e3:.0f} MB at most; the page is {page / 1e6:.2f} MB"
    )


def opening(run: Path) -> None:
    """From asking for the file to the last chart drawn."""
    if sync_playwright is None or not CHROMIUM.exists():
        print(f"opening: needs playwright and {CHROMIUM}")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        times = []
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            began = time.perf_counter()
            page.goto((run / "report.html").as_uri())
            page.wait_for_selector("#span:not([hidden])")
            times.append(time.perf_counter() - began)
            page.close()
        browser.close()
    print(f"opening: {np.median(times):.2f} s to the last chart, median of {len(times)}")


def following(run: Path, layers: int, rounds: int = 20, more: int = 100) -> None:
    """What one look at what came since costs, beside the first."""
    began = time.process_time()
    opened = Run.open(run)
    first = len(opened.series("noise") or ())
    print(f"reading from the start: {time.process_time() - began:.2f} s of a core")
    spent = []
    for round_ in range(rounds):
        start = first + round_ * more
        with (run / "readings.jsonl").open("ab") as file:
            file.writelines(lines(start, start + more, first, layers))
        began = time.process_time()
        opened = opened.refreshed()
        assert opened.steps == start + more - 1 or opened.status == "finished"
        spent.append(time.process_time() - began)
    print(f"reading {more} more: {1e3 * np.median(spent):.1f} ms of a core, median of {rounds}")


if __name__ == "__main__":
    main()
