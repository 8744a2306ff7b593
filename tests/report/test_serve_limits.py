"""The live page against clients that are slow, many or wrong: refused in a sentence, and never an
error of the server."""

import logging
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from gradiometer.report import live as serving
from gradiometer.report.live import Live
from report_run import run_in

VIEWERS = 50


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    patch = pytest.MonkeyPatch()
    patch.setattr(serving, "MOST_LISTENERS", VIEWERS)
    patch.setattr(serving, "SECONDS", 0.4)
    served = Live([run_in(tmp_path_factory.mktemp("runs"), steps=60).path])
    thread = threading.Thread(target=served.serve)
    thread.start()
    yield served
    served.stop()
    thread.join(10)
    patch.undo()


def raw(live: Live, request: bytes) -> bytes:
    """All that the server answers to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def request(live: Live, target: str, *more: str, host: str = "") -> bytes:
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {host or f'127.0.0.1:{live.port}'}",
        "Connection: close",
        *more,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("odd"), OSError(5, "input/output error")]
)
def test_a_run_that_cannot_be_drawn_does_not_end_the_updates(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    (followed,) = live.followed

    def fails() -> bool:
        raise error

    with caplog.at_level(logging.WARNING, "gradiometer"):
        monkeypatch.setattr(followed, "look", fails)
        assert not serving._look_again(followed)
    assert (
        caplog.messages[-1].startswith(f"{followed.run.name}: ")
        and len(caplog.messages[-1].splitlines()) == 1
    )


@pytest.mark.parametrize(
    "target", ["*", "/", "//", "http://elsewhere/", "/%ff%00/", "/%2e%2e/", "/" + "a" * 5000]
)
def test_a_target_without_the_token_is_refused(live: Live, target: str) -> None:
    assert re.match(rb"HTTP/1.1 (403|400|404) ", raw(live, request(live, target)))


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1", "1e3", "x", "%d9%a0", "00", " 0"])
def test_a_run_number_that_is_none_is_not_found(live: Live, number: str) -> None:
    answer = raw(live, request(live, f"/{live.token}/run/{number.replace(' ', '%20')}/"))
    assert answer.startswith(b"HTTP/1.1 404") and answer.endswith(b"There is no such run.")


def test_the_guard_comes_before_the_method(live: Live) -> None:
    for method in ("OPTIONS", "TRACE", "FOO"):
        text = request(live, "*", host="elsewhere").replace(b"GET", method.encode(), 1)
        assert raw(live, text).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("half", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_half_sent_request_is_closed_in_time(live: Live, half: bytes) -> None:
    began = time.monotonic()
    assert raw(live, half) == b"" and 0.3 < time.monotonic() - began < 5


def test_more_bytes_do_not_extend_the_time(live: Live) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            while time.monotonic() - began < 10:
                connection.sendall(b"X")
                time.sleep(0.05)
    assert time.monotonic() - began < 5


def test_a_body_that_never_comes_is_not_waited_for(live: Live) -> None:
    text = request(live, "/", "Content-Length: 100").replace(b"Connection: close\r\n", b"")
    assert raw(live, text).startswith(b"HTTP/1.1 403")


def test_three_hundred_half_sent_requests_deny_nobody(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SECONDS", 60.0)
    with ExitStack() as stack:
        for _ in range(300):
            half = stack.enter_context(
                socket.create_connection(("127.0.0.1", live.port), timeout=20)
            )
            half.sendall(b"GET / HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        with urllib.request.urlopen(live.address, timeout=20) as page:
            assert page.status == 200
        assert time.monotonic() - began < 5


def test_a_page_that_cannot_be_drawn_is_a_sentence(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise KeyError("step")

    monkeypatch.setattr(live.followed[0], "latest", fails)
    for target in ("", "update"):
        answer = raw(live, request(live, f"/{live.token}/run/0/{target}"))
        assert answer.startswith(b"HTTP/1.1 503") and answer.endswith(b"KeyError: 'step'.")


def test_fifty_viewers_are_served_and_the_next_one_gets_a_sentence(live: Live) -> None:
    address = f"/{live.token}/run/0/"
    with ExitStack() as stack:
        for _ in range(VIEWERS):
            viewer = HTTPConnection("127.0.0.1", live.port, timeout=20)
            stack.callback(viewer.close)
            viewer.request("GET", f"{address}events")
            assert viewer.getresponse().status == 200
        refused = raw(live, request(live, f"{address}events"))
        assert (
            refused.startswith(b"HTTP/1.1 503")
            and b"50 pages are open already: close one" in refused
        )
        with urllib.request.urlopen(live.address, timeout=20) as page:
            assert page.status == 200
    deadline = time.monotonic() + 20
    while raw_status(live, f"{address}events") == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert raw_status(live, f"{address}events") == 200


def raw_status(live: Live, target: str) -> int:
    viewer = HTTPConnection("127.0.0.1", live.port, timeout=20)
    try:
        viewer.request("GET", target)
        return viewer.getresponse().status
    finally:
        viewer.close()


def test_a_run_that_was_deleted_is_a_sentence(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=10)
    served = Live([run.path])
    run.readings_path().unlink()
    run.readings_path().mkdir()
    thread = threading.Thread(target=served.serve)
    thread.start()
    answer = raw(served, request(served, f"/{served.token}/run/0/"))
    served.stop()
    thread.join(10)
    assert answer.startswith(b"HTTP/1.1 503") and b"cannot be read: is a directory" in answer
