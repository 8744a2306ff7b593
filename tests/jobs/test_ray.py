"""Jobs on a local cluster of Ray with two processors: the same bits as here, lost processes, and
what is shared."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from gradiometer import BadArgument, Unsupported, UserCodeFailed
from gradiometer.jobs import Job, Pool, pool_of
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Here
from trainings import alive, same, trainings, until

ray: Any = pytest.importorskip("ray")
on_ray: Any = pytest.importorskip("gradiometer.jobs.on_ray")
Ray: Any = on_ray.Ray


@pytest.fixture(scope="module")
def pool() -> Iterator[Ray]:
    with Ray(count=2) as made:
        yield made
    assert not ray.is_initialized()


@pytest.mark.slow
def test_the_numbers_are_the_same_here_and_on_ray(pool: Pool) -> None:
    jobs, data = trainings()
    for one, other in zip(
        Here().results(jobs, shared=data), pool.results(jobs, shared=data), strict=True
    ):
        assert same(one, other)


@pytest.mark.slow
def test_one_failed_job_and_one_lost_process_cost_these_jobs_only(pool: Pool) -> None:
    def work(number: int) -> int:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 6 // (number - 1)

    outcomes = {o.name: o for o in pool.run([Job(f"{k}", work, (k,)) for k in range(6)])}
    assert [outcomes[f"{k}"].result for k in (0, 3, 4, 5)] == [-6, 3, 2, 1]
    assert isinstance(outcomes["1"].exception, UserCodeFailed) and "in work" in str(
        outcomes["1"].error
    )
    assert "the process of the job '2' was lost" in str(outcomes["2"].error)  # three times


@pytest.mark.slow
def test_what_is_shared_is_read_once_in_each_process_and_settings_are_taken_over(
    pool: Pool,
) -> None:
    class Counted:
        def __setstate__(self, state: dict[str, Any]) -> None:
            os.environ["READ"] = str(int(os.environ.get("READ", "0")) + 1)

        def __getstate__(self) -> dict[str, Any]:
            return {"something": 1}

    def work(shared: Counted) -> tuple[int, int, torch.dtype, int]:
        return (
            os.getpid(),
            int(os.environ["READ"]),
            torch.get_default_dtype(),
            torch.get_num_threads(),
        )

    torch.set_default_dtype(torch.float64)
    try:
        found = pool.results([Job(f"{k}", work) for k in range(8)], shared=Counted())
    finally:
        torch.set_default_dtype(torch.float32)
    assert {(reads, dtype, threads) for _, reads, dtype, threads in found} == {
        (1, torch.float64, 1)
    }
    assert pool.results([Job("dtype", torch.get_default_dtype)]) == [torch.float32]


@pytest.mark.slow
def test_pools_in_jobs_start_nothing(pool: Pool) -> None:
    def inner(inside: Pool) -> bool:
        return inside.results([Job(f"{k}", os.getpid) for k in range(3)]) == [os.getpid()] * 3

    assert pool.results(
        [Job("ray", inner, (pool,)), Job("processes", inner, (pool_of("processes:3"),))]
    ) == [
        True,
        True,
    ]


@pytest.mark.slow
def test_jobs_stop_if_nobody_waits_for_them(pool: Pool, tmp_path: Path) -> None:
    def slow(number: int) -> None:
        (tmp_path / f"{os.getpid()}").touch()
        if number:
            time.sleep(60)

    outcomes = pool.run([Job(f"{k}", slow, (k,)) for k in range(3)])
    next(outcomes)
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    outcomes.close()
    until(lambda: sum(alive(int(path.name)) for path in tmp_path.iterdir()) <= 1)


@pytest.mark.slow
def test_a_job_that_no_machine_can_run_is_told(pool: Pool, caplog) -> None:
    outcomes = pool.run([Job("small", int), Job("large", int, cpus=64.0)])
    assert next(outcomes).name == "small"
    outcomes.close()
    assert (
        "The job 'large' asks for 64 cpus and 0 gpus, which no machine of the cluster has now"
        in caplog.text
    )


@pytest.mark.slow
def test_a_cluster_that_the_program_has_started_is_used_and_left_running(pool: Pool) -> None:
    pool.results([Job("connects", int)])
    with Ray() as second:
        assert second.results([Job("a", int)]) == [0]
    assert ray.is_initialized()


@pytest.mark.slow
def test_a_result_that_cannot_be_sent_back_is_a_sentence_and_the_others_go_on(pool: Pool) -> None:
    jobs = [
        Job("endless", lambda: (k for k in range(3))),
        Job("lock", threading.Lock),
        Job("good", lambda: 7),
    ]
    outcomes = {outcome.name: outcome for outcome in pool.run(jobs)}
    for name, kind in (("endless", "generator"), ("lock", "lock")):
        assert f"the result of the job {name!r} ({kind}) cannot be sent back" in str(
            outcomes[name].error
        )
        assert str(outcomes[name].error).endswith(
            "return numbers, arrays, tensors, or containers of them."
        )
    assert outcomes["good"].result == 7


@pytest.mark.slow
def test_a_cluster_without_a_free_processor_is_told_and_waited_for(pool: Pool, caplog: Any) -> None:
    pool.results([Job("connects", int)])
    assert caplog.text == ""
    others = [ray.remote(num_cpus=1)(lambda: time.sleep(3)).remote() for _ in range(2)]
    until(lambda: ray.available_resources().get("CPU", 0) == 0)
    assert pool.results([Job("waits", int)]) == [0]
    assert (
        "The cluster of Ray has no free processor. The jobs wait until other programs"
        in caplog.text
    )
    ray.get(others)


ENDS = """
import time
from gradiometer.jobs import Job
from gradiometer.jobs.on_ray import Ray

with Ray(count=1) as pool:
    for outcome in pool.run([Job(f"{k}", lambda k: time.sleep(60 * k), (k,)) for k in range(3)]):
        print(outcome.error, flush=True)
with Ray(count=1) as pool:
    print(pool.results([Job("after", lambda: 8)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_cluster_that_ends_costs_the_jobs_that_are_left(part: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDS], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None and program.stdout.readline() == "None\n"
        os.kill(child(program.pid, part), signal.SIGKILL)
        said = program.stdout.read()
    assert program.returncode == 0
    lost = re.findall(
        r"the process of the job '(\d)' was lost \(.*\); the job is not finished\.", said
    )
    assert sorted(lost) == ["1", "2"] and "the cluster of Ray has ended" in said
    assert said.endswith("[8]\n")


def child(parent: int, part: str) -> int:
    """The number of the process of this program that runs a part of Ray."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = (path / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if own and (path / "cmdline").read_bytes().split(b"\0")[0].endswith(
                f"/{part}".encode()
            ):
                return int(path.name)
    raise AssertionError(part)


OWN = """
import os
import torch
from torch import nn
from gradiometer import supervised
from gradiometer.loop import Loop, fork

MAIN = os.getpid()

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 1)
        self.act = lambda values: values.tanh()

    def forward(self, inputs):
        if os.getpid() != MAIN:
            print("a worker's line")
        return self.inner(self.act(inputs))

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, place):
        return INPUTS[place], INPUTS[place].sum(0, keepdim=True)

torch.manual_seed(0)
INPUTS, model = torch.randn(64, 4), Network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(Rows(), batch_size=8, shuffle=True)
loss = supervised(nn.MSELoss(reduction="none"))

def one_value(model, batch):
    return loss(model, batch).mean(1)

loop = Loop(model, optimizer, loss=one_value, batches=loader)
asked = {"alternatives": "rate 2x", "horizon": "4 updates", "replicates": 2}
there = fork(loop, pool="ray", **asked)
here = fork(loop, **asked)
ends = [[one.readouts["train_loss"].mean for one in found.results] for found in (here, there)]
print("same" if ends[0] == ends[1] else ends)
"""


@pytest.mark.slow
def test_a_fork_in_a_persons_own_script_has_the_same_numbers_on_ray(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(OWN, encoding="utf-8")
    program = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout == "same\n"


WAITING = """
import os, sys, time
from gradiometer.jobs import Job
from gradiometer.jobs.on_ray import Ray

def work(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(60)

with Ray(count=1) as pool:
    list(pool.run([Job("waits", work, (sys.argv[1],))]))
"""


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path)]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(lambda: list(tmp_path.iterdir()))
        [number] = [int(path.name) for path in tmp_path.iterdir()]
        raylet = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        os.killpg(program.pid, signal.SIGINT)
        said, told = program.communicate(timeout=60)
        until(lambda: not alive(number) and not alive(raylet))
    finally:
        program.kill()
    assert said == "" and told.count("KeyboardInterrupt") == 1


# Ray notes the newest cluster of a machine in its folder of temporary files, and `Ray()` of a test
# beside this one would connect to it. The folder's name is short: sockets lie below it.
CLUSTER = """
import os, shutil, socket, sys, tempfile
folder = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(dir="/tmp")
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print(f"{socket.gethostname()}:{cluster.address.rpartition(':')[2]}", flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
shutil.rmtree(folder, ignore_errors=True)
"""

BRANCHES = """
import sys, time
from pathlib import Path
import torch
from gradiometer.jobs import Job
from gradiometer.jobs.on_ray import Ray
from trainings import trainings

def work(data, folder, job):
    (Path(folder) / str(time.time_ns())).touch()
    time.sleep(8)
    return job.work(data, *job.arguments)

jobs, data = trainings()
with Ray(sys.argv[1]) as pool:
    again = [Job(job.name, work, (sys.argv[2], job), seed=job.seed) for job in jobs]
    found = {outcome.name: outcome for outcome in pool.run(again, shared=data)}
    torch.save({name: outcome.value() for name, outcome in found.items()}, sys.argv[3])
    assert pool.results([Job("once more", int)]) == [0]
print("the result")
"""


@pytest.mark.slow
def test_the_branches_of_a_lost_machine_run_again_on_the_others_with_the_same_bits(
    tmp_path: Path,
) -> None:
    """Through an address by name, which works for every submission; nothing of Ray's is on standard
    output."""
    begun = tmp_path / "begun"
    begun.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None and cluster.stdout is not None
        address = next(line for line in cluster.stdout if re.fullmatch(r"\S+:\d+\n", line)).strip()
        program = subprocess.Popen(
            [sys.executable, "-c", BRANCHES, address, str(begun), str(tmp_path / "found")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")},
        )
        until(lambda: len(list(begun.iterdir())) == 2)
        print("remove", file=cluster.stdin, flush=True)
        printed, logged = program.communicate(timeout=120)
        print("end", file=cluster.stdin, flush=True)
    assert (program.returncode, printed) == (0, "the result\n"), logged
    assert "was lost" in logged and "the job starts again in another one" in logged
    assert len(list(begun.iterdir())) == 4
    jobs, data = trainings()
    found = torch.load(tmp_path / "found")
    assert all(
        same(found[job.name], here)
        for job, here in zip(jobs, Here().results(jobs, shared=data), strict=True)
    )


def test_a_cluster_that_is_none_is_refused(monkeypatch) -> None:
    with pytest.raises(BadArgument, match="`count` is for a cluster that is started here"):
        Ray("auto", count=2)
    with pytest.raises(BadArgument, match="`count` must be at least 1, got 0"):
        Ray(count=0)
    with pytest.raises(
        BadArgument, match="`address` must be auto, HOST:PORT or ray://HOST:PORT, got '2'"
    ):
        pool_of("ray:2")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "gradiometer.jobs.on_ray")
    with pytest.raises(
        Unsupported,
        match=r"needs the package ray: install it with pip install 'gradiometer\[ray\]'",
    ):
        pool_of("ray")


def test_a_signal_while_a_cluster_starts_is_an_interrupt(monkeypatch) -> None:
    """Ray ends the program by its own exit code until it is connected."""

    def signalled(*_: Any, **__: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", signalled)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        Ray(count=1).size  # noqa: B018
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_that_starts_too_slowly_is_refused_with_its_reason(monkeypatch) -> None:
    """Ray raises an error without a type where the machine is too busy."""

    def slow(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        Unsupported,
        match=r"^no cluster of Ray could be started: Exception: The current node timed out during "
        r"startup\.$",
    ):
        Ray(count=1).size  # noqa: B018


@pytest.mark.slow
def test_another_cluster_than_the_connected_one_is_refused(pool: Pool) -> None:
    pool.results([Job("connects", int)])
    for other in (Ray("10.0.0.1:6379"), Ray(count=1)):
        with pytest.raises(
            BadArgument,
            match=r"`pool` Ray\(.* is another cluster than the one this program is connected",
        ):
            other.results([Job("a", int)])


def test_from_a_client_the_machines_of_a_cluster_need_not_be_within_reach(monkeypatch) -> None:
    monkeypatch.setattr(on_ray, "_answers", lambda *_: False)
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    assert on_ray.is_there()


def test_an_address_where_nothing_listens_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://[::1]:9"):
        with pytest.raises(
            BadArgument, match=f"`address` '{re.escape(address)}' cannot be reached"
        ):
            Ray(address).check()
        with pytest.raises(BadArgument, match="cannot be reached"), opened(f"ray:{address}"):
            pass


def test_a_pool_of_ray_is_made_from_its_text() -> None:
    assert repr(pool_of("ray://a:1")) == repr(pool_of("ray:ray://a:1"))
    assert [repr(pool_of(text)) for text in ("ray", "ray:auto", "ray:10.0.0.1:6379")] == [
        "Ray()",
        "Ray('auto')",
        "Ray('10.0.0.1:6379')",
    ]
    with pytest.raises(BadArgument, match="got 'ray:'"):
        pool_of("ray:")
