"""A run of a million readings: how long its page takes to write and to open, how large it is, and what following costs.

    python benchmarks/long_run.py [--readings 1000000] [--layers 4] [--rounds 5] [--seconds 120] [--folder FOLDER]

The run is written in the recorder's own format, one line a reading. Its page is written by the command in a process of
its own, once with an empty cache, where the charts' library must be put together, and then as every later page is.
Opening is timed in chromium where playwright and chromium are installed: from asking for the file to the last chart
drawn. Following is timed by a real `gradiometer show`, on Linux: a hundred readings a second are added to the run while
a listener asks for every view that is announced, as a browser does, and the share of a core is that of the process from
its first page on. Looks at a long run are rare: an interval that tells them wants some minutes (`--seconds 1500`).
"""

import argparse
import json
import os
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

from showing import showing

from gradiometer import Configuration, Run
from gradiometer.run import RunFolder

AT_ONCE = 20_000
CHROMIUM = Path("/usr/bin/chromium")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--readings", type=int, default=1_000_000)
    asked.add_argument("--layers", type=int, default=4)
    asked.add_argument("--rounds", type=int, default=5, help="Pages written.")
    asked.add_argument("--seconds", type=float, default=120.0, help="For which the run is followed by show.")
    asked.add_argument("--folder", type=Path, default=None)
    settings = asked.parse_args()
    with TemporaryDirectory() as temporary:
        run = long_run(settings.folder or Path(temporary), settings.readings, settings.layers)
        size = (run / "readings.jsonl").stat().st_size
        print(f"{settings.readings:,} readings of {settings.layers} layers, {size / 1e6:.0f} MB on disk")
        report(run, settings.rounds)
        opening(run)
        following(run, settings.layers)
        show(run, settings.readings, settings.layers, settings.seconds)


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
        moments = {"gradient_variance": trace[place].tolist(), "gradient_norm_squared": signal[place].tolist()}
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


def report(run: Path, rounds: int) -> None:
    """The command as a person starts it, in a process of its own."""
    with TemporaryDirectory() as cache:
        first, *later = [written(run, os.environ | {"XDG_CACHE_HOME": cache}) for _ in range(rounds + 1)]
    page = (run / "report.html").stat().st_size
    processor = [each[0] for each in later]
    print(
        f"gradiometer report: {np.median(processor):.2f} s of a core, median of {rounds} "
        f"({min(processor):.2f} to {max(processor):.2f}), {np.median([each[1] for each in later]):.2f} s in all; "
        f"the first page on a machine {first[0]:.2f} s of a core"
    )
    print(f"at most {max(each[2] for each in (first, *later)) / 1e6:.0f} MB; the page is {page / 1e6:.2f} MB")


def written(run: Path, environment: dict[str, str]) -> tuple[float, float, float]:
    """Seconds of a core, seconds, and peak memory in bytes of one process that writes the page."""
    command = [sys.executable, "-m", "gradiometer", "report", str(run)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"gradiometer report ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, time.perf_counter() - began, unit * used.ru_maxrss


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


def show(run: Path, readings: int, layers: int, seconds: float) -> None:
    """What a process of `gradiometer show` uses while the run goes on and somebody looks."""
    if not Path("/proc/self/stat").exists():
        print("gradiometer show: what another process uses is read from /proc, which is Linux's")
        return
    steps = iter(range(2 * readings, 2**53, 100))

    def train() -> None:
        start = next(steps)
        with (run / "readings.jsonl").open("ab") as file:
            file.writelines(lines(start, start + 100, readings, layers))

    shown = showing(run, seconds, train)
    share = shown.share
    print(
        f"gradiometer show: {100 * share.value:.2f} % of a core [{100 * share.low:.2f}, {100 * share.high:.2f}] "
        f"({share.level:.0%}, {share.method}) over {seconds:.0f} s, {len(shown.looks)} views sent, "
        f"at most {shown.at_most / 1e6:.0f} MB; the first page {shown.first:.2f} s of a core"
    )


if __name__ == "__main__":
    main()
