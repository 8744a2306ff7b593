"""The live page: for this machine and whoever has the address, telling what came, and standing when
the run falls."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from command_line import called
from gradiometer import BadArgument, RunNotFound
from gradiometer.report.live import SHARE, Followed, Live
from gradiometer.run import Run
from gradiometer.run.readings import Readings
from report_run import run_in
from trainings import until


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), "<script>alert(1)<!--", steps=100)


@pytest.fixture(scope="module")
def live(run: Run) -> Iterator[Live]:
    other = run_in(run.path.parent, "other", steps=60)
    served = Live([run.path, other.path])
    thread = threading.Thread(target=served.serve)
    thread.start()
    yield served
    served.stop()
    thread.join(10)
    assert not thread.is_alive()


def asked(address: str, **headers: str) -> SimpleNamespace:
    """The answer to a request, also where it is a refusal."""
    request = urllib.request.Request(address, headers=headers)
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return SimpleNamespace(
                    status=answer.status, headers=answer.headers, text=answer.read().decode()
                )
        except urllib.error.HTTPError as error:
            with error:
                return SimpleNamespace(
                    status=error.code, headers=error.headers, text=error.read().decode()
                )
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def add_losses(run: Run, first: int, count: int) -> None:
    with (run.path / "readings.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "losses", "from": first, "values": [0.5] * count}) + "\n")


def test_the_page_is_the_same_page_with_an_ear_for_what_comes(live: Live, run: Run) -> None:
    answer = asked(live.address)
    assert answer.status == 200
    assert 'data-live="/' in answer.text
    assert "connect-src 'self'" in answer.text
    assert "<script>alert" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.text.count('<nav aria-label="Runs">') == 1
    assert len(answer.text) < 3_000_000


def test_what_comes_next_is_a_fraction_of_the_page(live: Live) -> None:
    update = json.loads(asked(f"{live.address}run/0/update").text)
    assert update["version"] >= 1
    assert "<h1>" in update["html"] and "<script" not in update["html"]
    assert "loss" in update["specs"]
    assert len(json.dumps(update)) < 300_000


def test_no_other_address_is_answered(live: Live) -> None:
    port, address = live.port, live.address
    assert asked(f"http://127.0.0.1:{port}/").status == 403
    assert asked(f"http://127.0.0.1:{port}/{'x' * 32}/").status == 403
    assert asked(address.replace(live.token, live.token[:-1])).status == 403
    assert asked(address, Host="evil.example").status == 403
    assert asked(address, Host="127.0.0.1").status == 403
    assert asked(address, Host=f"localhost:{port}").status == 200
    assert "for this machine only" in asked(address, Host=f"evil.example:{port}").text


@pytest.mark.parametrize(
    "path",
    [
        "run/2/",
        "run/-1/",
        "run/../../run.toml",
        "run/%2e%2e/%2e%2e/etc/passwd",
        "run/0/../../../etc/passwd",
        "x",
    ],
)
def test_no_file_can_be_asked_for(live: Live, path: str) -> None:
    answer = asked(f"{live.address}{path}")
    assert answer.status in (403, 404)
    assert "root:" not in answer.text and "configuration" not in answer.text


def test_nothing_can_be_changed(live: Live) -> None:
    request = urllib.request.Request(live.address, data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 405
    refused.value.close()


def test_a_listener_is_told_when_the_run_has_gone_on(live: Live, run: Run) -> None:
    before = json.loads(asked(f"{live.address}run/0/update").text)["version"]
    with urllib.request.urlopen(f"{live.address}run/0/events", timeout=30) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert next_version(events) == before
        add_losses(run, 100, 50)
        assert next_version(events) == before + 1
    html = json.loads(asked(f"{live.address}run/0/update").text)["html"]
    assert "Trained for 150 steps" in html


def next_version(events: object) -> int:
    for line in events:  # type: ignore[attr-defined]
        if line.startswith(b"data: "):
            return int(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended")


def test_a_run_is_drawn_again_only_when_it_has_changed_and_within_its_share(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=60)
    followed = Followed(run.path)
    began = time.thread_time()
    assert followed.look()
    spent = time.thread_time() - began
    assert not followed.look()
    assert followed.not_before - time.monotonic() > 0.5 * spent / SHARE
    add_losses(run, 60, 10)
    assert not followed.look()
    followed.not_before = 0.0
    assert followed.look()
    assert followed.view is not None
    assert followed.view.version == 2
    followed.not_before = 0.0
    assert not followed.look()


def test_reading_a_run_from_its_start_is_not_charged_to_the_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read = run_in(tmp_path, steps=60), Readings.read

    def slowly(readings: Readings) -> bool:
        until = time.thread_time() + 0.5
        while time.thread_time() < until:
            pass
        return read(readings)

    monkeypatch.setattr(Readings, "read", slowly)
    followed = Followed(run.path)
    assert followed.look()
    assert followed.not_before - time.monotonic() < 0.5 / SHARE
    add_losses(run, 60, 10)
    followed.not_before = 0.0
    assert followed.look()
    assert followed.not_before - time.monotonic() > 0.5 / SHARE


def test_a_run_that_is_moved_away_leaves_its_last_view(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=60)
    followed = Followed(run.path)
    first = followed.latest()
    run.path.rename(tmp_path / "elsewhere")
    followed.not_before = 0.0
    assert not followed.look()
    assert followed.latest() is first


def test_what_cannot_be_shown_is_refused_by_name(tmp_path: Path, run: Run) -> None:
    with pytest.raises(RunNotFound, match="is not a run folder"):
        Live([tmp_path])
    with pytest.raises(BadArgument, match="`--port` must lie between 0 and 65535, got 70000"):
        Live([run.path], port=70_000)
    taken = Live([run.path])
    try:
        with pytest.raises(
            BadArgument, match=r"cannot be used: .* Leave it out to use a free port"
        ):
            Live([run.path], port=taken.port)
    finally:
        taken.socket.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_page_without_standard_streams_ends_with_a_signal(
    run: Run, number: signal.Signals
) -> None:
    """As a shell's `>&- 2>&- <&-` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"exec {sys.executable} -m gradiometer show --live {shlex.quote(str(run.path))} --no-open --port {port}"
    with subprocess.Popen(f"{command} >&- 2>&- <&-", shell=True) as shown:
        try:
            until(lambda: answers(port))
        finally:
            shown.send_signal(number)
            shown.wait(timeout=20)
    assert shown.returncode in (0, 128 + number)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_the_command_prints_an_address_that_answers_and_ends_with_ctrl_c(run: Run) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "gradiometer",
        "show",
        "--live",
        str(run.path),
        "--no-open",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as shown:
        try:
            assert shown.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", shown.stdout.readline())
            assert address is not None
            assert asked(address[0]).status == 200
        finally:
            shown.send_signal(signal.SIGINT)
            _, told = shown.communicate(timeout=20)
    assert shown.returncode == 0
    assert told == "Press Ctrl-C to end.\n"


def test_ctrl_c_before_the_first_page_is_the_normal_end_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The port answers before the pages are served."""
    taken: list[socket.socket] = []
    create = socket.create_server

    def kept(address: tuple[str, int]) -> socket.socket:
        taken.append(create(address))
        return taken[0]

    def stopped(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(socket, "create_server", kept)
    monkeypatch.setattr("click.echo", stopped)  # the address is about to be printed
    assert called(capsys, "show", "--live", str(run.path), "--no-open")[0] == 0
    taken[0].close()
