"""Jobs in processes: the same bits as here, killed processes, Ctrl-C, and programs of
every kind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradiometer import Interrupted, UserCodeFailed
from gradiometer.jobs import Job, Pool
from gradiometer.jobs.pool import Here
from gradiometer.jobs.processes import Processes
from trainings import alive, same, trained, trainings, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2) as made:
        yield made


def test_the_numbers_are_the_same_here_and_in_processes(pool: Pool) -> None:
    jobs, data = trainings()
    for one, other in zip(
        Here().results(jobs, shared=data), pool.results(jobs, shared=data), strict=True
    ):
        assert same(one, other)


def test_an_error_names_the_line_of_the_script_here_and_in_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from gradiometer.jobs import Job; from gradiometer.jobs.pool import Here; from "
        "gradiometer.jobs.processes import Processes\ndef work():\n    raise "
        "ValueError('wrong')\nwith Processes(1) as processes:\n    for pool in (Here(), "
        "processes):\n        print(*(repr(outcome.exception) for outcome in pool.run([Job('a', "
        "work)])))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (
        ended.stdout
        == 2 * "UserCodeFailed('your code raised ValueError: wrong, at script.py:3.')\n"
    )


def test_jobs_take_over_torchs_settings_and_the_working_folder(
    pool: Pool, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").write_text("1 2")
    torch.set_default_dtype(torch.float64)
    try:
        jobs = [
            Job("dtype", lambda: torch.ones(1).dtype),
            Job("read", lambda: Path("numbers.txt").read_text()),
        ]
        assert pool.results(jobs) == [torch.float64, "1 2"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert pool.results([Job("dtype", lambda: torch.ones(1).dtype)]) == [torch.float32]


def test_a_process_has_one_thread_and_a_job_of_more_cpus_runs_alone(pool: Pool) -> None:
    def span() -> tuple[float, float, int, str]:
        began = time.monotonic()
        time.sleep(0.2)
        return began, time.monotonic(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]

    jobs = [
        Job("one", span),
        Job("both", span, cpus=2.0),
        Job("more", span, cpus=7.0),
        Job("last", span),
    ]
    spans = pool.results(jobs)
    assert [threads for _, _, threads, _ in spans] == [1, 2, 7, 1] and spans[0][3] == "1"
    ordered = sorted(spans)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ordered))


def test_the_job_of_a_killed_process_runs_again_in_another_one_with_the_same_bits(
    tmp_path: Path, caplog
) -> None:
    def work(data: tuple[Tensor, Tensor], number: int) -> tuple[int, dict[str, Tensor]]:
        (tmp_path / f"{number} {os.getpid()}").touch()
        if number == 2 and len(list(tmp_path.glob("2 *"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, trained(data, 64)

    _, data = trainings()
    with Processes(2) as pool:
        outcomes = {
            o.name: o
            for o in pool.run([Job(f"{k}", work, (k,), seed=7) for k in range(5)], shared=data)
        }
    expected = Here().results([Job("here", trained, (64,), seed=7)], shared=data)[0]
    assert all(
        outcome.error is None and same(outcome.result[1], expected) for outcome in outcomes.values()
    )
    tries = [len(list(tmp_path.glob(f"{k} *"))) for k in range(5)]
    assert tries == [1, 1, 2, 1, 1]  # the loss of a process costs no other job
    assert (
        "the process of the job '2' ended with SIGKILL(-9), perhaps because memory ran out"
        in caplog.text
    )
    assert "the job starts again in another one" in caplog.text


def test_a_job_that_kills_every_process_fails_alone(pool: Pool, tmp_path: Path) -> None:
    def work(number: int) -> int:
        if number == 2:
            (tmp_path / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return number

    outcomes = {o.name: o for o in pool.run([Job(f"{k}", work, (k,)) for k in range(8)])}
    assert sorted(o.result for o in outcomes.values() if o.error is None) == [0, 1, 3, 4, 5, 6, 7]
    assert "the process of the job '2' ended with SIGKILL(-9), perhaps because" in str(
        outcomes["2"].error
    )
    with pytest.raises(Interrupted, match="memory ran out; the job is not finished"):
        outcomes["2"].value()
    assert len(list(tmp_path.iterdir())) == 3
    assert pool.results([Job("after", work, (9,))]) == [9]


def test_a_process_killed_between_two_submissions_is_replaced(pool: Pool) -> None:
    ids = pool.results([Job(f"{k}", os.getpid) for k in range(4)])
    for number in set(ids):
        os.kill(number, signal.SIGKILL)
    time.sleep(0.2)
    assert set(pool.results([Job(f"{k}", os.getpid) for k in range(4)])).isdisjoint(ids)


def test_processes_stay_for_the_next_submission(pool: Pool) -> None:
    ids = [set(pool.results([Job(f"{k}", os.getpid) for k in range(4)])) for _ in range(3)]
    assert len(set.union(*ids)) <= 2


def test_one_failed_job_is_named_while_the_others_go_on(pool: Pool) -> None:
    class Odd(Exception):
        def __init__(self, first: int, second: int) -> None:
            super().__init__(f"{first} and {second}")

    def work(number: int) -> int:
        if number == 1:
            raise Odd(3, 4)
        return 1 // (number - 2)

    outcomes = {o.name: o for o in pool.run([Job(f"{k}", work, (k,)) for k in range(5)])}
    assert {name for name, o in outcomes.items() if o.error} == {"1", "2"}
    assert isinstance(outcomes["2"].exception, UserCodeFailed) and "ZeroDivisionError" in str(
        outcomes["2"].exception
    )
    assert "in work" in str(outcomes["2"].error) and "Odd: 3 and 4" in str(outcomes["1"].error)
    with pytest.raises(UserCodeFailed, match="your code raised Odd: 3 and 4"):
        outcomes["1"].value()


def test_a_result_that_cannot_be_sent_is_a_failure_with_the_way_out(pool: Pool) -> None:
    bad, good = sorted(
        pool.run([Job("bad", lambda: (k for k in ())), Job("good", int)]), key=lambda o: o.name
    )
    assert good.result == 0
    assert "the result of the job 'bad' (generator) cannot be sent back: TypeError" in str(
        bad.error
    )
    assert "return numbers, arrays, tensors, or containers of them" in str(bad.error)


def test_tensors_that_are_shared_are_there_once_and_cannot_be_changed_for_others(
    pool: Pool,
) -> None:
    def work(shared: dict[str, Tensor], number: int) -> float:
        if number == 0:
            shared["numbers"].fill_(7)
        time.sleep(0.1)
        return shared["numbers"][0].item(), bool(
            shared["numbers"].data_ptr() == shared["view"].data_ptr()
        )

    numbers = torch.zeros(1000)
    first, second = pool.results(
        [Job(f"{k}", work, (k,)) for k in (0, 1)], shared={"numbers": numbers, "view": numbers}
    )
    assert first == (7.0, True) and second == (0.0, True) and numbers.sum() == 0


def test_what_jobs_print_does_not_mix_with_the_programs_output(pool: Pool, capfd) -> None:
    with Processes(1) as fresh:  # which takes over the captured standard error
        fresh.results([Job("prints", print, ("printed by a job",))])
    printed = capfd.readouterr()
    assert printed.out == "" and "printed by a job" in printed.err


def test_pools_in_jobs_start_no_processes(pool: Pool) -> None:
    def inner() -> list[int]:
        with Processes(4) as inside:
            return inside.results([Job(f"{k}", os.getpid) for k in range(4)])

    found = pool.results([Job(f"{k}", inner) for k in range(2)])
    assert all(len(set(ids)) == 1 for ids in found)


def test_jobs_stop_if_nobody_waits_for_them(pool: Pool, tmp_path: Path) -> None:
    def slow(number: int) -> int:
        (tmp_path / f"{number}").touch()
        if number:
            time.sleep(60)
        return os.getpid()

    began = time.monotonic()
    outcomes = pool.run([Job(f"{k}", slow, (k,)) for k in range(9)])
    assert next(outcomes).error is None
    outcomes.close()
    assert time.monotonic() - began < 30 and len(list(tmp_path.iterdir())) <= 3


PROGRAM = """
import dataclasses, os, sys
from pathlib import Path
import torch
from gradiometer.jobs import Job
from gradiometer.jobs.processes import Processes

print("starts")  # would be printed again by a process that runs this script

@dataclasses.dataclass
class Pair:
    first: int
    second: float

weights = torch.ones(3)

def work(k):
    return Pair(k, helper(k))

def helper(k):
    return (k * weights).sum().item()

with Processes(2) as pool:
    found = pool.results([Job(f"{k}", work, (k,)) for k in range(3)])
print(found == [Pair(k, 3.0 * k) for k in range(3)])
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin"])
def test_a_program_without_a_guard_works(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    command = {"script": [str(script)], "-c": ["-c", PROGRAM], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *command], input=PROGRAM, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("starts\nTrue\n", "", 0)


WAITING = """
import os, sys, time
from gradiometer.jobs import Job
from gradiometer.jobs.processes import Processes
import torch

folder = sys.argv[1]
def work(shared, k):
    open(f"{folder}/{os.getpid()}", "w").close()
    os.system("sleep 61 & echo $! > " + f"{folder}/child-{os.getpid()}")
    time.sleep(60)

pool = Processes(2)
list(pool.run([Job(f"{k}", work, (k,)) for k in range(4)], shared=torch.ones(3)))
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_file_is_left_if_the_program_is_stopped(
    kind: signal.Signals, tmp_path: Path
) -> None:
    notes, temporary = tmp_path / "notes", tmp_path / "temporary"
    notes.mkdir()
    temporary.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(notes)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        until(
            lambda: (
                len(list(notes.glob("child-*"))) == 2
                and all(p.read_text() for p in notes.glob("child-*"))
            )
        )
        ids = [int(p.name) for p in notes.iterdir() if p.name.isdecimal()]
        ids += [int(p.read_text()) for p in notes.glob("child-*")]
        assert len(ids) == 4 and all(map(alive, ids)) and list(temporary.iterdir()) != []
        os.killpg(program.pid, kind)  # as Ctrl-C in a terminal: the whole group in the foreground
        _, told = program.communicate(timeout=30)
        until(lambda: not any(map(alive, ids)) and list(temporary.iterdir()) == [])
    finally:
        program.kill()
    assert program.returncode == -kind or kind is signal.SIGINT
    assert told.count("KeyboardInterrupt") == (kind is signal.SIGINT)


def test_a_closed_pool_has_no_processes_and_starts_new_ones() -> None:
    with Processes(1) as closed:
        [first] = closed.results([Job("id", os.getpid)])
    assert not alive(first)
    with closed:
        assert closed.results([Job("id", os.getpid)]) != [first]


def test_a_process_that_cannot_start_is_an_error_and_not_an_endless_loop(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        Processes(2) as broken,
        pytest.raises(Exception, match="a process of the pool could not start: "),
    ):
        list(broken.run([Job("a", int), Job("b", int)]))


def test_outcomes_come_as_they_finish(pool: Pool, tmp_path: Path) -> None:
    def first() -> None:
        until((tmp_path / "second").exists)
        time.sleep(0.1)

    outcomes = list(pool.run([Job("first", first), Job("second", (tmp_path / "second").touch)]))
    assert [(outcome.name, outcome.error) for outcome in outcomes] == [
        ("second", None),
        ("first", None),
    ]


def test_processes_that_were_started_have_their_modules_when_the_first_job_comes() -> None:
    def slow() -> tuple[int, bool]:
        known = "gradiometer.problems" in sys.modules
        time.sleep(0.5)
        return os.getpid(), known

    with Processes(2) as pool:
        pool.start(["gradiometer.problems"])
        until(lambda: all(worker.ready.done() for worker in pool._idle))
        found = pool.results([Job(name, slow) for name in "ab"])
    assert len({process for process, _ in found}) == 2 and all(known for _, known in found)
    with (
        Processes(1) as pool,
        pytest.raises(Interrupted, match=r"could not start: .*gradiometer\.nothing"),
    ):
        pool.start(["gradiometer.nothing"])
        pool.results([Job("a", os.getpid)])


ENDS = """
import time
from gradiometer.jobs import Job
from gradiometer.jobs.processes import Processes

pool = Processes(1)
outcomes = pool.run([Job(f"{k}", lambda k: time.sleep(60 * k), (k,)) for k in range(2)])
next(outcomes)
raise SystemExit(7)
"""


def test_a_program_that_ends_does_not_wait_for_jobs() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "") and time.monotonic() - began < 50
