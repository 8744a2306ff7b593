"""Jobs in this process: outcomes, seeds, what is shared, refusals, and the ledger of
finished jobs."""

import functools
import json
import os
import random
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from gradiometer import BadArgument, RunDamaged, UserCodeFailed
from gradiometer.jobs import Job, pool_of
from gradiometer.jobs.job import Outcome, pack, perform_task, settings_here, unpack
from gradiometer.jobs.pool import Here, Ledger
from gradiometer.jobs.processes import Processes


def numbers() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002


def half(number: int) -> float:
    return number / 2


def halves(count: int) -> list[Job]:
    return [Job(f"half of {k}", half, (k,)) for k in range(count)]


def test_one_failed_job_is_named_with_its_traceback_while_the_others_go_on() -> None:
    jobs = [Job("good", half, (4,)), Job("bad", half, ("four",)), Job("also good", half, (6,))]
    good, bad, also = Here().run(jobs)
    assert (good.result, also.result) == (2.0, 3.0) and good.error is None and good.seconds > 0
    assert bad.name == "bad" and bad.result is None and "in half" in str(bad.error)
    assert "unsupported operand" in str(bad.error) and "jobs/job.py" not in str(bad.error)
    with pytest.raises(UserCodeFailed, match="TypeError: unsupported operand") as raised:
        bad.value()
    assert "In the job 'bad'" in raised.value.__notes__[0]


def test_a_job_that_leaves_the_program_fails_alone() -> None:
    left, good = Here().run([Job("left", exit, (3,)), Job("good", half, (2,))])
    assert "SystemExit" in str(left.error) and good.result == 1.0
    with pytest.raises(
        UserCodeFailed, match="the job 'left' raised SystemExit: 3, which ends a program"
    ):
        left.value()


def test_ctrl_c_in_a_job_stops_the_program() -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Here().run([Job("stopped", stopped)]))


def test_random_numbers_of_a_job_come_from_its_seed_and_leave_the_callers_as_they_were() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2).tolist()
    torch.manual_seed(1)
    first = torch.rand(1).item()
    one, same, other = Here().results(
        [Job(f"{k}", numbers, seed=seed) for k, seed in enumerate((5, 5, 6))]
    )
    assert one == same and set(one).isdisjoint(other)
    assert [first, torch.rand(1).item()] == expected


def test_threads_and_gradients_are_the_same_everywhere_and_restored() -> None:
    threads = torch.get_num_threads()

    def settings() -> tuple[int, bool]:
        return torch.get_num_threads(), (torch.ones(1, requires_grad=True) * 2).requires_grad

    with torch.no_grad():
        found = Here().results([Job("one", settings), Job("two", settings, cpus=2.5)])
        assert not torch.is_grad_enabled()
    assert found == [(1, True), (2, True)] and torch.get_num_threads() == threads


def test_what_is_shared_is_the_first_argument_and_progress_is_counted() -> None:
    seen: list[tuple[str, int, int]] = []
    jobs = [
        Job("b", lambda shared, k: shared[k], ("b",)),
        Job("a", lambda shared, k: shared[k], ("a",)),
    ]
    found = Here().run(
        jobs,
        shared={"a": 1, "b": 2},
        progress=lambda o, done, total: seen.append((o.name, done, total)),
    )
    assert [outcome.result for outcome in found] == [2, 1] and seen == [("b", 1, 2), ("a", 2, 2)]


def test_jobs_start_when_their_outcomes_are_asked_for() -> None:
    ran: list[str] = []
    outcomes = Here().run([Job(name, ran.append, (name,)) for name in ("a", "b")])
    next(outcomes)
    assert ran == ["a"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "`name` of a job must be a text that is not empty, got ''"),
        ({"work": 3}, "`work` of the job 'a' must be a function, got int"),
        (
            {"arguments": [1]},
            r"`arguments` of the job 'a' must be a tuple, got list: write \(value,\)",
        ),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"cpus": float("nan")}, "`cpus` must be positive and finite, got nan"),
        ({"gpus": -1}, "`gpus` must be at least 0 and finite, got -1"),
    ],
)
def test_a_wrong_job_is_refused_by_name(given: dict[str, Any], message: str, monkeypatch) -> None:
    # the types of a user's program are not checked
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadArgument, match=message):
        Job(**{"name": "a", "work": half, **given})


def test_two_jobs_of_one_name_are_refused() -> None:
    with pytest.raises(BadArgument, match="`jobs` must have different names, got 'a' twice"):
        Here().run([Job("a", half, (1,)), Job("b", half, (1,)), Job("a", half, (2,))])


def test_a_job_that_cannot_be_sent_is_refused_before_a_process_starts() -> None:
    endless = (k for k in range(3))
    with pytest.raises(
        BadArgument,
        match=r"the job 'b', which cannot be sent to another process: TypeError: cannot .*generator",
    ):
        Processes(2).run([Job("a", half, (1,)), Job("b", max, (1, endless))])
    with pytest.raises(
        BadArgument, match=r"cannot pickle .* inside of the job, or use the pool \"here\""
    ):
        Processes(2).run([Job("a", lambda: list(endless))])
    with pytest.raises(
        BadArgument, match=r"`shared` \(generator\) cannot be sent to another process: TypeError"
    ):
        Processes(2).run([Job("a", half)], shared=endless)


def test_a_pool_inside_of_a_pool_starts_no_process(monkeypatch) -> None:
    monkeypatch.setenv("GRADIOMETER_IN_POOL", "1")
    with Processes(2) as pool:
        assert (
            pool.results([Job(f"{k}", lambda: __import__("os").getpid()) for k in range(2)])
            == [__import__("os").getpid()] * 2
        )


@pytest.mark.parametrize("text", ["here", "processes", "processes:3"])
def test_a_pool_is_made_from_its_text(text: str) -> None:
    made = pool_of(text)
    assert pool_of(made) is made
    assert (
        repr(made)
        == {"here": "Here()", "processes": "Processes()", "processes:3": "Processes(3)"}[text]
    )
    assert not isinstance(made, Processes) or made.count >= 1


@pytest.mark.parametrize(
    "text", ["proceses", "processes:", "processes:0", "processes:-1", "here:2", "", 3, None]
)
def test_a_pool_that_is_none_is_refused(text: Any, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadArgument, match="`--pool` must be here, processes") as refused:
        pool_of(text, "--pool")
    assert ("Did you mean 'processes'?" in str(refused.value)) == (text == "proceses")


def test_finished_jobs_are_in_the_ledger_and_not_run_again(tmp_path: Path) -> None:
    ledger, ran = Ledger(tmp_path / "jobs" / "finished.jsonl"), list[int]()

    def work(number: int) -> float:
        ran.append(number)
        return 1 / number

    jobs = [Job(f"1/{k}", work, (k,)) for k in (0, 1, 3)]
    first = {outcome.name: outcome for outcome in Here().run(jobs, ledger=ledger)}
    assert "ZeroDivisionError" in str(first["1/0"].error) and ran == [0, 1, 3]
    seen: list[int] = []
    again = list(Here().run(jobs, ledger=ledger, progress=lambda _, done, total: seen.append(done)))
    assert ran == [0, 1, 3, 0] and seen == [1, 2, 3]  # a failed job is run again
    assert again[:2] == [first["1/1"], first["1/3"]]


def test_an_outcome_is_on_the_disk_before_it_is_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    really = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(descriptor) or really(descriptor)
    )
    for number, _ in enumerate(
        Here().run(halves(3), ledger=Ledger(tmp_path / "finished.jsonl")), start=1
    ):
        assert len(synced) == number


def test_a_process_reads_what_jobs_share_once_and_has_its_settings_back() -> None:
    reads: list[str] = []
    settings = settings_here()

    def outcomes(name: str) -> list[Outcome]:
        shared = name, lambda: reads.append(name) or name
        parcels = [
            pack(Job(f"{k}", lambda shared, k: (shared, k, Processes(4).size), (k,)))
            for k in range(3)
        ]
        return [unpack(perform_task(settings, shared, parcel)) for parcel in parcels]

    assert [outcome.result for outcome in outcomes("first")] == [("first", k, 1) for k in range(3)]
    assert [outcome.result for outcome in outcomes("second")] == [
        ("second", k, 1) for k in range(3)
    ]
    assert reads == ["first", "second"] and settings_here() == settings


@pytest.mark.parametrize(
    ("cpus", "threads"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2), (3.5, 3), (1e300, 512)]
)
def test_a_job_has_no_more_threads_than_processors(cpus: float, threads: int) -> None:
    assert Job("a", half, (1,), cpus=cpus).threads == threads


def test_a_ledger_survives_a_torn_line_and_tells(tmp_path: Path) -> None:
    path = tmp_path / "finished.jsonl"
    list(Here().run(halves(2), ledger=Ledger(path)))
    with path.open("a") as file:
        file.write('{"name": "half of 2", "res')
    ledger = Ledger(path)
    found = list(Here().run(halves(3), ledger=ledger))
    assert [outcome.result for outcome in found] == [0.0, 0.5, 1.0]
    assert ledger.warnings == ("finished.jsonl:3: the last line is incomplete: skipped.",)
    assert list(Ledger(path).finished()) == ["half of 0", "half of 1", "half of 2"]


def test_a_result_is_the_same_fresh_and_from_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(
        tmp_path / "finished.jsonl",
        encode=lambda pair: {"pair": pair},
        decode=lambda kept: tuple(kept["pair"]),
    )
    job = Job("pair", lambda: (float("nan"), float("-inf"), 0.1 + 0.2, "text"))
    ([fresh], [again]) = (list(Here().run([job], ledger=ledger)) for _ in range(2))
    assert repr(fresh.result) == repr(again.result) == "(nan, -inf, 0.30000000000000004, 'text')"
    (line,) = ledger.path.read_text().splitlines()
    assert json.loads(line)["result"] == {"pair": ["nan", "-inf", 0.1 + 0.2, "text"]}


def test_a_tuple_is_a_list_fresh_as_from_the_ledger(tmp_path: Path) -> None:
    jobs, ledger = [Job("pair", lambda: (1, np.float64(0.1)))], Ledger(tmp_path / "finished.jsonl")
    assert [next(Here().run(jobs, ledger=ledger)).result for _ in range(2)] == [[1, 0.1], [1, 0.1]]


def test_results_are_in_the_order_of_the_jobs_and_a_failure_stops_the_others() -> None:
    ran: list[int] = []
    assert list(Here().in_order([Job(name, name.upper) for name in ("b", "a")])) == ["B", "A"]
    jobs = [
        Job("first", ran.append, (1,)),
        Job("bad", half, ("text",)),
        Job("last", ran.append, (3,)),
    ]
    with pytest.raises(UserCodeFailed, match="TypeError: unsupported operand"):
        Here().results(jobs)
    assert ran == [1]


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunDamaged, match=r"other.jsonl`, line 1, is not a finished job"):
        Ledger(tmp_path / "other.jsonl").finished()


def test_only_one_program_writes_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "finished.jsonl")
    outcomes = Here().run(halves(2), ledger=ledger)
    next(outcomes)
    with pytest.raises(
        BadArgument, match="is being written by another process: only one process can write it"
    ):
        list(Here().run(halves(3), ledger=Ledger(ledger.path)))
    outcomes.close()
    assert len(list(Here().run(halves(3), ledger=Ledger(ledger.path)))) == 3


def test_a_partial_or_a_method_is_a_function() -> None:
    jobs = [Job("partial", functools.partial(half, 4)), Job("method", "ab".upper)]
    assert Here().results(jobs) == [2.0, "AB"] and Outcome("x", 3).value() == 3
