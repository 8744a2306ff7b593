"""Processes of one training, started together and waited for."""

import os
import socket
import subprocess


def start(count: int, *command: str) -> list[subprocess.Popen[str]]:
    """The command on so many ranks, as torchrun starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(
    processes: list[subprocess.Popen[str]], timeout: float = 120
) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each."""
    said = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, *out) for process, out in zip(processes, said, strict=True)]


def run_all(count: int, *command: str, timeout: float = 120) -> list[tuple[int, str, str]]:
    results = ended(start(count, *command), timeout)
    assert [code for code, _, _ in results] == [0] * count, results
    return results
